//! What the operator asked for: flags over a TOML file over defaults, checked before anything is touched.
//!
//! Flags and file share one structure, so a setting cannot exist in one and not in the other: `--startup-timeout` is
//! `startup_timeout`. Unknown keys are refused with line and column.

mod routes;
mod settings;
mod tls;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use routes::{AuditScope, RouteRule, Routes};
pub use settings::{AuditLevel, OverflowPolicy, Redaction, Settings, SinkKind};
pub use tls::{
    CertificateSource, ClientCertificates, ClientTls, ServerAuthority, ServerSslMode,
    ServerTlsSettings, TerminationSettings, TlsMode,
};

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
const DEFAULT_AUDIT_QUEUE: usize = 4096;
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
    /// What applies to which destination.
    pub routes: Routes,
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
        let count = |setting, value: Option<usize>, default| {
            checked_count(setting, value.unwrap_or(default))
        };
        let overflow = settings.audit_overflow.unwrap_or(OverflowPolicy::Block);
        let audit = AuditConfig {
            sink: settings.audit_sink.unwrap_or(SinkKind::Stdout),
            overflow,
            scope: AuditScope {
                level: settings.audit.unwrap_or(AuditLevel::Sessions),
                redaction: settings.audit_redaction.unwrap_or(Redaction::Full),
                parameters: settings.audit_parameters.unwrap_or(false),
                overflow,
            },
            queue: count("audit_queue", settings.audit_queue, DEFAULT_AUDIT_QUEUE)?,
        };
        Ok(Self {
            ports: checked_ports(settings.port, settings.listen_port)?,
            cgroup: settings.cgroup,
            listen_port: settings.listen_port.unwrap_or(0),
            routes: Routes::check(settings.route, &audit)?,
            audit,
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
                max_sessions: count("max_sessions", settings.max_sessions, DEFAULT_MAX_SESSIONS)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgusher.toml");
        fs::write(&path, text).unwrap();
        Config::resolve(Settings::default(), Some(&path))
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = from_toml("").unwrap();
        assert_eq!(config.ports, [5432]);
        assert_eq!(config.limits.startup_timeout, Duration::from_secs(60));
        assert_eq!(config.audit.sink, SinkKind::Stdout);
        assert_eq!(config.audit.overflow, OverflowPolicy::Block);
    }

    #[test]
    fn flags_win_over_the_file_setting_by_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgusher.toml");
        fs::write(&path, "port = [6432]\nmax_sessions = 5\n").unwrap();
        let flags = Settings {
            port: vec![7432, 7432, 5432],
            ..Settings::default()
        };
        let config = Config::resolve(flags, Some(&path)).unwrap();
        assert_eq!(config.ports, [5432, 7432]);
        assert_eq!(config.limits.max_sessions.get(), 5);
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        let cases = [
            ("port = [5432]\nmax_sesions = 5\n", "line 2, column 1"),
            ("startup_timeout = 60\n", "line 1, column 19"),
            ("audit_sink = \"syslog\"\n", "line 1, column 14"),
            ("audit_sink = \"file:relative\"\n", "absolute"),
            ("port = [0]\n", "`port`"),
            ("port = [5432]\nlisten_port = 5432\n", "`port`"),
            ("max_sessions = 0\n", "`max_sessions`"),
            ("drain_timeout = \"0s\"\n", "`drain_timeout`"),
            ("drain_timeout = \"-3s\"\n", "line 1, column 17"),
        ];
        for (text, place) in cases {
            let message = from_toml(text).unwrap_err().to_string();
            assert!(message.contains(place), "{text:?} gave {message:?}");
        }
    }
}
