//! pgbouncer and haproxy, as somebody would put them in front of the same server: clients dial them by name.
//!
//! Owns their settings files and nothing of the machine's own. pgbouncer is in session mode, haproxy in TCP mode: what an
//! application that knows of no proxy can be put behind.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sys::signal::Signal;

use super::descriptors;
use super::server::{self, DATABASE, ROLE, as_system_user, free_port};
use super::service::{Service, die_with_parent};
use super::{Destinations, IDLE_NAME};
use crate::{process, workspace};

/// As many as any workload has clients; the server has room for as many again.
const POOL: u32 = 580;

/// A relay that pgusher is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Product {
    /// pgbouncer, in session mode
    Pgbouncer,
    /// haproxy, in TCP mode
    Haproxy,
}

impl Product {
    /// Returns its name, which is its program's too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pgbouncer => "pgbouncer",
            Self::Haproxy => "haproxy",
        }
    }

    /// Returns the first line of what it says it is.
    ///
    /// # Errors
    ///
    /// When it is not there or does not start.
    pub(crate) fn version(self) -> Result<String> {
        let option = match self {
            Self::Pgbouncer => "--version",
            Self::Haproxy => "-v",
        };
        let text = process::capture(Command::new(self.program()).arg(option))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Returns the signal after which it ends well: told to terminate, both report a failure.
    fn stop_signal(self) -> Signal {
        match self {
            Self::Pgbouncer => Signal::SIGINT,
            Self::Haproxy => Signal::SIGUSR1,
        }
    }

    fn program(self) -> PathBuf {
        workspace::relays().join("usr/sbin").join(self.name())
    }
}

/// A running relay; dropping it stops it.
pub(super) struct Relay {
    service: Service,
    /// Where its clients find the server, and the stand-in.
    front: Destinations,
}

impl Relay {
    /// Starts a relay on free ports of the loopback address with its files in `folder`.
    ///
    /// # Errors
    ///
    /// When it is not there or does not start; the text has the end of its log.
    pub(super) fn start(product: Product, folder: &Path, behind: Destinations) -> Result<Self> {
        let front = front(product, behind)?;
        let sessions = descriptors::sessions()?;
        let text = match product {
            Product::Pgbouncer => pgbouncer(folder, sessions, front.server, behind),
            Product::Haproxy => haproxy(sessions, front, behind),
        };
        let settings = folder.join("settings");
        write(&settings, &text)?;
        if product == Product::Pgbouncer {
            write(
                &folder.join("users"),
                &users(&server::stored_secret(behind.server)?),
            )?;
            write(&folder.join("rules"), &rules())?;
        }
        // The server's user may not be let into the folder that the program was unpacked in.
        let program = folder.join(product.name());
        fs::copy(product.program(), &program)
            .with_context(|| format!("cannot copy {}", product.program().display()))?;
        let mut command = as_system_user(die_with_parent("TERM"));
        command.arg(program);
        match product {
            Product::Pgbouncer => command.arg(settings),
            Product::Haproxy => command.arg("-db").arg("-f").arg(settings),
        };
        command.current_dir("/");
        let log = folder.join("log");
        let mut service = Service::start(product.name(), command, log, product.stop_signal())?;
        let mut question = server::is_ready(front.server);
        service.wait_until(|| question.status().is_ok_and(|status| status.success()))?;
        Ok(Self { service, front })
    }

    /// Returns where its clients find the server, and the stand-in.
    pub(super) fn front(&self) -> Destinations {
        self.front
    }

    /// Returns the process.
    pub(super) fn service(&self) -> &Service {
        &self.service
    }
}

/// Chooses where the relay listens. pgbouncer tells databases apart by name and needs one port.
fn front(product: Product, behind: Destinations) -> Result<Destinations> {
    let server = loopback()?;
    let stand_in = match (product, behind.stand_in) {
        (_, None) => None,
        (Product::Pgbouncer, Some(_)) => Some(server),
        (Product::Haproxy, Some(_)) => Some(loopback()?),
    };
    Ok(Destinations { server, stand_in })
}

fn loopback() -> Result<SocketAddrV4> {
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port()?))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    // Whatever this process's mask is, the server's user has to read it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .with_context(|| format!("cannot open {} to its reader", path.display()))
}

fn pgbouncer(folder: &Path, sessions: u32, front: SocketAddrV4, behind: Destinations) -> String {
    let database = |name: &str, address: SocketAddrV4| {
        format!("{name} = host={} port={}\n", address.ip(), address.port())
    };
    let mut text = format!("[databases]\n{}", database(DATABASE, behind.server));
    if let Some(stand_in) = behind.stand_in {
        text.push_str(database(IDLE_NAME, stand_in).trim_end());
        text.push_str(&format!(" pool_size={sessions}\n"));
    }
    text.push_str(&format!(
        "[pgbouncer]\npool_mode = session\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\n\
         auth_type = hba\nauth_file = {folder}/users\nauth_hba_file = {folder}/rules\n\
         max_client_conn = {sessions}\ndefault_pool_size = {POOL}\nlisten_backlog = 4096\n\
         log_connections = 0\nlog_disconnections = 0\nlog_pooler_errors = 1\n",
        front.ip(),
        front.port(),
        folder = folder.display()
    ));
    text
}

/// With the server's own secret, pgbouncer has a client's proof and repeats it; with the password, it would hash four thousand
/// times for each login on either side.
fn users(secret: &str) -> String {
    format!("\"{ROLE}\" \"{secret}\"\n\"{IDLE_NAME}\" \"\"\n")
}

/// Clients of the server prove who they are, as they do to the server itself; those of the stand-in do not.
fn rules() -> String {
    format!("host all {IDLE_NAME} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
}

fn haproxy(sessions: u32, front: Destinations, behind: Destinations) -> String {
    let mut text = format!(
        "global\n  maxconn {sessions}\n  hard-stop-after 5s\n\
         defaults\n  mode tcp\n  timeout connect 15s\n  timeout client 1h\n  timeout server 1h\n"
    );
    let stand_in = front.stand_in.zip(behind.stand_in);
    let pairs = [
        ("server", Some((front.server, behind.server))),
        ("stand-in", stand_in),
    ];
    for (name, pair) in pairs {
        if let Some((front, behind)) = pair {
            text.push_str(&format!(
                "listen {name}\n  bind {front}\n  server {name} {behind}\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT: Destinations = Destinations {
        server: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6432),
        stand_in: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6433)),
    };
    const BEHIND: Destinations = Destinations {
        server: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 5432),
        stand_in: None,
    };

    #[test]
    fn haproxy_listens_for_the_stand_in_only_where_there_is_one() {
        let text = haproxy(9_500, FRONT, BEHIND);
        assert!(
            text.contains("bind 127.0.0.1:6432\n  server server 10.77.0.1:5432\n"),
            "{text}"
        );
        assert!(!text.contains("6433"), "{text}");
        let text = haproxy(9_500, FRONT, FRONT);
        assert!(text.contains("bind 127.0.0.1:6433"), "{text}");
    }

    #[test]
    fn pgbouncer_finds_its_files_and_both_servers() {
        let text = pgbouncer(Path::new("/tmp/x"), 9_500, FRONT.server, FRONT);
        for line in [
            "postgres = host=127.0.0.1 port=6432",
            "idle = host=127.0.0.1 port=6433 pool_size=9500",
            "pool_mode = session",
            "auth_file = /tmp/x/users",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
    }
}
