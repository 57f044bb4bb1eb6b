//! The table in docs/kernels.md: what each kernel gives, as the guests found it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::verdict::Report;
use crate::workspace;

/// The file, below the root of the workspace.
const FILE: &str = "docs/kernels.md";
/// What stands between these two lines is written here, everything else by people.
const BEGIN: &str = "<!-- begin: written by `cargo xtask vm-test` -->\n";
const END: &str = "<!-- end -->\n";

/// Writes the table anew if every kernel did well.
///
/// # Errors
///
/// When the file cannot be read or written, or has no place for the table.
pub(super) fn write(reports: &[Report]) -> Result<()> {
    if !reports.iter().all(Report::is_success) {
        return Ok(());
    }
    let path = workspace::root().join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
    let written = with_table(&text, &table(reports))
        .with_context(|| format!("{FILE} has no place for the table: {BEGIN}…{END}"))?;
    if written != text {
        fs::write(&path, written)?;
        println!("{FILE} has changed: look at it, and commit it");
    }
    Ok(())
}

fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// A row a fact, a column a kernel.
fn table(reports: &[Report]) -> String {
    let names: BTreeSet<&String> = reports.iter().flat_map(|it| it.facts().keys()).collect();
    let mut text = String::from("| |");
    for report in reports {
        let _ = write!(text, " {} |", report.kernel);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(reports.len()));
    text.push('\n');
    text.push_str("| *tests that passed* |");
    for report in reports {
        let _ = write!(text, " {} |", report.passed());
    }
    text.push('\n');
    for name in names {
        let _ = write!(text, "| {name} |");
        for report in reports {
            let value = report.facts().get(name).map_or("–", String::as_str);
            let _ = write!(text, " {value} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_the_one_before_and_nothing_else() {
        let mut report = Report::of("6.1");
        report.read("fact\tring buffer\tyes");
        report.read("test a ... ok");
        let table = table(&[report, Report::of("5.10")]);
        assert_eq!(
            table,
            "| | 6.1 | 5.10 |\n|---|---|---|\n| *tests that passed* | 1 | 0 |\n| ring buffer | yes | – |\n"
        );
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(
            with_table(&text, &table),
            Some(format!("before\n{BEGIN}{table}{END}after\n"))
        );
        assert_eq!(with_table("no place\n", &table), None);
    }
}
