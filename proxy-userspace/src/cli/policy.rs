//! The commands about policies.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand};

use super::tell;
use crate::audit::reading::{SessionRecord, sessions};
use crate::config::{Config, DEFAULT_ADMIN_SOCKET, Settings};
use crate::destination::{Destination, without_links};
use crate::explain::Explanation;
use crate::identify::{Identifier, Identity};
use crate::learn::Lesson;
use crate::policy::{Action, Policies, Question, SCHEMA, StartupFacts, Subject, Table, TlsFacts};
use crate::wire::negotiation::Encryption;
use crate::{admin, intercept};

/// What policies a command is about.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Settings file that names the policy, server groups and routes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Policy file or directory; wins over the settings file's
    #[arg(long, value_name = "PATH")]
    policy: Option<PathBuf>,
}

impl Which {
    /// The configuration as `run` would have it.
    fn config(&self) -> Result<Config> {
        let settings = Settings {
            policy: self.policy.clone(),
            ..Settings::default()
        };
        Ok(Config::resolve(settings, self.config.as_deref())?)
    }
}

fn policies(config: &Config) -> Result<Option<Policies>> {
    let path = config.policy.path.as_deref();
    let loaded = path.map(|path| Policies::load(path, Arc::clone(&config.policy.groups)));
    Ok(loaded.transpose()?)
}

fn required_policies(which: &Which) -> Result<Policies> {
    policies(&which.config()?)?.context("which policy? Give --policy, or --config with `policy`")
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the Cedar schema that policies are written against
    Schema,
    /// Check policies as `run` does, and say what is wrong and where
    Check {
        #[command(flatten)]
        which: Which,
    },
    /// Ask policies the questions of a table (TOML), and fail unless every answer is the expected one
    Test {
        /// The table; docs/policy.md describes it
        table: PathBuf,
        #[command(flatten)]
        which: Which,
    },
    /// Make a running instance read its policies again; live sessions that are no longer permitted end
    Reload {
        /// The instance's admin socket
        #[arg(long, value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET)]
        admin_socket: PathBuf,
        /// Print what came of it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// A process and what it wants, or a record of both.
#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// Process that would connect
    #[arg(
        long,
        value_name = "PID",
        required_unless_present = "record",
        requires = "host"
    )]
    pid: Option<u32>,
    /// Server it would connect to: name or address
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The server's port
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    port: u16,
    /// Database it would ask for; without --user and --database, as if encryption hid both
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// User it would log in as
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Another startup parameter; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter, requires = "user")]
    parameter: Vec<(String, String)>,
    /// What it would do
    #[arg(long, value_name = "ACTION", default_value = "connect")]
    action: Action,
    /// How it would be encrypted, as records name it; `tls` if both --user and --database are left out
    #[arg(long, value_name = "KIND", value_parser = encryption)]
    encryption: Option<Encryption>,
    /// Explain the last session record of this audit trail (- is standard input) instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pid", "host", "port", "database", "user", "parameter", "action", "encryption"])]
    record: Option<PathBuf>,
    /// That of this session, not the last
    #[arg(long, value_name = "UUID", requires = "record")]
    session: Option<uuid::Uuid>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

fn encryption(text: &str) -> Result<Encryption, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn run(command: PolicyCommand) -> Result<ExitCode> {
    match command {
        PolicyCommand::Schema => tell(SCHEMA.trim_end())?,
        PolicyCommand::Check { which } => {
            let policies = required_policies(&which)?;
            for warning in policies.warnings() {
                eprintln!("warning: {warning}");
            }
            let (count, revision) = (policies.len(), policies.revision());
            tell(format_args!("{count} policies, revision {revision}"))?;
        }
        PolicyCommand::Test { table, which } => return test(&table, &which),
        PolicyCommand::Reload { admin_socket, json } => reload(&admin_socket, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn test(table: &Path, which: &Which) -> Result<ExitCode> {
    let policies = required_policies(which)?;
    let outcomes = Table::read(table)
        .map_err(|reason| anyhow!(reason))?
        .run(&policies);
    ensure!(!outcomes.is_empty(), "{}: no [[case]]", table.display());
    for outcome in &outcomes {
        tell(outcome)?;
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some());
    let failed = failed.count();
    let passed = outcomes.len() - failed;
    tell(format_args!("{passed} passed, {failed} failed"))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn reload(socket: &Path, json: bool) -> Result<()> {
    let reloaded = runtime()?.block_on(admin::request_policy_reload(socket))?;
    if json {
        return tell(serde_json::to_string_pretty(&reloaded)?);
    }
    for warning in &reloaded.warnings {
        eprintln!("warning: {warning}");
    }
    tell(format_args!(
        "{} policies in force, revision {}; of {} live sessions {} end",
        reloaded.policies, reloaded.revision, reloaded.sessions, reloaded.ended
    ))?;
    for pid in &reloaded.predecessors {
        tell(format_args!(
            "pid {pid}, which still serves sessions of before, was told to reload too; its log says what came of it"
        ))?;
    }
    Ok(())
}

/// Opens an audit trail; `-` is standard input.
fn open_trail(trail: &Path) -> Result<Box<dyn BufRead>> {
    if trail.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(trail).with_context(|| trail.display().to_string())?;
    Ok(Box::new(BufReader::new(file)))
}

/// Learns from trails.
pub(super) fn learn(trails: &[PathBuf]) -> Result<()> {
    let mut lesson = Lesson::default();
    for trail in trails {
        lesson
            .read(open_trail(trail)?)
            .with_context(|| trail.display().to_string())?;
    }
    tell(lesson.draft()?.trim_end())
}

pub(super) fn explain(arguments: &ExplainArguments) -> Result<()> {
    let config = arguments.which.config()?;
    let policies = policies(&config)?;
    let questions = match &arguments.record {
        Some(record) => vec![recorded(record, arguments.session)?],
        None => asked(arguments, &config)?,
    };
    let explanations: Vec<_> = questions
        .into_iter()
        .map(|(identity, question)| {
            Explanation::of(identity, &question, &config, policies.as_ref())
        })
        .collect();
    if arguments.json {
        return tell(serde_json::to_string_pretty(&explanations)?);
    }
    for explanation in &explanations {
        tell(explanation)?;
    }
    Ok(())
}

type Inquiry = (Option<Identity>, Question);

/// A question for every address of the host.
fn asked(arguments: &ExplainArguments, config: &Config) -> Result<Vec<Inquiry>> {
    let (Some(pid), Some(host)) = (arguments.pid, &arguments.host) else {
        bail!("--pid and --host, or --record");
    };
    ensure!(
        arguments.action == Action::Connect || !arguments.is_hidden(),
        "--action {} needs --user: hidden, it would be taken for a connect",
        arguments.action.name()
    );
    ensure!(
        arguments.action != Action::Cancel,
        "a cancel request asks for a session; explain its record: --record"
    );
    let servers = servers(host, arguments.port)?;
    let root = intercept::cgroup_root()?;
    let identifier = Identifier::new(&root, &config.identity);
    let runtime = runtime()?;
    let identity = runtime.block_on(identifier.identify_running(pid));
    // A read that hangs must not hold up the answer.
    runtime.shutdown_background();
    let identity = Arc::new(identity?);
    let subject = Arc::new(Subject::of(&identity));
    let tls = TlsFacts {
        encryption: arguments.encryption.unwrap_or(if arguments.is_hidden() {
            Encryption::Tls
        } else {
            Encryption::None
        }),
        ..TlsFacts::default()
    };
    Ok(servers
        .into_iter()
        .map(|server| {
            let hidden = Question::opaque(Arc::clone(&subject), server, tls.clone());
            (
                Some(Identity::clone(&identity)),
                with_startup(hidden, arguments),
            )
        })
        .collect())
}

/// Every address of a host; of a directory, as libpq takes it for one, the server's socket in it.
fn servers(host: &str, port: u16) -> Result<Vec<Destination>> {
    if host.starts_with(['/', '@']) {
        let path = format!("{}/.s.PGSQL.{port}", without_links(host));
        return Ok(vec![path.parse().map_err(anyhow::Error::msg)?]);
    }
    let addresses = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("no address for {host}"))?;
    Ok(addresses.map(Destination::from).collect())
}

impl ExplainArguments {
    /// Whether the question is about a session that nobody can see into.
    fn is_hidden(&self) -> bool {
        self.user.is_none() && self.database.is_none()
    }
}

fn with_startup(hidden: Question, arguments: &ExplainArguments) -> Question {
    if arguments.is_hidden() {
        return hidden;
    }
    let replicates = arguments.action == Action::Replicate;
    let (user, database) = (arguments.user.clone(), arguments.database.clone());
    let startup = if replicates && database.is_none() {
        StartupFacts::physical_replication(user, arguments.parameter.clone())
    } else {
        StartupFacts::new(user, database, arguments.parameter.clone())
    };
    hidden.with_startup(startup, replicates)
}

fn recorded(trail: &Path, session: Option<uuid::Uuid>) -> Result<Inquiry> {
    let mut found: Option<SessionRecord> = None;
    let mut keep = |record: SessionRecord| {
        if session.is_none_or(|wanted| wanted == record.session) {
            found = Some(record);
        }
    };
    sessions(open_trail(trail)?, &mut keep).with_context(|| trail.display().to_string())?;
    let record = found.with_context(|| match session {
        Some(session) => format!("{}: no record of session {session}", trail.display()),
        None => format!("{}: no session record", trail.display()),
    })?;
    let question = record
        .question()
        .context("the record has no process or no destination: there was nothing to ask about")?;
    Ok((record.origin, question))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
