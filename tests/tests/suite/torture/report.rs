//! What the peers print of their sessions.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    /// As the peers write it.
    pub(super) fn named(name: &str) -> Result<Self> {
        match name {
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            other => bail!("{other:?} is no side"),
        }
    }
}

/// How a side saw its session end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The other side closed.
    Eof,
    /// The other side reset, or was gone when something was sent to it.
    Reset,
    /// It ended the session itself.
    Left,
    /// Nothing went on for minutes.
    Stuck,
    /// A byte came that is not the one meant.
    Wrong,
    /// The session did not begin.
    Refused,
    /// Sending failed, and nothing told that the session had ended.
    Open,
}

/// How a session is to end; the names are explained in `torture_script.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    HalfClose,
    Close,
    Unread,
    Reset,
    Abort,
}

/// One side's line.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) side: Side,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) end: End,
    pub(super) cancels: u64,
    pub(super) ending: Ending,
    pub(super) ender: Side,
    pub(super) client_total: u64,
    pub(super) server_total: u64,
}

/// The sessions of one program by their seeds.
pub(super) fn reports(stdout: &str) -> Result<BTreeMap<String, Report>> {
    stdout
        .lines()
        .filter_map(|line| line.strip_prefix("session "))
        .map(|line| {
            let words: BTreeMap<&str, &str> = line
                .split(' ')
                .filter_map(|word| word.split_once('='))
                .collect();
            let seed = words.get("seed").context("a session has a seed")?;
            Ok((
                (*seed).to_owned(),
                report(&words).with_context(|| line.to_owned())?,
            ))
        })
        .collect()
}

/// The keys of the cancel requests that a server has had.
pub(super) fn cancelled(stdout: &str) -> BTreeSet<&str> {
    stdout
        .lines()
        .filter_map(|line| line.strip_prefix("cancel seed="))
        .collect()
}

fn report(words: &BTreeMap<&str, &str>) -> Result<Report> {
    let word = |name: &str| {
        words
            .get(name)
            .copied()
            .with_context(|| format!("no {name}"))
    };
    let number = |name: &str| -> Result<u64> { Ok(word(name)?.parse()?) };
    Ok(Report {
        side: Side::named(word("side")?)?,
        sent: number("sent")?,
        received: number("received")?,
        end: match word("end")? {
            "eof" => End::Eof,
            "reset" => End::Reset,
            "left" => End::Left,
            "stuck" => End::Stuck,
            "wrong" => End::Wrong,
            "refused" => End::Refused,
            "open" => End::Open,
            other => bail!("{other:?} is no end"),
        },
        cancels: number("cancels")?,
        ending: match word("ending")? {
            "half_close" => Ending::HalfClose,
            // Who is killed leaves as who closes: with everything read, or with something unread.
            "close" | "parked" => Ending::Close,
            "unread" | "parked_unread" => Ending::Unread,
            "reset" => Ending::Reset,
            "abort" => Ending::Abort,
            other => bail!("{other:?} is no ending"),
        },
        ender: Side::named(word("ender")?)?,
        client_total: number("client_total")?,
        server_total: number("server_total")?,
    })
}
