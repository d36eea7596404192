//! The command line. A value comes from the flag, else from the variable `CAIRN_…`, else from the
//! configuration file, else it is the default.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    chunkserver, down, drill, file, fsck, locks, master, mount, node, scrub, status, umount, up, watch,
};
use crate::config_file;
use crate::error::Failure;

/// CairnFS, a distributed file system that stays up.
///
/// `cairn up DIR` runs a whole cluster on this machine and mounts it on DIR.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// TOML file with settings: one table a subcommand, keys named like the flags
    #[arg(long, global = true, value_name = "FILE", env = "CAIRN_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// This process has been started to run in the background
    #[arg(long, global = true, hide = true)]
    pub in_background: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "Sizes are written like 64KiB, 256MiB, 1GiB; durations like 500ms, 30s, 5m.\n\
CAIRN_LOG sets what is logged to standard error [default: info], as in CAIRN_LOG=debug or CAIRN_LOG=warn,cairn_master=trace.\n\
Exit codes: 0 done, 1 usage, 2 system, 4 damage found by fsck, 32 mount failure.";

/// The subcommands, one file each in `commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine and mount it
    Up(up::Args),
    /// Stop what `up` started
    Down(down::Args),
    /// Run a master: names, inodes, the chunk table, membership
    Master(master::Args),
    /// Run a chunkserver: stores replicas of chunks on its disks
    Chunkserver(chunkserver::Args),
    /// Mount a cluster
    Mount(mount::Args),
    /// Unmount
    Umount(umount::Args),
    /// Show masters, chunkservers, mounts and copies
    Status(status::Args),
    /// Verify what is stored, now; what is bad is healed from the other replicas
    Scrub(scrub::Args),
    /// Show a file's chunks: epochs, replicas, in-sync sets
    File(file::Args),
    /// Show file locks: held and waited for, on whichever mount
    Locks(locks::Args),
    /// Show changes of chunkservers' states as they happen
    Watch(watch::Args),
    /// Check everything: records, copies, checksums; the cluster may be in use
    Fsck(fsck::Args),
    /// Take chunkservers out of service and back: drain, maintenance, resume
    Node(node::Args),
    /// Let chunkservers fail on purpose, and tell how long programs had to wait
    Drill(drill::Args),
}

/// The command line with what the configuration file says filled in. Help and version texts are
/// printed, and `None` is returned.
pub fn parse(args: Vec<OsString>) -> Result<Option<Cli>, Failure> {
    let mut command = Cli::command();
    if let Some(path) = config_file::named_in(&args) {
        command = config_file::fill_in(command, &config_file::read(&path)?)?;
    }
    match command.try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => Ok(Some(cli)),
        Err(e) if !e.use_stderr() => {
            // Help into a pipe that is closed early is nobody's failure.
            let _ = e.print();
            Ok(None)
        }
        Err(e) => {
            let text = e.render().to_string();
            Err(Failure::Usage(text.trim_start_matches("error: ").trim_end().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(args: &[&str]) -> Result<Option<Cli>, Failure> {
        parse(std::iter::once("cairn").chain(args.iter().copied()).map(OsString::from).collect())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable_and_says_its_default() {
        for sub in Cli::command().get_subcommands() {
            for arg in sub.get_arguments().filter(|a| a.get_long().is_some() && !a.is_hide_set()) {
                let id = arg.get_id().as_str();
                if id == "help" {
                    continue;
                }
                let env = arg.get_env().map(|e| e.to_string_lossy().into_owned());
                let expected = format!("CAIRN_{}", arg.get_long().unwrap().to_uppercase().replace('-', "_"));
                assert_eq!(env, Some(expected), "{} --{id}", sub.get_name());
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let takes_value = arg.get_action().takes_values();
                let tells = !arg.get_default_values().is_empty()
                    || arg.is_required_set()
                    || help.contains("default")
                    || !takes_value;
                assert!(tells, "{} --{id}: {help}", sub.get_name());
            }
        }
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error_that_names_it() {
        let Err(Failure::Usage(text)) = cli(&["up", "/mnt/x", "--bogus"]) else { panic!("accepted") };
        assert!(text.contains("--bogus"), "{text}");
    }

    #[test]
    fn the_configuration_file_is_behind_flags_and_before_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cairn.toml");
        std::fs::write(
            &file,
            "[master]\ndata = '/srv/m'\nlisten = '127.0.0.1:1'\nreplicas = 2\n[chunkserver]\ndata = ['/a', '/b']\nmaster = 'x:1'\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let Some(Cli { command: Command::Master(args), .. }) =
            cli(&["--config", file, "master", "--listen", "127.0.0.1:2"]).unwrap()
        else {
            panic!("another command")
        };
        assert_eq!(args.data, PathBuf::from("/srv/m"));
        assert_eq!(args.listen.port(), 2);
        assert_eq!(args.replicas, 2);
        let Some(Cli { command: Command::Chunkserver(args), .. }) =
            cli(&["chunkserver", &format!("--config={file}")]).unwrap()
        else {
            panic!("another command")
        };
        assert_eq!(args.data, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn a_key_that_is_no_flag_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cairn.toml");
        for text in ["[master]\nlissten = 'x'", "[mastre]\ndata = 'x'", "= 3", "[master]\nreplicas = {}"] {
            std::fs::write(&file, text).unwrap();
            let e = cli(&["--config", file.to_str().unwrap(), "status"]).unwrap_err();
            assert!(matches!(&e, Failure::Usage(t) if t.contains("cairn.toml")), "{text}: {e:?}");
        }
    }
}
