//! Namespaces that lack a loopback address, or all of them, or lose what pgusher has there.

use anyhow::{Result, ensure};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::netns::{Link, NetNs};
use pgusher_tests::stage::{Setup, Stage};

use super::{client_namespace, connect, listeners_of_ours, open, seen_from};

/// Waits until connects are redirected, or until they are not; each gets its answer.
fn wait_until_redirected(stage: &Stage, client: &NetNs, server: &str, wanted: bool) -> Result<()> {
    wait_until(&format!("redirected: {wanted}"), || {
        let before = stage.redirected()?;
        let finished = connect(stage, client, "blocking", server)?;
        ensure!(finished.value("answer")? == "42", "{finished:?}");
        let is_redirected = stage.redirected()? > before;
        Ok(Seen::when(is_redirected == wanted, || {
            format!("{:?}", stage.pgusher.status())
        }))
    })
}

#[test]
fn a_namespace_without_ipv6_is_intercepted() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        client.run("sh", &["-c", off])?;
        open(stage, &client, &link.server[0])?;
        ensure!(seen_from(stage, &client, &link.server[0])? == link.client[0]);
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        ensure!(listeners_of_ours(stage, &client)?.len() == 1);
        Ok(())
    })
}

#[test]
fn a_namespace_without_ipv4_is_intercepted() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        for device in ["lo", pgusher_tests::netns::CLIENT_DEVICE] {
            client.ip(&format!("-4 addr flush dev {device}"))?;
        }
        let [_, v6] = &link.server;
        open(stage, &client, v6)?;
        ensure!(seen_from(stage, &client, v6)? == link.client[1]);
        ensure!(stage.redirected()? == 1, "{}", stage.pgusher.status()?);
        ensure!(listeners_of_ours(stage, &client)?.len() == 1);
        Ok(())
    })
}

#[test]
fn with_loopback_down_connects_go_as_declared_until_it_is_up() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let client = NetNs::create_down()?;
        let link = Link::between(&client, stage.cluster.namespace()?)?;
        let [server, _] = &link.server;
        let opened = stage.pgusher.counter("/namespaces/opened")?;
        let failed = stage.pgusher.counter("/namespaces/failed")?;
        ensure!(seen_from(stage, &client, server)? == link.client[0]);
        stage
            .pgusher
            .wait_for_counter("/namespaces/failed", |now| now == failed + 1)?;
        ensure!(seen_from(stage, &client, server)? == link.client[0]);
        ensure!(stage.redirected()? == 0, "{}", stage.pgusher.status()?);
        ensure!(stage.pgusher.counter("/kernel/other_netns")? == 2);
        // For unix sockets, which need no loopback.
        ensure!(stage.pgusher.counter("/namespaces/opened")? == opened + 1);
        client.ip("link set lo up")?;
        wait_until_redirected(stage, &client, server, true)
    })
}

#[test]
fn what_is_redirected_into_a_dead_end_goes_as_declared_again() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        open(stage, &client, server)?;
        let others = stage.pgusher.counter("/namespaces/intercepted")?;
        client.ip("link set lo down")?;
        stage
            .pgusher
            .wait_for_counter("/namespaces/intercepted", |now| now < others)?;
        wait_until_redirected(stage, &client, server, false)?;
        client.ip("link set lo up")?;
        wait_until_redirected(stage, &client, server, true)
    })
}

#[test]
fn a_listener_that_somebody_closes_is_opened_again() -> Result<()> {
    Setup::elsewhere().play(|stage| {
        let (client, link) = client_namespace(stage)?;
        let [server, _] = &link.server;
        open(stage, &client, server)?;
        let opened = stage.pgusher.counter("/namespaces/opened")?;
        // Closes every listening socket in the namespace; whoever may administer it can do that.
        client.run("ss", &["-K", "-Hltn"])?;
        // The first connect after pgusher has noticed it.
        wait_until("others are opened", || {
            connect(stage, &client, "blocking", server)?;
            let now = stage.pgusher.counter("/namespaces/opened")?;
            Ok(Seen::when(now > opened, || {
                format!("{now}, {opened} before")
            }))
        })?;
        wait_until_redirected(stage, &client, server, true)?;
        ensure!(seen_from(stage, &client, server)? == link.client[0]);
        Ok(())
    })
}
