//! The command line.

mod detach;
mod output;
mod policy;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use output::Unread;

pub(crate) use output::tell;

use crate::config::{Config, DEFAULT_ADMIN_SOCKET, Settings};
use crate::{admin, app, doctor, intercept, tls};

/// An identity proxy for PostgreSQL that no application has to know about
#[derive(Debug, Parser)]
#[command(name = "pgusher", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Intercept connections and relay them, until SIGTERM or Ctrl-C
    Run {
        /// Settings file (TOML); flags win over it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Take over from the instance that answers at the admin socket, if there is one: it serves the sessions it has, and
        /// this one everything new
        #[arg(long)]
        takeover: bool,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Remove the hooks that stay attached while no instance runs (`when_down = "closed"`): connects go direct from then on
    Detach {
        /// Only those of this cgroup [default: of every cgroup]
        #[arg(long, value_name = "PATH")]
        cgroup: Option<PathBuf>,
    },
    /// Show what a running instance is doing
    Status {
        /// The instance's admin socket
        #[arg(long, value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET)]
        admin_socket: PathBuf,
        /// Print the whole document as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check, test and reload policies, or print the schema they are written against
    Policy {
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Explain who a process would be, which policies decide about it, and where it would go
    Explain(Box<policy::ExplainArguments>),
    /// Write a policy that permits exactly what an audit trail has seen
    Learn {
        /// Audit trails (JSON lines); - is standard input
        #[arg(value_name = "AUDIT", required = true)]
        trails: Vec<PathBuf>,
    },
    /// Make the local certificate authority for TLS termination, or print its certificate
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Check whether this host has what interception needs, and say what is missing
    Doctor {
        /// Where a running instance answers, whose fences are checked too
        #[arg(long, value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET)]
        admin_socket: PathBuf,
        /// Print the checks as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make an authority; never replaces one
    Init {
        /// Where to put ca.crt and ca.key
        #[arg(long, value_name = "DIR", default_value = tls::DEFAULT_DIRECTORY)]
        directory: PathBuf,
    },
    /// Print the authority's certificate in PEM format, for clients to trust
    Export {
        /// Where ca.crt is
        #[arg(long, value_name = "DIR", default_value = tls::DEFAULT_DIRECTORY)]
        directory: PathBuf,
    },
}

/// Runs the command line; the exit code is 0 for success, 1 for failure, 2 for a command line that was refused.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run {
            config,
            takeover,
            settings,
        } => run(*settings, config, takeover),
        Command::Detach { cgroup } => detach::run(cgroup.as_deref()),
        Command::Status { admin_socket, json } => status(&admin_socket, json),
        Command::Policy { command } => match policy::run(command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Explain(arguments) => policy::explain(&arguments),
        Command::Learn { trails } => policy::learn(&trails),
        Command::Ca { command } => authority(command),
        Command::Doctor { admin_socket, json } => match doctor::main(json, &admin_socket) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Unread>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pgusher: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings, file: Option<PathBuf>, takes_over: bool) -> Result<()> {
    let config = Config::resolve(settings, file.as_deref())?;
    start_log(&config.log)?;
    // Before the runtime: its threads inherit what this one has left.
    let crew = app::Crew::muster()?;
    // Sessions have runtimes of their own, `app::workers`; this one accepts them, and does what goes on beside them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(app::run(config, takes_over, crew));
    // A /proc read may hang for as long as the process it reads likes; it must not hold up the exit.
    runtime.shutdown_background();
    result.map_err(app::explain_refusal)
}

fn status(socket: &std::path::Path, json: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(admin::fetch_status(socket));
    let status = status.map_err(|error| match intercept::abandoned() {
        Ok(Some(what)) => anyhow::Error::from(error).context(what),
        _ => error.into(),
    })?;
    if json {
        tell(serde_json::to_string_pretty(&status)?)
    } else {
        tell(status)
    }
}

fn authority(command: CaCommand) -> Result<()> {
    match command {
        CaCommand::Init { directory } => {
            let certificate = tls::init(&directory)?;
            eprintln!("made {}; clients have to trust it", certificate.display());
        }
        CaCommand::Export { directory } => tell(tls::export(&directory)?.trim_end())?,
    }
    Ok(())
}

fn start_log(filter: &str) -> Result<()> {
    let filter: EnvFilter = filter.parse().context("setting `log`")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // The default answers a failing stderr with a panic, in whichever thread wanted to log.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(anyhow::Error::from_boxed)
        .context("cannot start the log")
}
