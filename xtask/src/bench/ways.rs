//! The ways to the server that are compared. A new one is a line here and a name in a table.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::playground::{Lane, Playground, Product, descriptors};
use crate::process;

/// How many policies about others are evaluated with each connection.
const POLICIES: u32 = 100;
/// In a way's arguments, the folder that [`furnish`] writes to.
const FOLDER: &str = "{folder}";
const POLICY_FILE: &str = "policies.cedar";
const SETTINGS_FILE: &str = "terminate.toml";
/// A route on which TLS ends on both sides; trust is none of a measurement's business.
const TERMINATION: &str = r#"[[route]]
name = "terminated"
tls = "terminate"
server_sslmode = "require"
ca = "#;

/// What a client's connection goes through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Through {
    /// As if there were no proxy
    Nothing,
    /// Intercepted by a pgusher that was started with these arguments
    Pgusher(&'static [&'static str]),
    /// Dialled by name
    Relay(Product),
}

/// A way to the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) through: Through,
    /// What libpq clients are told to want.
    pub(super) sslmode: &'static str,
}

impl Way {
    const fn plain(name: &'static str, through: Through) -> Self {
        Self {
            name,
            through,
            sslmode: "disable",
        }
    }

    const fn encrypted(name: &'static str, through: Through) -> Self {
        Self {
            name,
            through,
            sslmode: "require",
        }
    }

    /// Returns the way through another relay.
    pub(super) const fn beside(product: Product) -> Self {
        let name = match product {
            Product::Pgbouncer => "pgbouncer",
            Product::Haproxy => "haproxy",
        };
        Self::plain(name, Through::Relay(product))
    }
}

pub(super) const DIRECT: Way = Way::plain("direct", Through::Nothing);
/// Sessions on record
pub(super) const SESSIONS: Way = Way::plain("sessions", Through::Pgusher(&[]));
/// The same with every statement on record
pub(super) const STATEMENTS: Way =
    Way::plain("statements", Through::Pgusher(&["--audit", "statements"]));
/// On the fast path: the client straight to the server where that is on the same host
pub(super) const FAST: Way = Way::plain("fast", Through::Pgusher(&["--fast-path=full"]));
/// On the fast path, with every statement on record
pub(super) const FAST_STATEMENTS: Way = Way::plain(
    "fast statements",
    Through::Pgusher(&["--fast-path=full", "--audit=statements"]),
);
/// The same as far as no application can notice
pub(super) const AUTO_STATEMENTS: Way = Way::plain(
    "auto statements",
    Through::Pgusher(&["--fast-path=auto", "--audit=statements"]),
);
/// Sessions on record, and threads that stay awake for the next message
pub(super) const POLLING: Way = Way::plain("polling", Through::Pgusher(&["--busy-poll=50us"]));
/// The same on the fast path, with every statement on record
pub(super) const POLLING_FAST_STATEMENTS: Way = Way::plain(
    "polling, fast statements",
    Through::Pgusher(&["--busy-poll=50us", "--fast-path=full", "--audit=statements"]),
);
/// Sessions on record, and policies enforced
pub(super) const POLICED: Way = Way::plain(
    "policies",
    Through::Pgusher(&["--policy-mode=enforce", "--policy={folder}/policies.cedar"]),
);
pub(super) const DIRECT_TLS: Way = Way::encrypted("direct", Through::Nothing);
/// TLS between client and server
pub(super) const PASSED: Way = Way::encrypted("passed", Through::Pgusher(&[]));
/// TLS between client and pgusher and between pgusher and server
pub(super) const ENDED: Way = Way::encrypted(
    "ended",
    Through::Pgusher(&["--config={folder}/terminate.toml"]),
);

/// Starts what a way needs.
///
/// # Errors
///
/// When it does not start.
pub(super) fn open(playground: &Playground, way: Way) -> Result<Lane> {
    match way.through {
        Through::Nothing => playground.direct(way.name),
        Through::Relay(product) => playground.relayed(product),
        Through::Pgusher(arguments) => {
            let folder = playground.folder().to_string_lossy();
            let own = arguments.iter().map(|it| it.replace(FOLDER, &folder));
            // Room for the idle sessions.
            let mut arguments = vec![format!("--max-sessions={}", descriptors::sessions()?)];
            arguments.extend(own);
            playground.intercepted(way.name, &arguments)
        }
    }
}

/// Writes the files that ways' arguments name: policies, a local CA, and settings that end TLS with it.
///
/// # Errors
///
/// When they cannot be written, or pgusher makes no CA.
pub(super) fn furnish(playground: &Playground) -> Result<()> {
    let folder = playground.folder();
    fs::write(folder.join(POLICY_FILE), policies()).context("cannot write policies")?;
    let authority = folder.join("ca");
    let mut init = Command::new(playground.pgusher());
    init.args(["ca", "init", "--directory"]).arg(&authority);
    process::capture(&mut init)?;
    let settings = format!("{TERMINATION}{authority:?}\n");
    fs::write(folder.join(SETTINGS_FILE), settings).context("cannot write settings")
}

/// One policy that permits whoever comes, and [`POLICIES`] about others.
fn policies() -> String {
    let mut policies = String::from("permit (principal, action, resource is Database);\n");
    for number in 0..POLICIES {
        policies.push_str(&format!(
            "permit (principal in Unit::\"unit-{number}.service\", action == Action::\"connect\", resource)\n\
             when {{ context has startup && context.startup has user && context.startup.user == \"user-{number}\" }};\n"
        ));
    }
    policies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_arguments_are_ones_that_are_written() {
        for way in [
            SESSIONS,
            STATEMENTS,
            FAST,
            FAST_STATEMENTS,
            AUTO_STATEMENTS,
            POLICED,
            PASSED,
            ENDED,
        ] {
            let Through::Pgusher(arguments) = way.through else {
                panic!("{way:?} goes through pgusher");
            };
            for argument in arguments.iter().filter(|it| it.contains(FOLDER)) {
                let (_, file) = argument.split_once("{folder}/").unwrap();
                assert!([POLICY_FILE, SETTINGS_FILE].contains(&file), "{argument}");
            }
        }
    }

    #[test]
    fn so_many_policies_are_about_others() {
        assert_eq!(policies().matches("permit (principal in ").count(), 100);
    }
}
