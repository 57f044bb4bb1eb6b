//! What a session's two reports must say: what TCP gives two peers that are joined directly.

use anyhow::{Context, Result, ensure};

use super::report::{End, Ending, Report, Side};

/// A session that went its way.
///
/// # Errors
/// When a direct connection would have gone another.
pub(super) fn judge(client: Option<&Report>, server: Option<&Report>) -> Result<()> {
    let client = client.context("the client says nothing of it")?;
    let server = server.context("the server says nothing of it")?;
    ensure!(
        !matches!(client.end, End::Wrong | End::Stuck | End::Refused)
            && !matches!(server.end, End::Wrong | End::Stuck | End::Refused),
        "it did not go well"
    );
    if client.ending == Ending::HalfClose {
        everything_arrived(client, server.client_total, server)?;
        everything_arrived(server, server.server_total, client)?;
        return ended(&[client, server], End::Eof);
    }
    let (ender, other) = match client.ender {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    ended(&[ender], End::Left)?;
    let total = total_of(ender);
    match client.ending {
        Ending::HalfClose | Ending::Close => {
            everything_arrived(ender, total, other)?;
            everything_arrived(other, total_of(other), ender)?;
            ended(&[other], End::Eof)
        }
        // A reset overtakes nothing that the other kernel has: the ender has seen that it has everything.
        Ending::Unread | Ending::Reset => {
            everything_arrived(ender, total, other)?;
            ended(&[other], End::Reset)
        }
        Ending::Abort => {
            ensure!(other.received <= ender.sent, "more arrived than was sent");
            ended(&[other], End::Reset)
        }
    }
}

/// A session of which one side was killed while it was under way: `survivor` is the other's report.
///
/// # Errors
/// When that side was not told, or got what was never sent.
pub(super) fn judge_survivor(survivor: Option<&Report>) -> Result<()> {
    let survivor = survivor.context("the survivor says nothing of it")?;
    ensure!(
        matches!(survivor.end, End::Eof | End::Reset | End::Left),
        "the survivor was not told"
    );
    Ok(())
}

fn total_of(report: &Report) -> u64 {
    match report.side {
        Side::Client => report.client_total,
        Side::Server => report.server_total,
    }
}

fn everything_arrived(from: &Report, total: u64, to: &Report) -> Result<()> {
    ensure!(
        from.sent == total,
        "the {:?} could send {} of {total} bytes",
        from.side,
        from.sent
    );
    ensure!(
        to.received == total,
        "of {total} bytes of the {:?} {} arrived",
        from.side,
        to.received
    );
    Ok(())
}

fn ended(sides: &[&Report], end: End) -> Result<()> {
    for side in sides {
        ensure!(
            side.end == end,
            "the {:?} saw it end as {:?}, and not as {end:?}",
            side.side,
            side.end
        );
    }
    Ok(())
}

/// Both sides' reports of a session that went as it should: the client sent 10 bytes and then ended it so.
fn a_session(ending: Ending, seen_by_server: End) -> [Report; 2] {
    let client = Report {
        side: Side::Client,
        sent: 10,
        received: 0,
        end: End::Left,
        cancels: 0,
        ending,
        ender: Side::Client,
        client_total: 10,
        server_total: 0,
    };
    let server = Report {
        side: Side::Server,
        sent: 0,
        received: 10,
        end: seen_by_server,
        ..client.clone()
    };
    [client, server]
}

#[test]
fn a_lost_byte_and_another_end_are_not_let_through() -> Result<()> {
    for (ending, right, wrong) in [
        (Ending::Close, End::Eof, End::Reset),
        (Ending::Unread, End::Reset, End::Eof),
        (Ending::Reset, End::Reset, End::Eof),
        (Ending::Abort, End::Reset, End::Eof),
        (Ending::Close, End::Eof, End::Stuck),
        (Ending::Close, End::Eof, End::Wrong),
    ] {
        let [client, mut server] = a_session(ending, right);
        judge(Some(&client), Some(&server))?;
        server.end = wrong;
        ensure!(
            judge(Some(&client), Some(&server)).is_err(),
            "{ending:?} seen as {wrong:?}"
        );
        server.end = right;
        server.received = 11;
        ensure!(
            judge(Some(&client), Some(&server)).is_err(),
            "{ending:?}: a byte twice"
        );
        server.received = 9;
        let may_lose = ending == Ending::Abort;
        ensure!(
            judge(Some(&client), Some(&server)).is_ok() == may_lose,
            "{ending:?}: a byte less"
        );
    }
    Ok(())
}
