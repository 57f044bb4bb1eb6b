//! Permits and denials, one policy at a time.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};
use pgusher_tests::authority::LocalAuthority;
use pgusher_tests::cluster::{Tls, VERSIONS, Version};
use pgusher_tests::process::run;
use pgusher_tests::programs::{compiled, copy_of};
use pgusher_tests::stage::Setup;
use pgusher_tests::wire;

use super::{ALL, is_told, psql, was_denied, works};
use crate::expect::{accepted_session, field_is, in_order};
use crate::tls::minted;

#[test]
fn a_denied_client_is_told_by_which_policy_and_in_its_words() -> Result<()> {
    let policy = "permit (principal, action, resource);\n\
        @id(\"no-postgres\") @deny_message(\"ask the DBAs\")\n\
        forbid (principal, action == Action::\"connect\", resource)\n\
        when { context has startup && context.startup has user && context.startup.user == \"postgres\" };";
    for version in VERSIONS {
        Setup::with(version)
            .policy("enforce", policy)
            .play(|stage| {
                let denied = psql(stage, "disable")?;
                is_told(
                    &denied,
                    &[
                        "FATAL",
                        "pgusher's policy \"no-postgres\" denies this connection: ask the DBAs",
                    ],
                )?;
                let record = stage.pgusher.trail.only_session()?;
                was_denied(&record)?;
                field_is(&record, "/policy/policies/0", "no-postgres")?;
                field_is(&record, "/startup/user", "postgres")?;
                field_is(&record, "/bytes_to_server", 0)
            })?;
    }
    Ok(())
}

#[test]
fn what_no_policy_permits_is_denied_inside_tls_too() -> Result<()> {
    for version in VERSIONS {
        Setup::with(version).policy("enforce", "").play(|stage| {
            for sslmode in ["disable", "require"] {
                is_told(
                    &psql(stage, sslmode)?,
                    &["no policy of pgusher's permits this connection"],
                )?;
            }
            for record in stage.pgusher.trail.wait_for_sessions(2)? {
                was_denied(&record)?;
                // Not even asked about encryption.
                field_is(&record, "/bytes_to_server", 0)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn direct_tls_is_denied_in_words() -> Result<()> {
    Setup::with(Version::V18)
        .policy("enforce", "")
        .play(|stage| {
            let connection = "dbname=postgres sslmode=require sslnegotiation=direct";
            let denied = run(&mut stage.psql_to(connection, "select 1")?)?;
            is_told(&denied, &["no policy of pgusher's permits this connection"])?;
            was_denied(&stage.pgusher.trail.only_session()?)
        })
}

#[test]
fn direct_tls_is_asked_about_as_what_it_is() -> Result<()> {
    let policy =
        "permit (principal, action, resource) when { context.tls.encryption == \"direct_tls\" };";
    Setup::with(Version::V18)
        .policy("enforce", policy)
        .play(|stage| {
            let connection = "dbname=postgres sslmode=require sslnegotiation=direct";
            works(&run(&mut stage.psql_to(connection, "select 6 * 7")?)?)?;
            is_told(
                &psql(stage, "require")?,
                &["no policy of pgusher's permits this connection"],
            )
        })
}

#[test]
fn a_program_is_permitted_by_the_file_that_runs_and_not_by_its_name() -> Result<()> {
    let connect = compiled("connect")?;
    let policy = format!(
        "permit (principal in Executable::\"{}\", action, resource);",
        connect.display()
    );
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let dial = |program: &Path| {
                let port = stage.cluster.port.to_string();
                run(stage
                    .cgroup
                    .command(program)?
                    .args(["thread", "127.0.0.1", &port]))
            };
            ensure!(dial(&connect)?.success().is_ok());
            // The same bytes elsewhere are another file.
            let impostor = copy_of("connect", "connect-impostor")?;
            dial(&impostor)?.failure()?;
            let records = in_order(stage, 2)?;
            accepted_session(&records[0], "postgres")?;
            was_denied(&records[1])
        })
}

#[test]
fn a_permit_for_a_database_is_none_for_a_session_that_nobody_can_see_into() -> Result<()> {
    let policy = "permit (principal, action, resource == Database::\"{server}/postgres\");";
    for version in VERSIONS {
        Setup::with(version)
            .policy("enforce", policy)
            .play(|stage| {
                works(&psql(stage, "disable")?)?;
                is_told(
                    &psql(stage, "require")?,
                    &["no policy of pgusher's permits this connection"],
                )?;
                let other =
                    run(&mut stage.psql_to("dbname=template1 sslmode=disable", "select 1")?)?;
                is_told(&other, &["no policy of pgusher's permits this connection"])?;
                let records = in_order(stage, 3)?;
                accepted_session(&records[0], "postgres")?;
                was_denied(&records[1])?;
                field_is(&records[2], "/startup/database", "template1")?;
                was_denied(&records[2])
            })?;
    }
    Ok(())
}

#[test]
fn a_permit_for_the_server_lets_tls_pass() -> Result<()> {
    let policy = "permit (principal, action, resource in Server::\"{server}\");";
    for version in VERSIONS {
        Setup::with(version)
            .policy("enforce", policy)
            .play(|stage| {
                works(&psql(stage, "require")?)?;
                works(&psql(stage, "disable")?)?;
                let record = &in_order(stage, 2)?[0];
                field_is(record, "/encryption", "tls")?;
                field_is(record, "/policy/decision", "allow")?;
                field_is(record, "/policy/policies/0", "policy.cedar#1")
            })?;
    }
    Ok(())
}

#[test]
fn a_server_without_tls_is_asked_before_the_database_is_known() -> Result<()> {
    let policy = "permit (principal, action, resource == Database::\"{server}/postgres\");";
    Setup::with(Version::V15)
        .tls(Tls::Off)
        .policy("enforce", policy)
        .play(|stage| {
            works(&psql(stage, "prefer")?)?;
            let other = run(&mut stage.psql_to("dbname=template1 sslmode=prefer", "select 1")?)?;
            is_told(&other, &["no policy of pgusher's permits this connection"])?;
            let records = in_order(stage, 2)?;
            field_is(&records[0], "/encryption", "refused")?;
            field_is(&records[0], "/policy/decision", "allow")?;
            field_is(&records[1], "/encryption", "refused")?;
            field_is(&records[1], "/close", "policy_denied")
        })
}

#[test]
fn a_policy_sees_what_the_server_would_see() -> Result<()> {
    let policy = "permit (principal, action, resource)\n\
        unless { context has startup && context.startup has user && context.startup.user == \"postgres\" };";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let parameters = [
                [("user", "nobody"), ("user", "postgres")],
                [("user", "nobody"), ("options", "-c role=postgres")],
            ];
            let [twice, role] = parameters.map(|parameters| -> Result<String> {
                let mut stream = stage.dial()?;
                stream.write_all(&wire::startup_with(&parameters)?)?;
                let message = wire::read_message(&mut stream)?;
                Ok(message.field(b'M').unwrap_or_default())
            });
            // The last one wins.
            let (twice, role) = (twice?, role?);
            ensure!(twice.contains("no policy of pgusher's permits"), "{twice}");
            // The server's own words: it let pgusher's answer through and looked the user up.
            ensure!(role.contains("\"nobody\""), "{role}");
            let records = in_order(stage, 2)?;
            was_denied(&records[0])?;
            field_is(&records[1], "/policy/decision", "allow")
        })
}

#[test]
fn replication_needs_a_permit_of_its_own() -> Result<()> {
    let policy = "permit (principal, action == Action::\"connect\", resource);";
    for version in VERSIONS {
        Setup::with(version)
            .policy("enforce", policy)
            .play(|stage| {
                works(&psql(stage, "disable")?)?;
                let connection = "dbname=postgres sslmode=disable replication=database";
                let denied = run(&mut stage.psql_to(connection, "IDENTIFY_SYSTEM")?)?;
                is_told(
                    &denied,
                    &["no policy of pgusher's permits this replication connection"],
                )?;
                let record = &in_order(stage, 2)?[1];
                field_is(record, "/policy/action", "replicate")?;
                was_denied(record)
            })?;
    }
    Ok(())
}

#[test]
fn observing_denies_nobody_and_records_what_would_be() -> Result<()> {
    Setup::with(Version::V15)
        .policy("observe", "")
        .play(|stage| {
            for sslmode in ["disable", "require"] {
                works(&psql(stage, sslmode)?)?;
            }
            for record in stage.pgusher.trail.wait_for_sessions(2)? {
                field_is(&record, "/policy/mode", "observe")?;
                field_is(&record, "/policy/decision", "deny")?;
            }
            ensure!(stage.pgusher.counter("/policy/denied")? == 2);
            Ok(())
        })
}

#[test]
fn a_policys_limit_on_sessions_is_told_as_one() -> Result<()> {
    let policy = "@id(\"two\") @max_sessions(\"2\") permit (principal, action, resource);";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let log_in = || -> Result<_> {
                let mut stream = stage.dial()?;
                wire::log_in(&mut stream, "postgres")?;
                Ok(stream)
            };
            let (first, _second) = (log_in()?, log_in()?);
            is_told(
                &psql(stage, "disable")?,
                &["pgusher's policy \"two\" permits 2 sessions at one time, and they are there"],
            )?;
            drop(first);
            stage.pgusher.trail.wait_for_sessions(2)?;
            works(&psql(stage, "disable")?)
        })
}

#[test]
fn a_policy_may_ask_for_statements_on_record() -> Result<()> {
    let policy = "permit (principal, action, resource);\n\
        @audit(\"statements\") permit (principal, action, resource == Database::\"{server}/postgres\");";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            works(&psql(stage, "disable")?)?;
            run(&mut stage.psql_to("dbname=template1 sslmode=disable", "select 1")?)?.success()?;
            let records = in_order(stage, 2)?;
            field_is(&records[0], "/statements/recorded", 1)?;
            field_is(&records[0], "/policy/obligations/audit", "statements")?;
            field_is(&records[1], "/statements/recorded", 0)
        })
}

#[test]
fn a_policy_may_ask_for_tls_to_end_at_pgusher() -> Result<()> {
    let policy = "permit (principal, action, resource);\n\
        @tls(\"terminate\") permit (principal, action, resource == Database::\"{server}/postgres\");";
    let authority = LocalAuthority::init()?;
    let settings = format!("[[route]]\ntls = \"by-policy\"\n{}", minted(&authority));
    let plain = "permit (principal, action, resource);";
    for (policy, encryption) in [(policy, "tls_terminated"), (plain, "tls")] {
        Setup::with(Version::V15)
            .file(settings.clone())
            .policy("enforce", policy)
            .play(|stage| {
                let connection = "dbname=postgres sslmode=require channel_binding=disable";
                works(&run(&mut stage.psql_to(connection, "select 6 * 7")?)?)?;
                let record = stage.pgusher.trail.only_session()?;
                field_is(&record, "/encryption", encryption)
            })?;
    }
    Ok(())
}

#[test]
fn observing_denies_nothing_on_record_for_tls_that_would_end_at_pgusher() -> Result<()> {
    let policy = "@tls(\"terminate\") permit (principal, action, resource);";
    let authority = LocalAuthority::init()?;
    let by_policy = format!("[[route]]\ntls = \"by-policy\"\n{}", minted(&authority));
    for (settings, decision) in [(by_policy, "allow"), (String::new(), "deny")] {
        Setup::with(Version::V15)
            .file(settings)
            .policy("observe", policy)
            .play(|stage| {
                works(&psql(stage, "require")?)?;
                let record = stage.pgusher.trail.only_session()?;
                field_is(&record, "/encryption", "tls")?;
                field_is(&record, "/policy/decision", decision)
            })?;
    }
    Ok(())
}

#[test]
fn where_tls_cannot_end_as_a_policy_asks_the_session_is_denied() -> Result<()> {
    let policy = "@id(\"seen\") @tls(\"terminate\") permit (principal, action, resource);";
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            let told =
                "pgusher's policy \"seen\" wants TLS to end at pgusher, and it passes through here";
            is_told(&psql(stage, "require")?, &[told])?;
            was_denied(&stage.pgusher.trail.only_session()?)
        })
}

#[test]
fn a_policy_that_fails_to_evaluate_denies() -> Result<()> {
    let policy = format!(
        "{ALL}\nforbid (principal, action, resource) when {{ resource.port * 9223372036854775807 < 0 }};"
    );
    Setup::with(Version::V15)
        .policy("enforce", policy)
        .play(|stage| {
            is_told(
                &psql(stage, "disable")?,
                &["pgusher's policy could not be evaluated"],
            )?;
            let record = stage.pgusher.trail.only_session()?;
            was_denied(&record)?;
            let error = record["policy"]["errors"][0].as_str().unwrap_or_default();
            ensure!(error.contains("overflow"), "{record}");
            Ok(())
        })
}
