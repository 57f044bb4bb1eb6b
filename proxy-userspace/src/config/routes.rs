//! `[[route]]` tables: what applies to which destination. The first that matches decides; where none does, the
//! top-level settings apply alone.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use super::settings::{AuditLevel, OverflowPolicy, Redaction};
use super::tls::{
    ClientCertificates, ClientTls, ServerAuthority, ServerSslMode, TerminationSettings, TlsMode,
    TlsSetting,
};
use super::{AuditConfig, ConfigError};
use crate::destination::{Destination, without_links};
use crate::tls::Termination;

/// The name in records of what applies where no route matches.
const DEFAULT_NAME: &str = "default";
/// How many bits of an IPv6 address say that it is an IPv4 one, mapped (RFC 4291, 2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

/// One `[[route]]` table as it can be written; what is left out comes from the top level.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// What records and errors call it.
    pub name: Option<String>,
    /// Addresses, networks or directories of unix sockets it applies to; empty is all.
    pub destination: Vec<Network>,
    /// Ports it applies to; empty is all.
    pub port: Vec<u16>,
    /// As the top-level setting.
    pub audit: Option<AuditLevel>,
    /// As the top-level setting.
    pub audit_overflow: Option<OverflowPolicy>,
    /// As the top-level setting.
    pub audit_redaction: Option<Redaction>,
    /// As the top-level setting.
    pub audit_parameters: Option<bool>,
    /// Where TLS ends: `passthrough` (default), `terminate`, or `by-policy`, where policies may ask for `terminate`.
    pub tls: Option<TlsSetting>,
    /// PEM file with the certificate shown to clients.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Directory of the local authority that mints certificates instead.
    pub ca: Option<PathBuf>,
    /// Whether clients must speak TLS.
    pub client_tls: Option<ClientTls>,
    /// PEM file with the authorities of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: Option<ClientCertificates>,
    /// libpq's `sslmode`, towards the server.
    pub server_sslmode: Option<ServerSslMode>,
    /// PEM file with the authorities of servers' certificates, or `system`.
    pub server_ca: Option<ServerAuthority>,
    /// PEM file with our certificate for servers that ask.
    pub server_certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub server_key: Option<PathBuf>,
    /// The server's name, to verify and to send.
    pub server_name: Option<String>,
}

/// An address (`10.0.0.5`), a network (`10.0.0.0/8`), or the directory of servers' unix sockets (`/run/postgresql`,
/// `@name`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Network {
    /// Addresses.
    Ip(IpNet),
    /// What comes before `/.s.PGSQL.PORT`.
    Directory(String),
}

impl Network {
    fn contains(&self, destination: &Destination) -> bool {
        match (self, destination) {
            (Self::Ip(network), Destination::Tcp(address)) => {
                network.contains(&address.ip().to_canonical())
            }
            (Self::Directory(directory), Destination::Unix(path)) => {
                path.directory() == Some(directory)
            }
            _ => false,
        }
    }

    /// Whether a destination is in one of `networks` and has one of `ports`; an empty list is all.
    pub(super) fn any_contains(
        networks: &[Self],
        ports: &[u16],
        destination: &Destination,
    ) -> bool {
        let mut named = networks.iter();
        (networks.is_empty() || named.any(|network| network.contains(destination)))
            && (ports.is_empty() || ports.contains(&destination.port()))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.starts_with(['/', '@']) {
            let directory = text.strip_suffix('/').unwrap_or(&text);
            return Ok(Self::Directory(without_links(directory)));
        }
        let network = text.parse::<IpNet>().ok();
        network
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .map(|network| Self::Ip(canonical(network)))
            .ok_or_else(|| {
                format!(
                    "`{text}` is no address such as 10.0.0.5, no network such as 10.0.0.0/8 and no directory of \
                     sockets such as /run/postgresql"
                )
            })
    }
}

/// Servers go by their IPv4 addresses, also where an application dials those mapped into IPv6.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else {
        return network;
    };
    let length = mapped.prefix_len().checked_sub(MAPPED_PREFIX);
    let address = mapped.addr().to_ipv4_mapped();
    let net = address
        .zip(length)
        .map(|(address, length)| Ipv4Net::new(address, length));
    net.and_then(Result::ok).map_or(network, IpNet::V4)
}

/// What applies to a destination: a checked route.
#[derive(Clone, Debug)]
pub struct RouteRule {
    /// Its name, for records and errors.
    pub name: String,
    /// What is recorded of its sessions.
    pub audit: AuditScope,
    /// How TLS ends at pgusher; none where it never does.
    pub tls: Option<Arc<Termination>>,
    /// Where it ends if no policy says.
    tls_default: TlsMode,
    destinations: Vec<Network>,
    ports: Vec<u16>,
}

/// What is recorded of a session besides its beginning and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditScope {
    /// Sessions only, or every statement too.
    pub level: AuditLevel,
    /// What becomes of SQL text.
    pub redaction: Redaction,
    /// Whether Bind parameters and function arguments are recorded.
    pub parameters: bool,
    /// What happens to a statement's record when the sink cannot keep up.
    pub overflow: OverflowPolicy,
}

impl AuditScope {
    /// What cannot be had together.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(super) fn check(self) -> Result<Self, String> {
        if self.parameters && self.redaction != Redaction::Full {
            return Err(
                "parameters are literals: they are recorded only with audit_redaction = \"full\""
                    .to_owned(),
            );
        }
        Ok(self)
    }
}

impl RouteRule {
    /// Whether TLS with this server can end at pgusher: there is none with one at a unix socket.
    pub fn can_terminate(&self, server: &Destination) -> bool {
        self.tls.is_some() && server.path().is_none()
    }

    /// How TLS with this server ends at pgusher, if it does, where policies ask for that mode or for none.
    pub fn termination(
        &self,
        server: &Destination,
        asked: Option<TlsMode>,
    ) -> Option<&Arc<Termination>> {
        let is_wanted = asked.unwrap_or(self.tls_default) == TlsMode::Terminate;
        let ends_here = is_wanted && self.can_terminate(server);
        self.tls.as_ref().filter(|_| ends_here)
    }

    fn matches(&self, destination: &Destination) -> bool {
        Network::any_contains(&self.destinations, &self.ports, destination)
    }
}

/// All routes, in the order written, and the default behind them.
#[derive(Clone, Debug)]
pub struct Routes {
    rules: Vec<Arc<RouteRule>>,
    default: Arc<RouteRule>,
}

impl Routes {
    /// Checks the tables; what they leave out comes from `audit`.
    ///
    /// # Errors
    /// [`ConfigError`] names the route and the setting.
    pub(super) fn check(
        tables: Vec<RouteSettings>,
        audit: &AuditConfig,
    ) -> Result<Self, ConfigError> {
        let rules = tables
            .into_iter()
            .enumerate()
            .map(|(index, table)| check_route(index, table, audit).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let default = Arc::new(RouteRule {
            name: DEFAULT_NAME.to_owned(),
            audit: audit.scope,
            tls: None,
            tls_default: TlsMode::Passthrough,
            destinations: Vec::new(),
            ports: Vec::new(),
        });
        Ok(Self { rules, default })
    }

    /// What applies to `destination`.
    pub fn find(&self, destination: &Destination) -> &Arc<RouteRule> {
        let mut rules = self.rules.iter();
        rules
            .find(|rule| rule.matches(destination))
            .unwrap_or(&self.default)
    }

    /// Every route on which TLS ends at pgusher, by name.
    pub fn terminations(&self) -> impl Iterator<Item = (&str, &Termination)> {
        self.rules
            .iter()
            .filter_map(|rule| Some((rule.name.as_str(), rule.tls.as_deref()?)))
    }
}

fn check_route(
    index: usize,
    table: RouteSettings,
    audit: &AuditConfig,
) -> Result<RouteRule, ConfigError> {
    let name = table
        .name
        .clone()
        .unwrap_or_else(|| format!("route {}", index + 1));
    if table.port.contains(&0) {
        return Err(ConfigError::Route {
            route: name,
            setting: "port",
            reason: "0 is not a destination port".to_owned(),
        });
    }
    let base = audit.scope;
    let scope = AuditScope {
        level: table.audit.unwrap_or(base.level),
        redaction: table.audit_redaction.unwrap_or(base.redaction),
        parameters: table.audit_parameters.unwrap_or(base.parameters),
        overflow: table.audit_overflow.unwrap_or(base.overflow),
    };
    let tls = check_tls(&name, &table)?;
    Ok(RouteRule {
        audit: scope.check().map_err(|reason| ConfigError::Route {
            route: name.clone(),
            setting: "audit_parameters",
            reason,
        })?,
        name,
        tls,
        tls_default: match table.tls.unwrap_or_default() {
            TlsSetting::Terminate => TlsMode::Terminate,
            TlsSetting::Passthrough | TlsSetting::ByPolicy => TlsMode::Passthrough,
        },
        destinations: table.destination,
        ports: table.port,
    })
}

fn check_tls(route: &str, table: &RouteSettings) -> Result<Option<Arc<Termination>>, ConfigError> {
    let refuse = |setting, reason| ConfigError::Route {
        route: route.to_owned(),
        setting,
        reason,
    };
    let settings =
        TerminationSettings::check(table).map_err(|(setting, reason)| refuse(setting, reason))?;
    let termination = settings.map(Termination::load).transpose();
    Ok(termination
        .map_err(|error| refuse(error.setting, error.reason))?
        .map(Arc::new))
}
