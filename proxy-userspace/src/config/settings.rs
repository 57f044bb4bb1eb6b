//! The settings as they can be written, on the command line and in the file alike.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::direct::{UnknownNetns, WhenDown};
use super::fast_path::FastPathChoice;
use super::groups::ServerGroupSettings;
use super::identity::IdentitySettings;
use super::routes::RouteSettings;
use super::unix::UnixSockets;
use crate::policy::PolicyMode;

/// Every setting of `pgusher run`, unset where the operator said nothing.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Destination port to intercept; repeat for more [default: 5432]
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,

    /// Attach to this cgroup (v2) and all below it [default: the cgroup-v2 root]
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// Port of pgusher's own listeners on 127.0.0.1 and ::1 [default: 0, any free port]
    #[arg(long, value_name = "PORT")]
    pub listen_port: Option<u16>,

    /// Where audit records go: stdout, journald or file:/absolute/path [default: stdout]
    #[arg(long, value_name = "SINK")]
    pub audit_sink: Option<SinkKind>,

    /// When the audit sink cannot keep up: `block` what would be recorded, or `drop` records and record the gap [default: block]
    #[arg(long, value_name = "POLICY")]
    pub audit_overflow: Option<OverflowPolicy>,

    /// Audit records that may wait for the sink, besides one for each possible connection [default: 4096]
    #[arg(long, value_name = "RECORDS")]
    pub audit_queue: Option<usize>,

    /// What is recorded: `sessions`, or `statements` with every session's statements too [default: sessions]
    #[arg(long, value_name = "LEVEL")]
    pub audit: Option<AuditLevel>,

    /// SQL text in records: `full`, `literals-removed` or `fingerprint-only` [default: full]
    #[arg(long, value_name = "REDACTION")]
    pub audit_redaction: Option<Redaction>,

    /// Record Bind parameters and function arguments [default: false]
    #[arg(long, value_name = "BOOL")]
    pub audit_parameters: Option<bool>,

    /// Bytes of a SQL text that a record keeps; of a longer one its length and hash too [default: 65536]
    #[arg(long, value_name = "BYTES")]
    pub audit_text_limit: Option<usize>,

    /// Bytes that a record keeps of all parameters of a statement [default: 1024]
    #[arg(long, value_name = "BYTES")]
    pub audit_parameter_limit: Option<usize>,

    /// Cedar policy file, or directory of *.cedar files [default: none, everything is permitted]
    #[arg(long, value_name = "PATH")]
    pub policy: Option<PathBuf>,

    /// What becomes of a denial: `observe` records it, `enforce` carries it out [default: observe]
    #[arg(long, value_name = "MODE")]
    pub policy_mode: Option<PolicyMode>,

    /// Connects from network namespaces without a listener of pgusher's: `pass` or `refuse` [default: pass, but refuse where policies are enforced]
    #[arg(long, value_name = "ACTION")]
    pub unknown_netns: Option<UnknownNetns>,

    /// Servers' unix sockets: `auto` intercepts them where the kernel can (Linux 6.16), `off` never [default: auto]
    #[arg(long, value_name = "CHOICE")]
    pub unix_sockets: Option<UnixSockets>,

    /// User whom clients of unix sockets are to see as their server's, for libpq's requirepeer; servers of other users are then out of reach through them [default: none, they see pgusher's own]
    #[arg(long, value_name = "USER")]
    pub unix_socket_user: Option<String>,

    /// Short messages between sockets of this host go past the TCP/IP stack: `off` never, `auto` as far as no application can notice, `full` wherever the kernel can, if clients and servers read their sockets as docs/fast-path.md asks [default: off]
    #[arg(long, value_name = "CHOICE")]
    pub fast_path: Option<FastPathChoice>,

    /// Threads that serve sessions look for the next message this long before they sleep, at most 10ms: less time for a short query where cores are free, a core's time for each thread [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub busy_poll: Option<Duration>,

    /// Connects while no pgusher serves them: `open` lets them go direct, `closed` keeps them out until the next start or `pgusher detach` [default: open, but closed where policies are enforced]
    #[arg(long, value_name = "ACTION")]
    pub when_down: Option<WhenDown>,

    /// A pgusher that hangs for longer than this counts as down, at least 1s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub stall_timeout: Option<Duration>,

    /// Other network namespaces than pgusher's own that are intercepted at one time, 0 to 4095 [default: 1024]
    #[arg(long, value_name = "NAMESPACES")]
    pub max_namespaces: Option<usize>,

    /// Sessions that are older than pgusher: `ignore` them, `report` who has them, or `reset` their connections [default: report]
    #[arg(long, value_name = "ACTION")]
    pub adopt: Option<Adopt>,

    /// Close a client that has not completed its startup packet by then [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub startup_timeout: Option<Duration>,

    /// Give up connecting to a server after this long [default: 15s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub dial_timeout: Option<Duration>,

    /// Close a silent client this long after its server closed [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub half_closed_timeout: Option<Duration>,

    /// Let sessions go on this long after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Option<Duration>,

    /// Sessions at one time; cancel requests do not count, unless encryption that passes through hides them [default: 10000]
    #[arg(long, value_name = "SESSIONS")]
    pub max_sessions: Option<usize>,

    /// Unix socket (mode 0600) for `pgusher status` [default: /run/pgusher/pgusher.sock]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Log filter, e.g. `info` or `proxy_userspace=debug`; the log goes to stderr [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// What is read about a process; only in the file.
    #[arg(skip)]
    pub identity: IdentitySettings,

    /// What applies to which destination; only in the file.
    #[arg(skip)]
    pub route: Vec<RouteSettings>,

    /// Servers that policies speak of under one name; only in the file.
    #[arg(skip)]
    pub server_group: Vec<ServerGroupSettings>,
}

impl Settings {
    /// These settings, with the gaps filled from `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            port: if self.port.is_empty() {
                base.port
            } else {
                self.port
            },
            cgroup: self.cgroup.or(base.cgroup),
            listen_port: self.listen_port.or(base.listen_port),
            audit_sink: self.audit_sink.or(base.audit_sink),
            audit_overflow: self.audit_overflow.or(base.audit_overflow),
            audit_queue: self.audit_queue.or(base.audit_queue),
            audit: self.audit.or(base.audit),
            audit_redaction: self.audit_redaction.or(base.audit_redaction),
            audit_parameters: self.audit_parameters.or(base.audit_parameters),
            audit_text_limit: self.audit_text_limit.or(base.audit_text_limit),
            audit_parameter_limit: self.audit_parameter_limit.or(base.audit_parameter_limit),
            startup_timeout: self.startup_timeout.or(base.startup_timeout),
            dial_timeout: self.dial_timeout.or(base.dial_timeout),
            half_closed_timeout: self.half_closed_timeout.or(base.half_closed_timeout),
            drain_timeout: self.drain_timeout.or(base.drain_timeout),
            max_sessions: self.max_sessions.or(base.max_sessions),
            admin_socket: self.admin_socket.or(base.admin_socket),
            log: self.log.or(base.log),
            policy: self.policy.or(base.policy),
            policy_mode: self.policy_mode.or(base.policy_mode),
            max_namespaces: self.max_namespaces.or(base.max_namespaces),
            adopt: self.adopt.or(base.adopt),
            unknown_netns: self.unknown_netns.or(base.unknown_netns),
            unix_sockets: self.unix_sockets.or(base.unix_sockets),
            unix_socket_user: self.unix_socket_user.or(base.unix_socket_user),
            fast_path: self.fast_path.or(base.fast_path),
            busy_poll: self.busy_poll.or(base.busy_poll),
            when_down: self.when_down.or(base.when_down),
            stall_timeout: self.stall_timeout.or(base.stall_timeout),
            identity: base.identity,
            route: base.route,
            server_group: base.server_group,
        }
    }
}

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SinkKind {
    /// One JSON line each on standard output.
    Stdout,
    /// One journal entry each, the JSON line as its message.
    Journald,
    /// One JSON line each, appended to a file (mode 0600) that is opened again when it was moved away.
    File(PathBuf),
}

impl FromStr for SinkKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "journald" => Ok(Self::Journald),
            _ => match text.strip_prefix("file:").map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::File(path)),
                Some(path) => Err(format!("`{}` is not an absolute path", path.display())),
                None => Err(format!(
                    "`{text}` is none of stdout, journald, file:/absolute/path"
                )),
            },
        }
    }
}

impl TryFrom<String> for SinkKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What is recorded.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Deserialize,
    serde::Serialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum AuditLevel {
    /// Every session's beginning and end.
    Sessions,
    /// Those, and every statement with its outcome.
    Statements,
}

/// What becomes of SQL text in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Redaction {
    /// As sent, but for passwords.
    Full,
    /// Literals are replaced by `$1`, `$2`, …
    LiteralsRemoved,
    /// No text, only a fingerprint that is the same for statements that differ in literals alone.
    FingerprintOnly,
}

/// What happens when the audit sink cannot keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OverflowPolicy {
    /// No record is lost: new sessions, and sessions whose statements are recorded, wait until the sink has room.
    Block,
    /// No session waits: records are lost, counted, and the gap is a record itself.
    Drop,
}

/// What becomes of connections to intercepted ports that are older than the hooks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Adopt {
    /// Nobody looks for them.
    Ignore,
    /// They are listed in the audit trail, and go on.
    #[default]
    Report,
    /// They are listed and aborted; applications connect again, through pgusher.
    Reset,
}

/// Parses a duration such as `60s`, `1m 30s` or `500ms`.
///
/// # Errors
/// What is wrong with the text.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("`{text}` is not a duration such as 60s or 1m30s: {error}"))?;
    Duration::try_from(signed).map_err(|_| format!("`{text}` is negative"))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}
