//! The table in docs/kernels.md: what each kernel gives, as the guests found it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;

use super::verdict::Report;
use crate::document;

/// The file, below the root of the workspace.
const FILE: &str = "docs/kernels.md";
/// What stands behind this line is written here.
const BEGIN: &str = "<!-- begin: written by `cargo xtask vm-test` -->\n";

/// Writes the table anew if every kernel did well.
///
/// # Errors
///
/// When the file cannot be read or written, or has no place for the table.
pub(super) fn write(reports: &[Report]) -> Result<()> {
    if !reports.iter().all(Report::is_success) {
        return Ok(());
    }
    document::write_part(FILE, BEGIN, &table(reports))
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
    fn a_fact_that_a_kernel_does_not_tell_is_a_dash() {
        let mut report = Report::of("6.1");
        report.read("fact\tring buffer\tyes");
        report.read("test a ... ok");
        let table = table(&[report, Report::of("5.10")]);
        assert_eq!(
            table,
            "| | 6.1 | 5.10 |\n|---|---|---|\n| *tests that passed* | 1 | 0 |\n| ring buffer | yes | – |\n"
        );
    }
}
