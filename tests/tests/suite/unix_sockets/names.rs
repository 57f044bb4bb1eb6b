//! Which socket a path leads to: from where its client looks it up, by whatever name, in whatever namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::netns::NetNs;
use pgusher_tests::process::run;
use pgusher_tests::programs::source;
use pgusher_tests::stage::Setup;

use super::{PYTHON, client, record_of, redirected, server, socket_path};
use crate::expect::{fact, field_is};

const PORT: u16 = 61_203;

#[test]
fn a_link_is_on_record_as_the_socket_it_leads_to() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let link = stage.directory().join("linked");
        symlink(stage.cluster.socket_directory(), &link)?;
        let dialled = link.join(format!(".s.PGSQL.{}", stage.cluster.port));
        let dialled = dialled.display().to_string();
        let finished = run(&mut client(stage, "ask", &dialled)?)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        ensure!(finished.value("peer")? == dialled, "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", socket_path(stage))
    })
}

#[test]
fn a_socket_that_is_not_called_as_a_servers_is_left_alone() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        // By its name alone a server's socket is known: docs/threat-model.md.
        let alias = stage.directory().join("alias");
        symlink(socket_path(stage), &alias)?;
        let alias = alias.display().to_string();
        let finished = run(&mut client(stage, "ask", &alias)?)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        ensure!(redirected(stage)? == 0, "it was intercepted");
        run(&mut stage.psql("select 1")?)?.success()?;
        Ok(())
    })
}

#[test]
fn what_is_not_there_is_told_as_a_server_that_is_not_there() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        let path = format!("{}/.s.PGSQL.{PORT}", stage.directory().display());
        let finished = run(&mut client(stage, "ask", &path)?)?;
        ensure!(finished.value("sqlstate")? == "57P03", "{finished:?}");
        let message = finished.value("message")?;
        ensure!(message.contains("No such file"), "{message}");
        // Nobody listens behind it any more.
        drop(server("name", &path)?);
        let finished = run(&mut client(stage, "ask", &path)?)?;
        let message = finished.value("message")?;
        ensure!(message.contains("refused"), "{message}");
        field_is(
            &record_of(stage, &finished)?,
            "/close",
            "upstream_unreachable",
        )
    })
}

#[test]
fn abstract_names_are_intercepted_too() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        let name = format!("@{}/.s.PGSQL.{PORT}", stage.cgroup.name()?);
        let _server = server("name", &name)?;
        let finished = run(&mut client(stage, "ask", &name)?)?;
        ensure!(finished.value("message")? == name, "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", name)
    })
}

#[test]
fn a_client_in_another_network_namespace_is_intercepted() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        for namespace in [NetNs::create()?, NetNs::create_down()?] {
            let before = (
                redirected(stage)?,
                stage.pgusher.counter("/namespaces/opened")?,
            );
            let path = socket_path(stage);
            let in_it = |way: &str| {
                let mut command = namespace.command(&stage.cgroup, PYTHON)?;
                run(command.arg(source("unix.py")).args([way, &path]))
            };
            in_it("ask")?.success()?;
            let opened = |opened| opened > before.1;
            stage
                .pgusher
                .wait_for_counter("/namespaces/opened", opened)?;
            let finished = in_it("ask")?;
            ensure!(finished.value("answer")? == "42", "{finished:?}");
            ensure!(redirected(stage)? == before.0 + 1, "went direct");
            let record = record_of(stage, &finished)?;
            field_is(&record, "/destination/path", path.clone())?;
            let others = fact(&record, "other_namespaces", "kernel")?;
            ensure!(*others == serde_json::json!(["net"]), "{others}");
        }
        Ok(())
    })
}

#[test]
fn a_socket_that_is_mounted_elsewhere_is_known_by_its_place_on_this_host() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let elsewhere = stage.directory().join("elsewhere");
        fs::create_dir(&elsewhere)?;
        let dialled = format!("{}/.s.PGSQL.{}", elsewhere.display(), stage.cluster.port);
        let mut command = stage.cgroup.command("unshare")?;
        command.args([
            "--mount",
            "sh",
            "-c",
            r#"mount --bind "$0" "$1" && exec /usr/bin/python3 "$2" ask "$3""#,
        ]);
        command
            .arg(stage.cluster.socket_directory())
            .arg(&elsewhere);
        let finished = run(command.arg(source("unix.py")).arg(&dialled))?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        ensure!(finished.value("peer")? == dialled, "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", socket_path(stage))
    })
}

#[test]
fn a_server_that_was_bound_through_a_link_is_known_by_its_place_on_this_host() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        // As Debian has it: unix_socket_directories = '/var/run/postgresql', and /var/run is a link.
        let root = stage.directory().canonicalize()?;
        let (real, linked, elsewhere) = (
            root.join("real"),
            root.join("linked"),
            root.join("elsewhere"),
        );
        fs::create_dir(&real)?;
        fs::create_dir(&elsewhere)?;
        symlink(&real, &linked)?;
        let in_directory = |directory: &Path| format!("{}/.s.PGSQL.{PORT}", directory.display());
        let bound = in_directory(&linked);
        let _server = server("name", &bound)?;
        let script = r#"mount --bind "$0" "$1" && exec /usr/bin/python3 "$2" ask "$3""#;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--mount", "sh", "-c", script]);
        command.arg(&real).arg(&elsewhere).arg(source("unix.py"));
        let finished = run(command.arg(in_directory(&elsewhere)))?;
        ensure!(finished.value("message")? == bound, "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", in_directory(&real))
    })
}

#[test]
fn a_link_in_a_mount_namespace_does_not_lend_its_name() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        // What is a permitted path on this host is a link there, to a file that another server's socket is mounted on.
        let (permitted, file) = (
            stage.directory().join("permitted"),
            stage.directory().join("x"),
        );
        fs::create_dir(&permitted)?;
        fs::write(&file, "")?;
        let dialled = format!("{}/.s.PGSQL.{PORT}", permitted.display());
        let script = r#"mount --bind "$0" "$1" && mount -t tmpfs none "$2" && ln -s "$1" "$3" &&
            exec /usr/bin/python3 "$4" ask "$3""#;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--mount", "sh", "-c", script]);
        command.arg(socket_path(stage)).arg(&file).arg(&permitted);
        let finished = run(command.arg(&dialled).arg(source("unix.py")))?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        ensure!(finished.value("peer")? == dialled, "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", socket_path(stage))
    })
}

#[test]
fn a_link_on_this_host_lends_no_name_either() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        // What is a permitted path on this host leads to another server; in the client's place it is one by itself.
        let home = stage.directory().join("home");
        fs::create_dir(&home)?;
        let (permitted, real) = (home.join("pg"), stage.cluster.socket_directory());
        symlink(&real, &permitted)?;
        let dialled = permitted.join(format!(".s.PGSQL.{}", stage.cluster.port));
        let script = r#"mount -t tmpfs none "$0" && mkdir "$1" && mount --bind "$2" "$1" &&
            exec /usr/bin/python3 "$3" ask "$4""#;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--mount", "sh", "-c", script]);
        command.arg(&home).arg(&permitted).arg(&real);
        let finished = run(command.arg(source("unix.py")).arg(&dialled))?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", socket_path(stage))
    })
}

#[test]
fn sockets_with_strange_names_keep_nobody_from_being_named() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        // The kernel's table of sockets shows names as they are.
        let strange = stage.directory().join("a\nb \u{7f}");
        let _strange = std::os::unix::net::UnixListener::bind(&strange)?;
        let file = stage.directory().join(format!(".s.PGSQL.{PORT}"));
        fs::write(&file, "")?;
        let script = r#"mount --bind "$0" "$1" && exec /usr/bin/python3 "$2" ask "$1""#;
        let mut command = stage.cgroup.command("unshare")?;
        command.args(["--mount", "sh", "-c", script]);
        let finished = run(command
            .arg(socket_path(stage))
            .arg(&file)
            .arg(source("unix.py")))?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        let record = record_of(stage, &finished)?;
        field_is(&record, "/destination/path", socket_path(stage))
    })
}

#[test]
fn a_server_of_another_mount_namespace_does_not_pass_for_one_of_this_hosts() -> Result<()> {
    Setup::with(Version::V15).port(PORT).play(|stage| {
        let directory = stage.directory().join("hidden");
        fs::create_dir(&directory)?;
        let path = format!("{}/.s.PGSQL.{PORT}", directory.display());
        let script = r#"mount -t tmpfs none "$0" && { /usr/bin/python3 "$1" name "$2" > "$0/log" & } &&
            while ! grep -q ready "$0/log"; do :; done; /usr/bin/python3 "$3" ask "$2"; kill %1"#;
        let mut command = stage.cgroup.command("unshare")?;
        command
            .args(["--mount", "bash", "-mc", script])
            .arg(&directory);
        command
            .arg(source("unix_server.py"))
            .arg(&path)
            .arg(source("unix.py"));
        let finished = run(&mut command)?;
        ensure!(finished.value("message")? == path, "{finished:?}");
        let record = record_of(stage, &finished)?;
        let told = record["destination"]["path"].as_str().unwrap_or_default();
        ensure!(told.starts_with("mnt:[") && told.ends_with(&path), "{told}");
        Ok(())
    })
}
