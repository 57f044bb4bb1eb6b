//! What an operator types: configuration, status and doctor, and what a wrong one is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Cluster, Version};
use pgusher_tests::pgusher::{Pgusher, arguments, binary, status_of};
use pgusher_tests::process::{Finished, run};
use pgusher_tests::stage::Setup;
use tempfile::TempDir;

/// Runs pgusher with a configuration file to its end.
fn run_with_file(text: &str) -> Result<Finished> {
    let directory = TempDir::new()?;
    let path = directory.path().join("pgusher.toml");
    fs::write(&path, text)?;
    run(Command::new(binary()?).args(["run", "--config"]).arg(&path))
}

#[test]
fn a_wrong_configuration_is_refused_with_line_and_column() -> Result<()> {
    let cases = [
        (
            "unknown key",
            "port = [5432]\nprot = [1]\n",
            "line 2, column 1",
            "prot",
        ),
        (
            "wrong type",
            "\nmax_sessions = \"many\"\n",
            "line 2, column 16",
            "many",
        ),
        ("no TOML", "port = [5432\n", "line", "port"),
        (
            "unknown value",
            "audit_overflow = \"perhaps\"\n",
            "line 1, column 18",
            "perhaps",
        ),
    ];
    for (name, text, position, word) in cases {
        let finished = run_with_file(text)?;
        let message = finished.failure()?;
        ensure!(
            message.contains(position) && message.contains(word),
            "{name}: {message}"
        );
        ensure!(
            message.contains("pgusher.toml"),
            "{name}: the message names no file: {message}"
        );
    }
    Ok(())
}

#[test]
fn every_setting_of_the_command_line_can_stand_in_the_file() -> Result<()> {
    let cluster = Cluster::shared(Version::V15)?;
    let cgroup = TestCgroup::create()?;
    let directory = TempDir::new()?;
    let mut text = String::new();
    for argument in arguments(&cgroup, &[], directory.path()).iter().skip(1) {
        let (flag, value) = argument.split_once('=').unwrap_or((argument, ""));
        text.push_str(&format!(
            "{} = \"{value}\"\n",
            flag.trim_start_matches("--").replace('-', "_")
        ));
    }
    text.push_str(&format!("port = [{}]\nlisten_port = 0\n", cluster.port));
    text.push_str(
        "audit_overflow = \"drop\"\naudit_queue = 100\nmax_sessions = 5\nlog = \"info\"\n",
    );
    for timeout in ["startup", "dial", "half_closed", "drain"] {
        text.push_str(&format!("{timeout}_timeout = \"5s\"\n"));
    }
    let path = directory.path().join("pgusher.toml");
    fs::write(&path, text)?;
    let mut command = cgroup.command(binary()?)?;
    let mut pgusher = Pgusher::start_command(
        command.args(["run", "--config"]).arg(&path),
        directory.path(),
    )?;
    let status = pgusher.status()?;
    ensure!(
        status["ports"] == serde_json::json!([cluster.port]),
        "{status}"
    );
    ensure!(
        status["cgroup"] == cgroup.path().display().to_string(),
        "{status}"
    );
    pgusher.signal(Signal::SIGTERM)?;
    let finished = pgusher.wait_for_end()?;
    ensure!(finished.status.success(), "{finished:?}");
    Ok(())
}

#[test]
fn the_admin_socket_belongs_to_its_owner_alone() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mode = fs::metadata(stage.pgusher.admin_socket())?
            .permissions()
            .mode();
        ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
        let mut stranger = Command::new("setpriv");
        stranger
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(binary()?);
        let finished = run(stranger
            .args(["status", "--admin-socket"])
            .arg(stage.pgusher.admin_socket()))?;
        finished.failure()?;
        run(&mut stage.psql("select 1")?)?.success()?;
        Ok(())
    })
}

#[test]
fn a_second_instance_on_the_same_admin_socket_is_refused() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        let mut command = stage.cgroup.command(binary()?)?;
        command.args(arguments(
            &stage.cgroup,
            &[stage.cluster.port],
            stage.directory(),
        ));
        let finished = run(&mut command)?;
        let message = finished.failure()?;
        ensure!(message.contains("admin.sock"), "{message}");
        // The first one is none the worse for it.
        ensure!(run(&mut stage.psql("select 1")?)?.success()? == "1");
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        Ok(())
    })
}

#[test]
fn status_tells_people_and_programs_the_same() -> Result<()> {
    Setup::with(Version::V15).play(|stage| {
        run(&mut stage.psql("select 1")?)?.success()?;
        let status = stage.pgusher.status()?;
        ensure!(status["pid"] == stage.pgusher.pid(), "{status}");
        ensure!(
            status["ports"] == serde_json::json!([stage.cluster.port]),
            "{status}"
        );
        let people = run(Command::new(binary()?)
            .args(["status", "--admin-socket"])
            .arg(stage.pgusher.admin_socket()))?;
        ensure!(
            people.success()?.contains(&stage.pgusher.pid().to_string()),
            "{people:?}"
        );
        Ok(())
    })
}

#[test]
fn status_without_an_instance_fails_and_says_so() -> Result<()> {
    let directory = TempDir::new()?;
    let finished = status_of(&directory.path().join("nobody.sock"))?;
    ensure!(finished.status.code() == Some(1), "{finished:?}");
    ensure!(finished.stderr.contains("nobody.sock"), "{finished:?}");
    Ok(())
}

#[test]
fn a_listener_on_an_intercepted_port_is_refused() -> Result<()> {
    let finished = run_with_file("port = [5432, 7654]\nlisten_port = 7654\n")?;
    ensure!(finished.failure()?.contains("7654"), "{finished:?}");
    Ok(())
}

#[test]
fn a_cgroup_that_does_not_exist_is_refused_by_name() -> Result<()> {
    let finished = run_with_file("cgroup = \"/no/such/cgroup\"\naudit_sink = \"stdout\"\n")?;
    ensure!(
        finished.failure()?.contains("/no/such/cgroup"),
        "{finished:?}"
    );
    Ok(())
}

#[test]
fn doctor_finds_this_machine_fit() -> Result<()> {
    let finished = run(Command::new(binary()?).args(["doctor", "--json"]))?;
    let report: serde_json::Value = serde_json::from_str(finished.success()?)?;
    ensure!(report.is_object() || report.is_array(), "{report}");
    run(Command::new(binary()?).arg("doctor"))?.success()?;
    Ok(())
}

#[test]
fn a_command_whose_output_nobody_reads_ends_without_a_word() -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let ended = Command::new(binary()?)
        .args(["policy", "schema"])
        .stdout(writer)
        .output()?;
    ensure!(
        ended.status.code() == Some(1) && ended.stderr.is_empty(),
        "{ended:?}"
    );
    Ok(())
}

/// As company-wide authorities are called. What is made of its name by the certificate library has one OU.
#[test]
fn an_authority_whose_certificates_nobody_could_verify_is_refused() -> Result<()> {
    let directory = TempDir::new()?;
    let at = |name: &str| directory.path().join(name);
    let made = run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "30", "-subj", "/OU=a/OU=b/CN=root"])
        .arg("-keyout")
        .arg(at("ca.key"))
        .arg("-out")
        .arg(at("ca.crt")))?;
    made.success()?;
    fs::set_permissions(at("ca.key"), fs::Permissions::from_mode(0o600))?;
    let route = format!(
        "[[route]]\ntls = \"terminate\"\nca = \"{}\"\n",
        directory.path().display()
    );
    let refused = run_with_file(&route)?;
    let message = refused.failure()?;
    ensure!(message.contains("two parts of one kind"), "{message}");
    Ok(())
}
