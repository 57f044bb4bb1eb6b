//! What policies say of a unix socket: its path is the server's name.

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::netns::NetNs;
use pgusher_tests::process::run;
use pgusher_tests::programs::source;
use pgusher_tests::stage::Setup;

use super::{PYTHON, psql, socket_path};
use crate::expect::field_is;

#[test]
fn a_denial_is_told_to_psql_and_a_permit_names_the_path() -> Result<()> {
    let nobody =
        "permit (principal, action, resource == Database::\"/nowhere/.s.PGSQL.1/postgres\");";
    Setup::with(Version::V15).policy("enforce", nobody).play(|stage| {
        let finished = run(&mut psql(stage, "select 1")?)?;
        let told = finished.failure()?;
        ensure!(told.contains("pgusher"), "{told}");
        let record = stage.pgusher.trail.only_session()?;
        field_is(&record, "/close", "policy_denied")?;
        let path = socket_path(stage);
        for policy in [
            format!("permit (principal, action, resource == Database::\"{path}/postgres\");"),
            format!("permit (principal, action, resource in Server::\"{path}\");"),
            format!("permit (principal, action, resource) when {{ resource has path && resource.path == \"{path}\" }};"),
        ] {
            stage.reload_policy(&policy)?.success()?;
            run(&mut psql(stage, "select 1")?)?.success()?;
        }
        stage.reload_policy("permit (principal, action, resource) when { resource has address };")?.success()?;
        run(&mut psql(stage, "select 1")?)?.failure()?;
        Ok(())
    })
}

#[test]
fn where_policies_are_enforced_an_unknown_namespace_leads_to_no_socket() -> Result<()> {
    let anybody = "permit (principal, action, resource);";
    Setup::with(Version::V15)
        .policy("enforce", anybody)
        .play(|stage| {
            let namespace = NetNs::create_down()?;
            let path = socket_path(stage);
            let ask = || {
                let mut command = namespace.command(&stage.cgroup, PYTHON)?;
                run(command.arg(source("unix.py")).args(["ask", &path]))
            };
            let before = stage.pgusher.counter("/namespaces/opened")?;
            let first = ask()?;
            ensure!(
                first.value("error")? == "Operation not permitted",
                "{first:?}"
            );
            let opened = |opened| opened > before;
            stage
                .pgusher
                .wait_for_counter("/namespaces/opened", opened)?;
            ensure!(ask()?.value("answer")? == "42");
            Ok(())
        })
}
