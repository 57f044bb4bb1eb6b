//! What a program can observe of its own socket is the same through every data path as without pgusher.
//!
//! The program `observe` runs the cases, each in both modes of a socket, blocking and O_NONBLOCK; its peer does what the
//! case wants of it. A case's value is what calls returned, events, errors and counts. Values of a direct connection are
//! the measure: what they are is the kernel's business, that they are the same is pgusher's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cgroup::TestCgroup;
use pgusher_tests::cluster::{Version, free_port};
use pgusher_tests::data_path::{DataPath, chosen};
use pgusher_tests::process::Running;
use pgusher_tests::programs::{c_client, compiled};
use pgusher_tests::stage::Setup;

const MODES: [&str; 2] = ["blocking", "nonblocking"];

/// Values by mode and case.
type Values = BTreeMap<(&'static str, String), String>;

/// Runs every case in `cgroup`, both modes at the same time.
fn observe(cgroup: &TestCgroup, port: u16) -> Result<Values> {
    let mut running = Vec::new();
    for mode in MODES {
        let mut command = c_client(cgroup, "observe")?;
        command.args(["connect", &port.to_string(), mode]);
        running.push((mode, Running::start(&mut command)?));
    }
    let mut values = Values::new();
    for (mode, program) in running {
        let finished = program.finish()?;
        for line in finished.success()?.lines() {
            let (case, value) = line.split_once('=').context("case=value")?;
            values.insert((mode, case.to_owned()), value.trim_end().to_owned());
        }
    }
    Ok(values)
}

/// The rows of a table case by path in which the two differ.
fn differences(path: &DataPath, direct: &Values, through: &Values) -> String {
    let mut table = String::new();
    for (case @ (mode, name), value) in direct {
        let other = through.get(case).map_or("–", String::as_str);
        let may_show = *mode == "nonblocking" && path.shows_in.contains(&name.as_str());
        if other != value && !may_show {
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "{name}, {mode}\n  direct: {value}\n  {}: {other}",
                path.name
            );
        }
    }
    table
}

#[test]
fn a_socket_is_observed_as_it_would_be_directly() -> Result<()> {
    for path in chosen()? {
        let port = free_port()?;
        let setup = Setup::with(Version::V15)
            .port(port)
            .arguments(path.arguments);
        setup.play(|stage| {
            let mut server = Running::start(
                Command::new(compiled("observe")?).args(["serve", &port.to_string()]),
            )?;
            server.wait_for_value("serving")?;
            let direct = observe(&TestCgroup::create()?, port)?;
            let through = observe(&stage.cgroup, port)?;
            let differences = differences(&path, &direct, &through);
            ensure!(
                differences.is_empty() && direct.len() == through.len(),
                "of {} cases these differ:\n{differences}",
                direct.len()
            );
            ensure!(!direct.is_empty(), "there are no cases");
            Ok(())
        })?;
    }
    Ok(())
}
