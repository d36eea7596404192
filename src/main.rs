//! The `cairn` binary: one file a subcommand.

mod admin;
mod cli;
mod commands;
mod config_file;
mod daemon;
mod drill;
mod error;
mod fsck;
mod http;
mod mounts;
mod notify;
mod process;
mod supervisor;
mod values;
mod watch;

use std::process::ExitCode;

use cli::{Cli, Command};
use error::Failure;

fn main() -> ExitCode {
    let outcome = cli::parse(std::env::args_os().collect()).and_then(|cli| match cli {
        Some(cli) => run(cli),
        None => Ok(()),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            eprintln!("cairn: {text}");
            notify::failed(failure.code(), &text);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    process::log_to_stderr()?;
    if cli.in_background {
        daemon::leave_session()?;
    }
    match cli.command {
        Command::Up(args) => commands::up::run(args, cli.config.as_deref(), cli.in_background),
        Command::Down(args) => commands::down::run(&args),
        Command::Master(args) => commands::master::run(args),
        Command::Chunkserver(args) => commands::chunkserver::run(args),
        Command::Mount(args) => commands::mount::run(args, cli.in_background),
        Command::Umount(args) => commands::umount::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Scrub(args) => commands::scrub::run(&args),
        Command::File(args) => commands::file::run(&args),
        Command::Locks(args) => commands::locks::run(&args),
        Command::Watch(args) => commands::watch::run(&args),
        Command::Fsck(args) => commands::fsck::run(&args),
        Command::Node(args) => commands::node::run(&args),
        Command::Drill(args) => commands::drill::run(&args),
    }
}
