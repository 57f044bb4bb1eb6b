//! What the operator asked for: flags over a TOML file over defaults, checked before anything is touched.
//!
//! Flags and file share one structure, so a setting cannot exist in one and not in the other: `--startup-timeout` is
//! `startup_timeout`. Unknown keys are refused with line and column.

mod busy_poll;
mod direct;
mod fast_path;
mod groups;
mod identity;
mod routes;
mod settings;
mod tls;
mod unix;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use direct::{UnknownNetns, WhenDown};
pub use fast_path::FastPathChoice;
pub use groups::ServerGroups;
pub use identity::{IdentityConfig, IdentitySettings};
pub use routes::{AuditScope, RouteRule, Routes};
pub use settings::{Adopt, AuditLevel, OverflowPolicy, Redaction, Settings, SinkKind};
pub use tls::{
    CertificateSource, ClientCertificates, ClientTls, ServerAuthority, ServerSslMode,
    ServerTlsSettings, TerminationSettings, TlsMode, TlsSetting,
};
pub use unix::UnixSockets;

use proxy_ebpf::refusals::Refusals;

use crate::intercept::Guise;
use crate::policy::PolicyMode;

/// PostgreSQL's registered port.
const DEFAULT_PORT: u16 = 5432;
/// As PostgreSQL's `authentication_timeout`: what a client may take before its startup packet is complete.
const DEFAULT_STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// As PgBouncer's `server_connect_timeout`.
const DEFAULT_DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// As the kernel's `tcp_fin_timeout` for a peer that has gone.
const DEFAULT_HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_MAX_SESSIONS: usize = 10_000;
/// Four descriptors each.
const DEFAULT_AUDIT_QUEUE: usize = 4096;
/// Longer than nearly every statement that a person or a program writes by hand; bulk INSERTs are cut.
const DEFAULT_AUDIT_TEXT_LIMIT: usize = 64 * 1024;
/// The most of a SQL text that a record may be told to keep, in bytes: as JSON it may be six times as long, and has to
/// fit into one datagram of the journal's.
const MAX_AUDIT_TEXT_LIMIT: usize = 1024 * 1024;
const DEFAULT_AUDIT_PARAMETER_LIMIT: usize = 1024;
/// The most bytes of parameters that a record may be told to keep.
const MAX_AUDIT_PARAMETER_LIMIT: usize = 64 * 1024;
/// The most sessions and audit records one instance may be told to hold; a semaphore's range is far above it.
const MAX_COUNT: usize = 1_000_000;
/// The longest timeout; beyond it a setting is more likely a mistyped unit than a wish.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where a running instance answers `pgusher status`.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/pgusher/pgusher.sock";

/// A checked configuration: every value is usable as it stands.
#[derive(Clone, Debug)]
pub struct Config {
    /// Destination ports to intercept, sorted, without duplicates.
    pub ports: Vec<u16>,
    /// The cgroup to attach to; `None` is the cgroup-v2 root.
    pub cgroup: Option<PathBuf>,
    /// Our listeners' port; 0 is any free one.
    pub listen_port: u16,
    /// Audit settings.
    pub audit: AuditConfig,
    /// What is read about a process.
    pub identity: IdentityConfig,
    /// What applies to which destination.
    pub routes: Routes,
    /// Who may connect to what.
    pub policy: PolicyConfig,
    /// Which connects fail because they cannot be redirected; the others go direct.
    pub refusals: Refusals,
    /// Whether connects to servers' unix sockets are intercepted too.
    pub unix_sockets: UnixSockets,
    /// Whom clients of unix sockets take us for.
    pub unix_socket_guise: Guise,
    /// Whether sessions are put on the fast path.
    pub fast_path: FastPathChoice,
    /// How long a thread that serves sessions stays awake for the next message; not at all if zero.
    pub busy_poll: Duration,
    /// What becomes of connects while nobody serves them.
    pub when_down: WhenDown,
    /// After which silence of ours nobody counts as serving.
    pub stall_timeout: Duration,
    /// The most network namespaces besides our own that have listeners.
    pub max_namespaces: usize,
    /// What becomes of sessions that are older than the hooks.
    pub adopt: Adopt,
    /// Timeouts and limits of a session.
    pub limits: SessionLimits,
    /// How long sessions may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Where `pgusher status` finds us.
    pub admin_socket: PathBuf,
    /// What goes to the log, in `tracing`'s filter syntax.
    pub log: String,
}

/// Where audit records go and what happens when they cannot.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Where records go.
    pub sink: SinkKind,
    /// What happens when the sink cannot keep up.
    pub overflow: OverflowPolicy,
    /// What is recorded where no route says otherwise.
    pub scope: AuditScope,
    /// How many records may wait for the sink, besides one for each live session.
    pub queue: NonZeroUsize,
    /// Bytes of a SQL text that a record keeps.
    pub text_limit: usize,
    /// Bytes of all parameters of a statement that a record keeps.
    pub parameter_limit: usize,
}

/// Where policies are, and what becomes of a denial.
#[derive(Clone, Debug, Default)]
pub struct PolicyConfig {
    /// What becomes of a denial.
    pub mode: PolicyMode,
    /// A file, or a directory of files; none permits everything.
    pub path: Option<PathBuf>,
    /// Servers that policies speak of under one name.
    pub groups: Arc<ServerGroups>,
}

/// Timeouts and limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// From accept to a complete startup packet, and for the server's answer to an encryption request.
    pub startup_timeout: Duration,
    /// From the dial to the upstream's SYN-ACK.
    pub dial_timeout: Duration,
    /// How long a client may keep a connection whose server has gone, without sending anything.
    pub half_closed_timeout: Duration,
    /// Sessions at one time; cancel requests do not count.
    pub max_sessions: NonZeroUsize,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not what it should be; the message has line and column.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        message: String,
    },
    /// A value in a `[[route]]` table is out of its range.
    #[error("route `{route}`, setting `{setting}`: {reason}")]
    Route {
        /// The route's name, or its number.
        route: String,
        /// The setting's name.
        setting: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A value is out of its range.
    #[error("setting `{setting}`: {reason}")]
    Value {
        /// The setting's name in the file; the flag has dashes instead of underscores.
        setting: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Config {
    /// Joins flags and file, flags winning, and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`] names the file's line and column or the setting.
    pub fn resolve(flags: Settings, file: Option<&Path>) -> Result<Self, ConfigError> {
        let settings = match file {
            Some(path) => flags.over(read_file(path)?),
            None => flags,
        };
        Self::check(settings)
    }

    fn check(settings: Settings) -> Result<Self, ConfigError> {
        let timeout = |setting, value: Option<Duration>, default| {
            checked_timeout(setting, value.unwrap_or(default))
        };
        let audit = checked_audit(&settings)?;
        let mode = settings.policy_mode.unwrap_or_default();
        let when_down = settings.when_down.unwrap_or(WhenDown::usual(mode));
        Ok(Self {
            ports: checked_ports(settings.port, settings.listen_port)?,
            cgroup: settings.cgroup,
            listen_port: settings.listen_port.unwrap_or(0),
            identity: IdentityConfig::check(settings.identity)?,
            routes: Routes::check(settings.route, &audit)?,
            audit,
            unix_sockets: settings.unix_sockets.unwrap_or_default(),
            unix_socket_guise: unix::guise(settings.unix_socket_user.as_deref())?,
            refusals: direct::refusals(settings.unknown_netns, when_down, mode),
            fast_path: settings.fast_path.unwrap_or_default(),
            busy_poll: busy_poll::checked(settings.busy_poll)?,
            when_down,
            stall_timeout: direct::checked_stall_timeout(settings.stall_timeout)?,
            max_namespaces: direct::checked_namespaces(settings.max_namespaces)?,
            adopt: settings.adopt.unwrap_or_default(),
            policy: checked_policy(settings.policy_mode, settings.policy, settings.server_group)?,
            limits: SessionLimits {
                startup_timeout: timeout(
                    "startup_timeout",
                    settings.startup_timeout,
                    DEFAULT_STARTUP_TIMEOUT,
                )?,
                dial_timeout: timeout("dial_timeout", settings.dial_timeout, DEFAULT_DIAL_TIMEOUT)?,
                half_closed_timeout: timeout(
                    "half_closed_timeout",
                    settings.half_closed_timeout,
                    DEFAULT_HALF_CLOSED_TIMEOUT,
                )?,
                max_sessions: checked_count(
                    "max_sessions",
                    settings.max_sessions.unwrap_or(DEFAULT_MAX_SESSIONS),
                )?,
            },
            drain_timeout: timeout(
                "drain_timeout",
                settings.drain_timeout,
                DEFAULT_DRAIN_TIMEOUT,
            )?,
            admin_socket: settings
                .admin_socket
                .unwrap_or_else(|| PathBuf::from(DEFAULT_ADMIN_SOCKET)),
            log: settings.log.unwrap_or_else(|| "info".to_owned()),
        })
    }
}

fn checked_policy(
    mode: Option<PolicyMode>,
    path: Option<PathBuf>,
    groups: Vec<groups::ServerGroupSettings>,
) -> Result<PolicyConfig, ConfigError> {
    let mode = mode.unwrap_or_default();
    if mode == PolicyMode::Enforce && path.is_none() {
        return Err(ConfigError::Value {
            setting: "policy_mode",
            reason: "`enforce` needs `policy`: without one nobody could connect to anything"
                .to_owned(),
        });
    }
    Ok(PolicyConfig {
        mode,
        path,
        groups: Arc::new(ServerGroups::check(groups)?),
    })
}

/// Everything about the audit trail that holds where no route says otherwise.
fn checked_audit(settings: &Settings) -> Result<AuditConfig, ConfigError> {
    let overflow = settings.audit_overflow.unwrap_or(OverflowPolicy::Block);
    let scope = AuditScope {
        level: settings.audit.unwrap_or(AuditLevel::Sessions),
        redaction: settings.audit_redaction.unwrap_or(Redaction::Full),
        parameters: settings.audit_parameters.unwrap_or(false),
        overflow,
    };
    scope.check().map_err(|reason| ConfigError::Value {
        setting: "audit_parameters",
        reason,
    })?;
    Ok(AuditConfig {
        sink: settings.audit_sink.clone().unwrap_or(SinkKind::Stdout),
        overflow,
        scope,
        queue: checked_count(
            "audit_queue",
            settings.audit_queue.unwrap_or(DEFAULT_AUDIT_QUEUE),
        )?,
        text_limit: checked_bytes(
            "audit_text_limit",
            settings
                .audit_text_limit
                .unwrap_or(DEFAULT_AUDIT_TEXT_LIMIT),
            MAX_AUDIT_TEXT_LIMIT,
        )?,
        parameter_limit: checked_bytes(
            "audit_parameter_limit",
            settings
                .audit_parameter_limit
                .unwrap_or(DEFAULT_AUDIT_PARAMETER_LIMIT),
            MAX_AUDIT_PARAMETER_LIMIT,
        )?,
    })
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_path_buf(),
        message: error.to_string(),
    })
}

fn checked_ports(mut ports: Vec<u16>, listen_port: Option<u16>) -> Result<Vec<u16>, ConfigError> {
    let refuse = |reason| {
        Err(ConfigError::Value {
            setting: "port",
            reason,
        })
    };
    if ports.is_empty() {
        ports.push(DEFAULT_PORT);
    }
    ports.sort_unstable();
    ports.dedup();
    if ports.first() == Some(&0) {
        return refuse(
            "0 is not a destination port; name the port the servers listen on".to_owned(),
        );
    }
    if ports.len() > proxy_ebpf::names::MAX_PORTS {
        return refuse(format!(
            "at most {} ports can be intercepted",
            proxy_ebpf::names::MAX_PORTS
        ));
    }
    if let Some(own) = listen_port.filter(|own| ports.contains(own)) {
        return refuse(format!(
            "{own} is also `listen_port`: pgusher would intercept connections to itself"
        ));
    }
    Ok(ports)
}

fn checked_timeout(setting: &'static str, value: Duration) -> Result<Duration, ConfigError> {
    if value.is_zero() || value > MAX_TIMEOUT {
        return Err(ConfigError::Value {
            setting,
            reason: format!("{value:?} is not between 1ms and 7 days"),
        });
    }
    Ok(value)
}

fn checked_count(setting: &'static str, value: usize) -> Result<NonZeroUsize, ConfigError> {
    NonZeroUsize::new(value)
        .filter(|count| count.get() <= MAX_COUNT)
        .ok_or_else(|| ConfigError::Value {
            setting,
            reason: format!("{value} is not between 1 and {MAX_COUNT}"),
        })
}

fn checked_bytes(setting: &'static str, value: usize, most: usize) -> Result<usize, ConfigError> {
    if value == 0 || value > most {
        return Err(ConfigError::Value {
            setting,
            reason: format!("{value} is not between 1 and {most} bytes"),
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
