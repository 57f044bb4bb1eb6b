//! What was measured on: the machine and the versions of everything that took part.

use std::fs;
use std::thread;

use anyhow::{Context, Result};

use crate::playground::{Playground, Product};

/// Returns it in half a sentence; `load` is what the machine did before.
///
/// # Errors
///
/// When a program does not tell its version, or there is no /proc.
pub(super) fn describe(playground: &Playground, against: &[Product], load: &str) -> Result<String> {
    let processors = thread::available_parallelism().context("cannot count processors")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("no kernel version")?;
    let mut parts = vec![
        format!("{processors} × {}", model(&cpuinfo)),
        format!("Linux {}", kernel.trim()),
        version(&playground.server.version()?),
    ];
    for product in against {
        parts.push(version(&product.version()?));
    }
    parts.push(format!("load {load} before"));
    Ok(parts.join(", "))
}

/// Returns how many tasks have lately been running or waiting to run, on average over a minute.
///
/// # Errors
///
/// When there is no /proc.
pub(super) fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn model(cpuinfo: &str) -> &str {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map_or("an unnamed processor", |(_, value)| value.trim())
}

/// Finds name and number in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` and the like.
fn version(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let number = words.iter().find(|word| is_number(word)).unwrap_or(&"?");
    match words.first() {
        Some(&"postgres") => format!("PostgreSQL {number}"),
        Some(name) => format!("{name} {number}"),
        None => "an unnamed program".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, expected) in [
            (
                "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n",
                "PostgreSQL 15.14",
            ),
            ("PgBouncer 1.18.0", "PgBouncer 1.18.0"),
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/",
                "HAProxy 2.6.12-1+deb12u4",
            ),
            ("nothing", "nothing ?"),
        ] {
            assert_eq!(version(text), expected);
        }
    }

    #[test]
    fn the_processor_is_the_first_one() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some: CPU\n\nmodel name\t: Other\n";
        assert_eq!(model(cpuinfo), "Some: CPU");
        assert_eq!(model(""), "an unnamed processor");
    }
}
