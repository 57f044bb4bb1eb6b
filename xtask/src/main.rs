//! The commands of this repository: one for each thing a person wants to do with it.
//!
//! This file owns the command line and nothing else. Every command is a module of its own;
//! a continuous-integration system calls the same commands and adds none.

mod bench;
mod build;
mod demo;
mod document;
mod fuzz;
mod interrupt;
mod mounts;
mod playground;
mod privilege;
mod process;
mod run;
mod setup;
mod test;
mod torture;
mod vm;
mod workspace;

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::setup::Purpose;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Sets up, builds, tries, tests and measures pgusher"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine
    Setup {
        /// What the machine will be used for; each one includes those before it
        #[arg(long = "for", value_enum, default_value_t = Purpose::Run)]
        purpose: Purpose,
    },
    /// Build pgusher with its eBPF programs
    Build {
        /// Optimise the user-space side too
        #[arg(long)]
        release: bool,
    },
    /// Build pgusher and run it as root
    Run {
        /// Arguments for pgusher, after `--`; `run` is put in front where no subcommand is named
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Show pgusher at work: a throwaway server, a few clients, and the records they cause
    Demo(Prepared),
    /// Check everything: formatting, lints, unit tests, tests on the real kernel, and on an old and a new one
    Test {
        /// Only run the tests whose name contains one of these, and no virtual machine
        names: Vec<String>,
        /// The same, for one name
        #[arg(long)]
        filter: Option<String>,
    },
    /// Send streams whose every byte is known through pgusher, for minutes, and end them in every way there is
    Torture(torture::Options),
    /// Run tests on other kernels, in virtual machines
    VmTest(vm::Options),
    /// Feed made-up bytes to the protocol code, looking for what it does not survive
    Fuzz {
        /// How long each of the targets runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure what pgusher costs, beside no proxy and beside other ones
    Bench(bench::Options),
    /// A client that opens sessions, for `bench`
    #[command(hide = true)]
    Sessions {
        #[command(subcommand)]
        errand: bench::sessions::Errand,
    },
    /// A server that lets in everybody, for `bench`
    #[command(hide = true)]
    StandIn { address: SocketAddrV4 },
}

/// How a command that starts as a user goes on as root.
#[derive(Args)]
struct Prepared {
    /// The binary that the unprivileged half of this command has built
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    match dispatch(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::Setup { purpose } => setup::prepare(purpose),
        Task::Build { release } => build::pgusher(release).map(drop),
        Task::Run { arguments } => run::pgusher(arguments),
        Task::Demo(prepared) => demo::show(prepared.binary),
        Task::Test { mut names, filter } => {
            names.extend(filter);
            test::everything(&names)
        }
        Task::Torture(options) => torture::run(&options),
        Task::VmTest(options) => vm::command(options),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Bench(options) => bench::run(options),
        Task::Sessions { errand } => bench::sessions::run(&errand),
        Task::StandIn { address } => playground::stand_in::serve(address),
    }
}
