//! The configuration file: a TOML table a subcommand, whose keys are the flags' long names.
//! Its values become the flags' defaults, so that a flag or a variable overrides them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::Failure;

/// The file named by `--config` or `CAIRN_CONFIG`. It has to be known before the command line is parsed,
/// since what is required there may stand in it.
pub fn named_in(args: &[OsString]) -> Option<PathBuf> {
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let arg = arg.as_encoded_bytes();
        if arg == b"--" {
            break;
        }
        if arg == b"--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(Ok(path)) = arg.strip_prefix(b"--config=").map(std::str::from_utf8) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("CAIRN_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Reads the file. Errors: it cannot be read, or it is no TOML.
pub fn read(path: &Path) -> Result<File, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    let table = text.parse().map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    Ok(File { path: path.to_owned(), table })
}

/// A configuration file's content.
pub struct File {
    path: PathBuf,
    table: toml::Table,
}

/// Makes the file's values the defaults. Errors: a table that is no subcommand, a key that is no flag of it.
pub fn fill_in(mut command: clap::Command, file: &File) -> Result<clap::Command, Failure> {
    let wrong = |what: String| Failure::Usage(format!("{}: {what}", file.path.display()));
    for (name, settings) in &file.table {
        let Some(sub) = command.find_subcommand(name) else {
            return Err(wrong(format!("[{name}] is no subcommand")));
        };
        let toml::Value::Table(settings) = settings else {
            return Err(wrong(format!("{name} must be a table")));
        };
        let mut defaults = Vec::new();
        for (key, value) in settings {
            let arg = sub.get_arguments().find(|a| a.get_long() == Some(key));
            let Some(arg) = arg else { return Err(wrong(format!("[{name}] has no setting {key:?}"))) };
            let Some(value) = as_argument(value) else {
                return Err(wrong(format!(
                    "[{name}] {key}: a text, a number, true or false, or a list of texts"
                )));
            };
            defaults.push((arg.get_id().clone(), value));
        }
        command = command.mut_subcommand(name, |mut sub| {
            for (id, value) in defaults {
                sub = sub.mut_arg(id, |arg| arg.default_value(value).required(false));
            }
            sub
        });
    }
    Ok(command)
}

fn as_argument(value: &toml::Value) -> Option<clap::builder::OsStr> {
    let text = match value {
        toml::Value::String(s) => s.clone(),
        toml::Value::Integer(i) => i.to_string(),
        toml::Value::Boolean(b) => b.to_string(),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items?.join(",")
        }
        _ => return None,
    };
    Some(OsStr::new(&text).to_owned().into())
}
