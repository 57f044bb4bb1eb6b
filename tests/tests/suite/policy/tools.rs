//! The commands an operator has: schema, check, test, explain and learn.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use pgusher_tests::authority::LocalAuthority;
use pgusher_tests::cluster::Version;
use pgusher_tests::pgusher::binary;
use pgusher_tests::process::{Finished, run};
use pgusher_tests::stage::{Setup, Stage};
use serde_json::Value;

use super::{ALL, is_told, psql, works};
use crate::expect::field_is;
use crate::tls::minted;

fn pgusher(arguments: &[&str]) -> Result<Finished> {
    run(Command::new(binary()?).args(arguments))
}

#[test]
fn the_schema_is_printed_and_policies_are_checked_against_it() -> Result<()> {
    let schema = pgusher(&["policy", "schema"])?;
    ensure!(schema.success()?.contains("entity Process in [User, Group"));
    let directory = tempfile::tempdir()?;
    let check = |text: &str| -> Result<Finished> {
        fs::write(directory.path().join("a.cedar"), text)?;
        let path = directory.path().display().to_string();
        pgusher(&["policy", "check", "--policy", &path])
    };
    ensure!(check(ALL)?.success()?.starts_with("1 policies"));
    is_told(
        &check("permit (principal in Unti::\"x\", action, resource);")?,
        &["a.cedar:1:22: ", "Unti"],
    )?;
    is_told(
        &pgusher(&["run", "--policy-mode=enforce"])?,
        &["setting `policy_mode`: `enforce` needs `policy`"],
    )
}

#[test]
fn a_table_of_decisions_passes_or_says_what_is_wrong() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(
        path("policy.cedar"),
        "@id(\"billing\") permit (principal in Unit::\"billing.service\", action == Action::\"connect\", resource in ServerGroup::\"prod\");",
    )?;
    fs::write(
        path("pgusher.toml"),
        format!(
            "policy = \"{}\"\n[[server_group]]\nname = \"prod\"\ndestination = [\"192.0.2.0/24\"]\n",
            path("policy.cedar")
        ),
    )?;
    let case = |expect: &str, server: &str| {
        format!(
            "[[case]]\nname = \"{expect} on {server}\"\nexpect = \"{expect}\"\nprocess = {{ unit = \"billing.service\" }}\nserver = \"{server}\"\ndatabase = \"orders\"\nuser = \"app\"\n"
        )
    };
    let test = |cases: String| -> Result<Finished> {
        fs::write(path("cases.toml"), cases)?;
        pgusher(&[
            "policy",
            "test",
            &path("cases.toml"),
            "--config",
            &path("pgusher.toml"),
        ])
    };
    let right = case("allow", "192.0.2.7:5432") + &case("deny", "198.51.100.7:5432");
    ensure!(test(right)?.success()?.ends_with("2 passed, 0 failed"));
    let wrong = test(case("deny", "192.0.2.7:5432"))?;
    ensure!(
        wrong.failure().is_ok() && wrong.stdout.contains("allow, by billing; expected deny"),
        "{wrong:?}"
    );
    is_told(
        &test("[[case]]\nnmae = 1\n".to_owned())?,
        &["cases.toml", "nmae"],
    )
}

/// What `explain` says about this test's own psql, which has no rights of its own.
#[test]
fn explain_tells_who_a_process_is_and_what_decides() -> Result<()> {
    let policy = "@id(\"only-here\") permit (principal, action, resource == Database::\"{server}/postgres\");";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let mut stream = stage.dial()?;
            pgusher_tests::wire::log_in(&mut stream, "postgres")?;
            let ask = |database: &str, more: &[&str]| -> Result<Finished> {
                let (pid, port) = (
                    stage.dialer()?.pid().to_string(),
                    stage.cluster.port.to_string(),
                );
                let policy = stage.policy_path().display().to_string();
                let mut arguments = vec![
                    "explain",
                    "--pid",
                    &pid,
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port,
                    "--user",
                    "postgres",
                    "--database",
                    database,
                    "--policy",
                    &policy,
                ];
                arguments.extend(more);
                pgusher(&arguments)
            };
            let permitted = ask("postgres", &[])?;
            let text = permitted.success()?;
            for part in [
                "permitted, because policy_mode",
                "only-here",
                "verified",
                "member of",
            ] {
                ensure!(
                    text.contains(part) || part.starts_with("permitted"),
                    "`{part}` is not in {text}"
                );
            }
            let denied: Value = serde_json::from_str(ask("template1", &["--json"])?.success()?)?;
            field_is(&denied, "/0/ruling/decision", "deny")?;
            drop(stream);
            // The same from the record of what was.
            stage.pgusher.trail.wait_for_sessions(1)?;
            let trail = stage.pgusher.trail.path().display().to_string();
            let policy = stage.policy_path().display().to_string();
            let recorded =
                pgusher(&["explain", "--json", "--record", &trail, "--policy", &policy])?;
            let recorded: Value = serde_json::from_str(recorded.success()?)?;
            field_is(&recorded, "/0/ruling/policies/0", "only-here")?;
            field_is(&recorded, "/0/identity/pid/grade", "kernel")
        })
}

#[test]
fn explain_knows_where_tls_would_end() -> Result<()> {
    let authority = LocalAuthority::init()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(
        path("policy.cedar"),
        "@tls(\"terminate\") permit (principal, action, resource);",
    )?;
    let enforce = "policy_mode = \"enforce\"\n";
    let route = format!(
        "{enforce}[[route]]\ntls = \"by-policy\"\n{}",
        minted(&authority)
    );
    fs::write(path("by-policy.toml"), route)?;
    fs::write(path("plain.toml"), enforce)?;
    let pid = std::process::id().to_string();
    for (settings, host, decision, tls) in [
        ("by-policy.toml", "127.0.0.1", "allow", "terminate"),
        ("plain.toml", "127.0.0.1", "deny", "passthrough"),
        // There is no TLS with a server at a unix socket.
        ("by-policy.toml", "/nowhere", "deny", "passthrough"),
    ] {
        let answer = pgusher(&[
            "explain",
            "--json",
            "--pid",
            &pid,
            "--host",
            host,
            "--encryption",
            "tls",
            "--config",
            &path(settings),
            "--policy",
            &path("policy.cedar"),
        ])?;
        let answer: Value = serde_json::from_str(answer.success()?)?;
        field_is(&answer, "/0/ruling/decision", decision)?;
        field_is(&answer, "/0/route/tls", tls)?;
    }
    Ok(())
}

fn learn(stage: &Stage) -> Result<String> {
    let trail = stage.pgusher.trail.path().display().to_string();
    Ok(pgusher(&["learn", &trail])?.success()?.to_owned())
}

#[test]
fn what_was_learned_permits_what_was_seen_and_denies_the_rest() -> Result<()> {
    Setup::with(Version::V15)
        .policy("enforce", ALL)
        .play(|stage| {
            works(&psql(stage, "disable")?)?;
            stage.pgusher.trail.wait_for_sessions(1)?;
            let draft = learn(stage)?;
            let psql_path = stage.cluster.program_path("psql");
            ensure!(
                draft.contains(&format!("Executable::\"{}\"", psql_path.display())),
                "{draft}"
            );
            stage.reload_policy(&draft)?.success()?;
            works(&psql(stage, "disable")?)?;
            let denied = |connection: &str| -> Result<()> {
                let finished = run(&mut stage.psql_to(connection, "select 1")?)?;
                is_told(&finished, &["no policy of pgusher's permits"])
            };
            denied("dbname=template1 sslmode=disable")?;
            denied("dbname=postgres user=other sslmode=disable")?;
            denied("dbname=postgres sslmode=require")
        })
}
