//! What a guest's console says about its tests, and the table over all kernels.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::qemu::End;

/// How a guest says what it has found out about its kernel; the rest of the line is the fact's name, a tab and its value.
const FACT: &str = "fact\t";

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
}

/// What is known of one kernel's run.
#[derive(Debug)]
pub(super) struct Report {
    /// The kernel's name.
    pub(super) kernel: &'static str,
    tests: BTreeMap<String, Outcome>,
    facts: BTreeMap<String, String>,
    /// What libtest's own closing lines add up to.
    closed: usize,
    /// Why the run as a whole is no success.
    objection: Option<String>,
}

impl Report {
    /// A run of which nothing is known yet.
    pub(super) fn of(kernel: &'static str) -> Self {
        Self {
            kernel,
            tests: BTreeMap::new(),
            facts: BTreeMap::new(),
            closed: 0,
            objection: None,
        }
    }

    /// Takes note of a line of the console; says whether it was about a test.
    pub(super) fn read(&mut self, line: &str) -> bool {
        if let Some((name, value)) = line.strip_prefix(FACT).and_then(|it| it.split_once('\t')) {
            self.facts.insert(name.to_owned(), value.to_owned());
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.closed += [" passed", " failed"]
                .iter()
                .map(|word| number_before(counts, word))
                .sum::<usize>();
        }
        let Some((name, outcome)) = outcome(line) else {
            return false;
        };
        self.tests.insert(name.to_owned(), outcome);
        true
    }

    /// Takes note of how the guest ended, and of which tests it was to run, by the beginnings of their names.
    pub(super) fn end(&mut self, end: &End, expected: &[&str]) {
        let failed = self.count(Outcome::Failed) > 0;
        self.objection = match end.objection() {
            // The failures speak for themselves.
            Some(_) if failed && matches!(end, End::Exited(_)) && self.is_complete() => None,
            None if self.tests.is_empty() => Some("no test ran".to_owned()),
            None if !self.is_complete() => Some(format!(
                "{} tests are on the console, and {} were run",
                self.tests.len(),
                self.closed
            )),
            None => expected
                .iter()
                .find(|name| !self.has_run(name))
                .map(|name| format!("there is no test {name}… any more")),
            objection => objection,
        };
    }

    fn has_run(&self, beginning: &str) -> bool {
        self.tests.keys().any(|name| name.starts_with(beginning))
    }

    fn is_complete(&self) -> bool {
        self.closed == self.tests.len()
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.tests.values().filter(|it| **it == outcome).count()
    }

    /// How many tests passed.
    pub(super) fn passed(&self) -> usize {
        self.count(Outcome::Passed)
    }

    /// What was found out about the kernel: name and value.
    pub(super) fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }

    /// Whether everything that was to run did, and passed.
    pub(super) fn is_success(&self) -> bool {
        self.objection.is_none() && self.count(Outcome::Failed) == 0
    }
}

/// Reads a line `test NAME ... ok` of libtest's.
fn outcome(line: &str) -> Option<(&str, Outcome)> {
    let (name, word) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match word {
        "ok" => Some((name, Outcome::Passed)),
        "FAILED" => Some((name, Outcome::Failed)),
        _ => None,
    }
}

fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_default()
}

/// The table kernel × test × result, what went wrong besides, and one closing line.
pub(super) fn table(reports: &[Report]) -> String {
    let names: std::collections::BTreeSet<&String> = reports
        .iter()
        .flat_map(|report| report.tests.keys())
        .collect();
    let mut text = String::new();
    for report in reports {
        let _ = write!(text, "{:<8}", report.kernel);
    }
    text.push('\n');
    for name in names {
        for report in reports {
            let word = match report.tests.get(name) {
                Some(Outcome::Passed) => "ok",
                Some(Outcome::Failed) => "FAILED",
                None => "-",
            };
            let _ = write!(text, "{word:<8}");
        }
        let _ = writeln!(text, "{name}");
    }
    let (mut passed, mut failed) = (0, 0);
    for report in reports {
        passed += report.count(Outcome::Passed);
        failed += report.count(Outcome::Failed);
        if let Some(objection) = &report.objection {
            failed += 1;
            let _ = writeln!(text, "kernel {}: {objection}", report.kernel);
        }
    }
    let _ = write!(text, "\n{passed} passed, {failed} failed");
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn report(kernel: &'static str, console: &str, status: i32) -> Report {
        let mut report = Report::of(kernel);
        for line in console.lines() {
            report.read(line);
        }
        let end = End::Exited(ExitStatus::from_raw(status << 8));
        report.end(&end, &["c"]);
        report
    }

    const PASSED: &str = "test a::b ... ok\ntest c ... ok\nfact\tring buffer\tyes\n\
                          test result: ok. 2 passed; 0 failed; 0 ignored\n";

    #[test]
    fn a_run_is_a_success_when_every_test_is_on_the_console_and_the_guest_says_so() {
        let good = report("6.1", PASSED, 1);
        assert!(good.is_success(), "{good:?}");
        assert_eq!(good.facts()["ring buffer"], "yes");
        let cases = [
            ("panicked", PASSED, 0),
            (
                "a test is missing",
                "test c ... ok\ntest result: ok. 2 passed; 0 failed",
                1,
            ),
            ("nothing ran", "", 1),
            (
                "what was to run is gone",
                "test b ... ok\ntest result: ok. 1 passed; 0 failed",
                1,
            ),
            (
                "a test failed",
                "test c ... FAILED\ntest result: FAILED. 0 passed; 1 failed",
                3,
            ),
        ];
        for (case, console, status) in cases {
            assert!(!report("6.1", console, status).is_success(), "{case}");
        }
    }

    #[test]
    fn the_table_has_a_row_a_test_and_a_column_a_kernel() {
        let old = report(
            "5.10",
            "test c ... FAILED\ntest result: FAILED. 0 passed; 1 failed",
            3,
        );
        let hung = report("6.12", "test c ... ok", 0);
        let expected = "\
5.10    6.1     6.12    
-       ok      -       a::b
FAILED  ok      ok      c
kernel 6.12: the guest's kernel panicked, or it powered off without a verdict

3 passed, 2 failed";
        assert_eq!(table(&[old, report("6.1", PASSED, 1), hung]), expected);
    }
}
