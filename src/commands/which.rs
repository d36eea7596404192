//! Which cluster a command is about.

use std::path::PathBuf;

use crate::error::Failure;
use crate::supervisor::layout::Layout;
use crate::{commands, values};

/// Flags that name it.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Data directory of a cluster that `cairn up` runs
    #[arg(long, global = true, value_name = "DIR", env = "CAIRN_DATA", hide_env_values = true,
          conflicts_with = "master", default_value_os_t = commands::default_data())]
    pub data: PathBuf,
    /// The masters [default: those of the cluster in --data]
    #[arg(long, global = true, value_name = "ADDR,…", env = "CAIRN_MASTER", hide_env_values = true,
          value_delimiter = ',', value_parser = values::address)]
    pub master: Vec<String>,
}

impl Which {
    /// Its masters. Errors: there is no cluster in the data directory.
    pub fn masters(&self) -> Result<Vec<String>, Failure> {
        match self.master.is_empty() {
            false => Ok(self.master.clone()),
            true => Ok(vec![Layout::new(&commands::absolute(&self.data)?).load()?.master_address()]),
        }
    }
}
