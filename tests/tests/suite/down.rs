//! What becomes of connects while pgusher is down, hung or starting again: as declared by `when_down`.

mod closed;
mod hung;
mod memory;
mod open;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use pgusher_tests::condition::{Seen, wait_until};
use pgusher_tests::stage::Stage;
use pgusher_tests::wire;

/// A new connection reaches the server, and the server sees the client itself.
fn goes_direct(stage: &Stage) -> Result<()> {
    let (peer, own) = seen_by_the_server(stage)?;
    ensure!(peer == own, "the server sees {peer}, the client is {own}");
    Ok(())
}

/// A new connection reaches the server through pgusher, and is on record when it has ended.
fn is_intercepted(stage: &Stage) -> Result<()> {
    comes_through(stage)?;
    // Whoever kills pgusher next finds its end there.
    stage.settle()
}

/// A new connection reaches the server through pgusher.
fn comes_through(stage: &Stage) -> Result<()> {
    let (peer, own) = seen_by_the_server(stage)?;
    ensure!(peer != own, "the server sees the client itself");
    Ok(())
}

fn seen_by_the_server(stage: &Stage) -> Result<(String, String)> {
    let mut stream = stage.session()?;
    let peer = wire::ask(
        &mut stream,
        "select host(inet_client_addr()) || ':' || inet_client_port()",
    )?;
    Ok((peer, stream.local_addr()?.to_string()))
}

/// Why a new connection over either address family fails.
fn refusals(stage: &Stage) -> Result<[ErrorKind; 2]> {
    let port = stage.cluster.port;
    let why = |address: SocketAddr| {
        let error = match stage.dialer()?.dial_address(address) {
            Ok(_) => anyhow::bail!("{address} is connected"),
            Err(error) => error,
        };
        let cause = error.root_cause().downcast_ref::<std::io::Error>();
        Ok(cause.with_context(|| format!("{error:#}"))?.kind())
    };
    Ok([
        why((Ipv4Addr::LOCALHOST, port).into())?,
        why((Ipv6Addr::LOCALHOST, port).into())?,
    ])
}

/// New connections fail as they do where nobody listens.
fn is_closed(stage: &Stage) -> Result<()> {
    let refusals = refusals(stage)?;
    ensure!(
        refusals == [ErrorKind::ConnectionRefused; 2],
        "{refusals:?}"
    );
    Ok(())
}

/// Waits until new connections fail.
fn wait_until_closed(stage: &Stage) -> Result<()> {
    wait_until("connects are refused", || match is_closed(stage) {
        Ok(()) => Ok(Seen::Holds(())),
        Err(error) => Ok(Seen::NotYet(format!("{error:#}"))),
    })
}
