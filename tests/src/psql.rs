//! A psql at whose keyboard the test is.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::Running;

/// A logged-in psql that does what it is told.
#[derive(Debug)]
pub struct Psql(Running);

impl Psql {
    /// Starts the command, which is psql with its connection, and waits until it is served.
    ///
    /// # Errors
    /// When it does not start or log in.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut psql = Self(Running::start(command.arg("-XqAt"))?);
        psql.is_served("login")?;
        Ok(psql)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Says something and gets its answer; `key` has not been asked for before.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn is_served(&mut self, key: &str) -> Result<()> {
        self.0.say(&format!("select '{key}=yes';"))?;
        self.0.wait_for_value(key).map(drop)
    }

    /// Says something and finds out that there is no server any more.
    ///
    /// # Errors
    /// When there is one, or psql ends otherwise.
    pub fn finds_itself_lost(mut self) -> Result<()> {
        self.0.say("select 'lost=no';")?;
        let finished = self.0.finish()?;
        ensure!(
            finished.status.code() == Some(2) && !finished.stdout.contains("lost"),
            "{finished:?}"
        );
        Ok(())
    }
}
