//! The superuser who looks after a server past pgusher while a case is played.

use std::cell::RefCell;
use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::wire::{self, read_through};

/// A session that is opened when it is first needed and kept.
#[derive(Debug)]
pub(super) struct Administrator {
    cluster: &'static Cluster,
    session: RefCell<Option<TcpStream>>,
}

impl Administrator {
    pub(super) fn of(cluster: &'static Cluster) -> Self {
        Self {
            cluster,
            session: RefCell::new(None),
        }
    }

    /// Runs SQL and returns the first value of its first row, if there is a row.
    pub(super) fn run(&self, sql: &str) -> Result<Option<String>> {
        let mut session = self.session.borrow_mut();
        if session.is_none() {
            let mut stream = self.cluster.connect()?;
            wire::log_in(&mut stream, "postgres")?;
            *session = Some(stream);
        }
        let stream = session.as_mut().context("the session is there")?;
        stream.write_all(&wire::query(sql)?)?;
        let messages = read_through(stream, b'Z')?;
        let row = messages.iter().find(|message| message.kind == b'D');
        // DataRow: number of columns (2 bytes), length of the first (4 bytes), its text.
        let value = row.map(|row| row.body.get(6..).unwrap_or_default());
        Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
    }
}
