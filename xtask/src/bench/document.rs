//! What `--write` changes: parts of docs/performance.md and docs/tls.md, and the plots.

use std::fs;

use anyhow::{Context, Result};

use super::grid::Grid;
use super::plot;
use super::report::Findings;
use super::tables::{AWAKE, Choice, ENCRYPTED, NEW_CONNECTIONS, PLAIN};
use super::{Effort, idle};
use crate::playground::Place;
use crate::{document, workspace};

const PERFORMANCE: &str = "docs/performance.md";
const TLS: &str = "docs/tls.md";

/// Everything that was found, and how.
pub(super) struct Run<'a> {
    pub(super) choice: &'a Choice,
    pub(super) effort: Effort,
    pub(super) machine: String,
    pub(super) findings: Vec<Findings<'static>>,
    pub(super) idle: Option<Grid>,
}

impl Run<'_> {
    /// Writes it where people read it.
    ///
    /// # Errors
    ///
    /// When a file cannot be written or has no place for it.
    pub(super) fn write(&self) -> Result<()> {
        for findings in &self.findings {
            let (file, part) = place_of(findings.table.name, self.choice.place);
            let mut content = format!("{}\n", self.origin());
            if findings.table.name == PLAIN.name {
                let picture = self.write_plot(findings)?;
                content.push_str(&format!("![Ratios to a direct connection]({picture})\n\n"));
            }
            content.push_str(&findings.grid().markdown());
            document::write_part(file, &begin(part), &content)?;
        }
        if let Some(grid) = &self.idle {
            let content = format!("On {}.\n\n{}", self.machine, grid.markdown());
            document::write_part(PERFORMANCE, &begin(idle::NAME), &content)?;
        }
        Ok(())
    }

    /// Returns the sentence that says where numbers come from.
    fn origin(&self) -> String {
        format!(
            "`{}`: medians of {} rounds of {} s (longer with many clients), each with the smallest and\nlargest of any round, on {}.\n",
            command(self.choice),
            self.effort.rounds,
            self.effort.seconds,
            self.machine
        )
    }

    /// Draws the plot and returns the name of its file, which is beside the page.
    fn write_plot(&self, findings: &Findings) -> Result<&'static str> {
        let (file, title) = match self.choice.place {
            Place::SameHost => ("performance.svg", "server on the same host"),
            Place::Remote => ("performance-remote.svg", "server behind a veth pair"),
        };
        let title = format!("Speed beside a direct connection, {title}");
        let path = workspace::root().join("docs").join(file);
        fs::write(&path, plot::draw(&title, &findings.groups()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(file)
    }
}

/// Returns the page of a table and what its part is called there.
fn place_of(table: &str, place: Place) -> (&'static str, &'static str) {
    match (table, place) {
        (name, _) if name == ENCRYPTED.name => (TLS, ENCRYPTED.name),
        (name, _) if name == AWAKE.name => (PERFORMANCE, AWAKE.name),
        (name, _) if name == NEW_CONNECTIONS.name => (PERFORMANCE, NEW_CONNECTIONS.name),
        (_, Place::SameHost) => (PERFORMANCE, "same host"),
        (_, Place::Remote) => (PERFORMANCE, "remote"),
    }
}

fn begin(part: &str) -> String {
    format!("<!-- begin: {part}, written by `cargo xtask bench --write` -->\n")
}

/// Returns how a person would run it again.
fn command(choice: &Choice) -> String {
    let mut command = "cargo xtask bench".to_owned();
    if choice.quick {
        command.push_str(" --quick");
    }
    if choice.place == Place::Remote {
        command.push_str(" --remote");
    }
    if !choice.against.is_empty() {
        let names: Vec<&str> = choice.against.iter().map(|it| it.name()).collect();
        command.push_str(&format!(" --against {}", names.join(",")));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playground::Product;

    #[test]
    fn the_command_is_the_one_that_was_run() {
        let mut choice = Choice {
            quick: false,
            place: Place::SameHost,
            against: Vec::new(),
            only: None,
        };
        assert_eq!(command(&choice), "cargo xtask bench");
        choice = Choice {
            quick: true,
            place: Place::Remote,
            against: vec![Product::Pgbouncer, Product::Haproxy],
            only: None,
        };
        assert_eq!(
            command(&choice),
            "cargo xtask bench --quick --remote --against pgbouncer,haproxy"
        );
    }

    #[test]
    fn the_pages_have_a_place_for_every_table() {
        let tables = [
            (PLAIN.name, Place::SameHost),
            (PLAIN.name, Place::Remote),
            (AWAKE.name, Place::SameHost),
            (NEW_CONNECTIONS.name, Place::SameHost),
            (ENCRYPTED.name, Place::SameHost),
        ];
        let mut places = tables.map(|(table, place)| place_of(table, place)).to_vec();
        places.push((PERFORMANCE, idle::NAME));
        for (file, part) in places {
            let text = fs::read_to_string(workspace::root().join(file)).unwrap();
            assert_eq!(text.matches(&begin(part)).count(), 1, "{part} in {file}");
        }
    }
}
