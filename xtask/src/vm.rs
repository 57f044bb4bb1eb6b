//! `cargo xtask vm-test`: the tests on other kernels than this machine's, in virtual machines.
//!
//! Owns the order: kernels, programs, then one guest after another, each with a file system of its own; and what a person
//! sees of it. The first process of a guest is `vm-tests/src/bin/guest.rs`. Nothing here needs root, and no guest has a
//! disk, a network or a view of this machine.

mod archive;
mod build;
mod cpio;
mod document;
mod kernel;
mod modules;
mod payload;
mod plan;
mod qemu;
mod verdict;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::build::Programs;
pub(crate) use self::kernel::FOR_EVERY_CHANGE;
use self::kernel::{KERNELS, Kernel};
use self::plan::Plan;
use self::qemu::{Accelerator, Guest};
use self::verdict::{Report, table};
use crate::setup::{self, Purpose};
use crate::{interrupt, workspace};

/// How many lines of a console are shown when a guest did not do well.
const CONSOLE_LINES_SHOWN: usize = 60;

/// Which guests to run, and what to leave.
#[derive(Args)]
pub(crate) struct Options {
    /// One of 5.10, 6.1, 6.12, 6.18, 7.x, or all of them; may be given more than once
    #[arg(long, default_value = "all")]
    kernel: Vec<String>,
    /// Only run the tests whose name contains this: any of the tests, also those guests do not run otherwise
    #[arg(long)]
    filter: Option<String>,
    /// Leave the file systems that guests were booted with
    #[arg(long)]
    keep: bool,
    /// Give a shell in the guest instead of running tests: a server, and pgusher on its port
    #[arg(long)]
    shell: bool,
    /// The binary of pgusher to take instead of building one
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
}

/// Runs guests as a person asks for them.
///
/// # Errors
///
/// When something is missing, or a guest did not do well; the table has been printed then.
pub(crate) fn command(options: Options) -> Result<()> {
    setup::prepare(Purpose::Test)?;
    interrupt::defer()?;
    let kernels = chosen(&options.kernel)?;
    let programs = Programs::build(options.binary)?;
    if options.shell {
        let [kernel] = kernels.as_slice() else {
            bail!("--shell wants one kernel: give it with --kernel");
        };
        let plan = Plan::of(kernel, options.filter.as_deref());
        return Room::prepare(kernel, &programs, plan, options.keep)?.attend();
    }
    let reports = tested(&kernels, &programs, options.filter.as_deref(), options.keep)?;
    if options.filter.is_none() && kernels.len() == KERNELS.len() {
        document::write(&reports)?;
    }
    judged(&reports)
}

/// Runs the tests on chosen kernels with a binary of pgusher, for [`crate::test`].
///
/// # Errors
///
/// As [`command`].
pub(crate) fn test(names: &[&str], pgusher: &Path) -> Result<()> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let programs = Programs::build(Some(pgusher.to_path_buf()))?;
    judged(&tested(&chosen(&names)?, &programs, None, false)?)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Kernel>> {
    if names.iter().any(|name| name == "all") {
        return Ok(KERNELS.iter().collect());
    }
    names.iter().map(|name| Kernel::named(name)).collect()
}

/// Runs one guest after another: two would only wait for each other.
fn tested(
    kernels: &[&'static Kernel],
    programs: &Programs,
    filter: Option<&str>,
    keep: bool,
) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for kernel in kernels {
        let room = Room::prepare(kernel, programs, Plan::of(kernel, filter), keep)?;
        reports.push(room.test()?);
    }
    Ok(reports)
}

fn judged(reports: &[Report]) -> Result<()> {
    println!("\n{}", table(reports));
    ensure!(
        reports.iter().all(Report::is_success),
        "not every kernel did well; the consoles are in {}",
        consoles().display()
    );
    Ok(())
}

fn consoles() -> PathBuf {
    workspace::virtual_machines().join("consoles")
}

/// One guest, ready to be booted.
struct Room {
    kernel: &'static Kernel,
    image: PathBuf,
    initramfs: PathBuf,
    expected: &'static [&'static str],
    keep: bool,
}

impl Room {
    fn prepare(
        kernel: &'static Kernel,
        programs: &Programs,
        plan: Plan,
        keep: bool,
    ) -> Result<Self> {
        let unpacked = kernel.prepare()?;
        let tree = payload::tree(programs, &unpacked, &plan.text)?;
        let initramfs = workspace::virtual_machines().join(format!("{}.cpio", kernel.name));
        let file = File::create(&initramfs)
            .with_context(|| format!("cannot make {}", initramfs.display()))?;
        let room = Self {
            kernel,
            image: unpacked.image,
            initramfs,
            expected: plan.expected,
            keep,
        };
        tree.write(&mut BufWriter::new(file))?;
        Ok(room)
    }

    fn guest(&self) -> Guest<'_> {
        Guest {
            kernel: &self.image,
            initramfs: &self.initramfs,
            is_chosen: self.expected.is_empty(),
        }
    }

    /// Boots it for a person.
    fn attend(&self) -> Result<()> {
        let accelerator = Accelerator::probe(&self.guest())?;
        self.guest().attend(accelerator)
    }

    /// Boots it for its tests.
    fn test(&self) -> Result<Report> {
        let name = self.kernel.name;
        let accelerator = Accelerator::probe(&self.guest())?;
        fs::create_dir_all(consoles())?;
        let log = consoles().join(format!("{name}.log"));
        println!(
            "\n== kernel {name} ({}), console in {}",
            accelerator.name(),
            log.display()
        );
        let begun = Instant::now();
        let mut report = Report::of(name);
        let end = self.guest().run(accelerator, &log, |line| {
            if report.read(line) {
                println!("{line}");
            }
        })?;
        report.end(&end, self.expected);
        println!("== kernel {name}: {:.1} s", begun.elapsed().as_secs_f64());
        if !report.is_success() {
            let console = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = console.lines().collect();
            let first = lines.len().saturating_sub(CONSOLE_LINES_SHOWN);
            println!("{}", lines.get(first..).unwrap_or_default().join("\n"));
        }
        Ok(report)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.keep {
            println!("{} is left", self.initramfs.display());
        } else {
            // The next guest of this kernel makes it anew, whether it is there or not.
            let _ = fs::remove_file(&self.initramfs);
        }
    }
}
