//! Names that somebody may give himself: users of a user namespace, units of a delegated subtree, addresses.

use anyhow::Result;
use pgusher_tests::cluster::Version;
use pgusher_tests::process::run;
use pgusher_tests::programs::compiled;
use pgusher_tests::stage::{Setup, Stage};

use super::super::ALL;
use super::{connecting, is_denied, is_permitted};

#[test]
fn root_of_a_user_namespace_is_not_root() -> Result<()> {
    let policy = "permit (principal in User::\"root\", action, resource);\n\
        permit (principal, action, resource) when { principal.uid == 0 };";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let connect = compiled("connect")?;
            let mut command = stage.cgroup.command("setpriv")?;
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.args(["unshare", "--user", "--map-root-user"]);
            command.arg(&connect);
            let finished = run(connecting(&mut command, stage, "blocking"))?;
            is_denied(stage, &finished, 1)?;
            let mut command = stage.cgroup.command(&connect)?;
            is_permitted(&run(connecting(&mut command, stage, "blocking"))?)
        })
}

#[test]
fn a_unit_made_up_in_a_delegated_subtree_is_no_unit() -> Result<()> {
    let policy = "permit (principal in Unit::\"trusted.service\", action, resource);";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .host()
        .play(|stage| {
            let from = |cgroup: &str| {
                let mut command = stage.cgroup.command_below(cgroup, compiled("connect")?)?;
                run(connecting(&mut command, stage, "blocking"))
            };
            is_permitted(&from("system.slice/trusted.service")?)?;
            let delegated = "user.slice/user-1000.slice/user@1000.service";
            for (sessions, pretence) in [
                "trusted.service",
                "system.slice/trusted.service",
                "app.slice/trusted.service",
            ]
            .into_iter()
            .enumerate()
            {
                let finished = from(&format!("{delegated}/{pretence}"))?;
                is_denied(stage, &finished, sessions + 2)?;
            }
            Ok(())
        })
}

/// Dials each address, each of which has to be denied.
fn all_are_denied(policy: &str, addresses: &[&str]) -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage: &mut Stage| {
            for (sessions, address) in addresses.iter().enumerate() {
                let mut command = stage.cgroup.command(compiled("connect")?)?;
                let port = stage.cluster.port.to_string();
                let finished = run(command.args(["blocking", address, &port]))?;
                is_denied(stage, &finished, sessions + 1)?;
            }
            Ok(())
        })
}

#[test]
fn a_server_is_the_same_by_every_spelling_of_its_address() -> Result<()> {
    let forbidden =
        format!("{ALL}\nforbid (principal, action, resource in Server::\"{{server}}\");");
    all_are_denied(
        &forbidden,
        &["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"],
    )
}

#[test]
fn another_address_of_a_server_is_another_server() -> Result<()> {
    // What is permitted is one address; a list of what is forbidden would have to name them all.
    let permitted = "permit (principal, action, resource in Server::\"{server}\");";
    all_are_denied(permitted, &["::1", "::", "127.0.0.2"])
}
