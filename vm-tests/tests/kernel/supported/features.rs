//! What the kernel gives, as pgusher itself sees it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use pgusher_tests::cluster::Version;
use pgusher_tests::pgusher::binary;
use pgusher_tests::process::run;
use pgusher_tests::programs::c_client;
use pgusher_tests::stage::Setup;
use serde_json::Value;
use vm_tests::facts;

#[test]
fn doctor_misses_nothing() -> Result<()> {
    let finished = run(Command::new(binary()?).args(["doctor", "--json"]))?;
    let checks: Value = serde_json::from_str(finished.success()?)?;
    for check in checks.as_array().context("a list of checks")? {
        let is_ok = check["verdict"] == "ok";
        if check["name"] == "unix sockets" {
            // They came late; what else goes on without them.
            ensure!(is_ok || check["verdict"] == "limited", "{check}");
            facts::tell(
                "unix sockets",
                if is_ok { "intercepted" } else { "go direct" },
            )?;
        } else if check["name"] == "fast path" {
            // Sessions do without; which of its ways there are is for the tests of data paths to tell.
            ensure!(is_ok || check["verdict"] == "limited", "{check}");
        } else {
            ensure!(is_ok, "{check}");
        }
    }
    facts::tell("eBPF programs load and attach", "yes")?;
    Ok(facts::tell("offsets from the kernel's BTF", "yes")?)
}

#[test]
fn a_connect_of_every_family_is_redirected_and_shows_the_server() -> Result<()> {
    let cases = [
        ("IPv4", "127.0.0.1"),
        ("IPv6", "::1"),
        ("IPv4-mapped IPv6", "::ffff:127.0.0.1"),
    ];
    Setup::with(Version::V15).play(|stage| {
        let port = stage.cluster.port.to_string();
        for (number, (family, address)) in (1..).zip(cases) {
            let finished =
                run(c_client(&stage.cgroup, "connect")?.args(["blocking", address, &port]))?;
            ensure!(finished.value("answer")? == "42", "{family}: {finished:?}");
            let peer = finished.value("peer")?;
            ensure!(
                peer.contains(address) && peer.contains(&port),
                "{family}: {finished:?}"
            );
            let redirected = stage.redirected()?;
            ensure!(
                redirected == number,
                "{family}: {redirected} were redirected"
            );
            facts::tell(&format!("redirect, getpeername: {family}"), "yes")?;
        }
        Ok(())
    })
}
