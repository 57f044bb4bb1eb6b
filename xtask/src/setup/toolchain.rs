//! The compiler and the linker of the eBPF programs.
//!
//! The eBPF target has no ready-made `core`, so it is compiled from source, which must be the source of the very
//! compiler that is used. This module finds such a compiler, installs the linker, and writes both down for the build
//! script of `proxy-userspace`. It never installs a toolchain by itself: that is the user's choice to make.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// The last bpf-linker that brings no LLVM of its own: it loads the one inside a rustup toolchain.
const LINKER_VERSION: &str = "0.10.1";
/// The LLVM that this bpf-linker is made for: it reads bitcode of this and older versions.
const LINKER_LLVM: u32 = 22;

/// A compiler that may or may not be able to build `core`.
struct Candidate {
    /// What a person calls it.
    name: String,
    rustc: PathBuf,
    /// Major version; `None` when `rustc -vV` does not say.
    llvm: Option<u32>,
    has_library_source: bool,
}

impl Candidate {
    /// Returns why this compiler will not do, or `None` if it will.
    fn objection(&self) -> Option<String> {
        match self.llvm {
            _ if !self.has_library_source => Some("has no library source (rust-src)".to_owned()),
            None => Some("does not tell its LLVM version".to_owned()),
            Some(llvm) if llvm > LINKER_LLVM => Some(format!(
                "has LLVM {llvm}, and bpf-linker {LINKER_VERSION} reads up to {LINKER_LLVM}"
            )),
            Some(_) => None,
        }
    }
}

/// Returns the compiler to use for the eBPF programs.
///
/// # Errors
///
/// When there is none; the text says what was looked at and how to get one.
pub(super) fn find_compiler() -> Result<PathBuf> {
    choose(&candidates())
}

/// Installs the linker if it is missing and writes down where it and the compiler are.
///
/// # Errors
///
/// When no compiler fits or the linker cannot be installed.
pub(super) fn prepare() -> Result<()> {
    let rustc = find_compiler()?;
    let linker = install_linker()?;
    let text = settings_text(&rustc, &linker);
    let path = workspace::toolchain_settings();
    // An unchanged file keeps its time stamp, and with it everything cargo built from it.
    if fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!(
        "eBPF toolchain: {} with {}",
        rustc.display(),
        linker.display()
    );
    Ok(())
}

/// Checks that the parts of the Rust toolchain that only the tests need are there.
///
/// # Errors
///
/// When one is missing; the text has the command that installs it.
pub(super) fn check_components() -> Result<()> {
    for component in ["fmt", "clippy"] {
        process::capture(workspace::cargo().args([component, "--version"])).with_context(|| {
            format!("cargo {component} is missing: run `rustup component add rustfmt clippy`")
        })?;
    }
    Ok(())
}

/// Lists compilers in the order of preference: rustup's, then the distribution's.
fn candidates() -> Vec<Candidate> {
    let active = std::env::var("RUSTUP_TOOLCHAIN").ok();
    ["nightly"]
        .into_iter()
        .chain(active.as_deref())
        .map(|toolchain| inspect(&["rustup", "run", toolchain, "rustc"]))
        .chain([inspect(&["/usr/bin/rustc"])])
        .flatten()
        .collect()
}

/// Asks the compiler that this command line starts about itself.
fn inspect(compiler: &[&str]) -> Result<Candidate> {
    let ask = |question: &[&str]| {
        // Looking must not download a toolchain.
        let mut command = Command::new("env");
        command.arg("RUSTUP_AUTO_INSTALL=0").args(compiler);
        process::capture(command.args(question))
    };
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    Ok(Candidate {
        name: format!("`{}`", compiler.join(" ")),
        rustc: sysroot.join("bin/rustc"),
        llvm: llvm_major(&ask(&["-vV"])?),
        has_library_source: sysroot
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists(),
    })
}

/// Takes the first candidate that nothing speaks against.
fn choose(candidates: &[Candidate]) -> Result<PathBuf> {
    if let Some(fit) = candidates.iter().find(|one| one.objection().is_none()) {
        return Ok(fit.rustc.clone());
    }
    let objections: Vec<String> = candidates
        .iter()
        .filter_map(|one| Some(format!("{} {}", one.name, one.objection()?)))
        .collect();
    bail!(
        "no compiler here can build the eBPF programs ({}): run `rustup component add rust-src`, or on Debian 12 \
         `apt-get install rustc-web rust-web-src` as root",
        objections.join("; ")
    )
}

/// Reads the major number from the line `LLVM version: 22.1.2` of `rustc -vV`.
fn llvm_major(version_text: &str) -> Option<u32> {
    let version = version_text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// Returns the installed linker, after installing it if need be.
fn install_linker() -> Result<PathBuf> {
    let folder = workspace::toolchain_dir();
    let linker = folder.join("bin/bpf-linker");
    check_linker_llvm()?;
    let wanted = format!("bpf-linker {LINKER_VERSION}");
    if process::capture(Command::new(&linker).arg("--version"))
        .is_ok_and(|version| version.trim() == wanted)
    {
        return Ok(linker);
    }
    eprintln!("Installing {wanted} (about a minute and a half):");
    process::run(
        workspace::cargo()
            .args(["install", "bpf-linker", "--locked", "--version"])
            .arg(LINKER_VERSION)
            .arg("--root")
            .arg(&folder),
    )
    .context("bpf-linker could not be installed")?;
    Ok(linker)
}

/// Checks that the toolchain that cargo runs from holds the LLVM library that the linker will load.
fn check_linker_llvm() -> Result<()> {
    let advice = format!(
        "bpf-linker {LINKER_VERSION} loads LLVM {LINKER_LLVM} from the rustup toolchain that runs cargo: \
         run `rustup toolchain install 1.95.0`, then `cargo +1.95.0 xtask …`"
    );
    let active = inspect(&["rustc"]).with_context(|| advice.clone())?;
    if active.llvm != Some(LINKER_LLVM) || !has_llvm_library(&active.rustc) {
        bail!("the active toolchain has no such library; {advice}");
    }
    Ok(())
}

/// Whether `lib` beside the compiler's `bin` holds an LLVM library.
fn has_llvm_library(rustc: &Path) -> bool {
    let library_folder = rustc
        .parent()
        .and_then(Path::parent)
        .map(|root| root.join("lib"));
    let Some(Ok(entries)) = library_folder.map(fs::read_dir) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
}

/// The hand-over to the build script: one `key=value` a line.
fn settings_text(rustc: &Path, linker: &Path) -> String {
    format!("rustc={}\nlinker={}\n", rustc.display(), linker.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, llvm: Option<u32>, has_library_source: bool) -> Candidate {
        Candidate {
            name: name.to_owned(),
            rustc: PathBuf::from(format!("/{name}/bin/rustc")),
            llvm,
            has_library_source,
        }
    }

    #[test]
    fn the_first_compiler_with_its_source_and_a_readable_llvm_is_taken() {
        let cases = [
            ("both fit", Some(22), true, "nightly"),
            ("nightly without source", Some(22), false, "system"),
            ("nightly too new", Some(23), true, "system"),
            ("nightly older than the linker", Some(21), true, "nightly"),
            ("nightly without a version", None, true, "system"),
        ];
        for (case, llvm, source, expected) in cases {
            let chosen = choose(&[
                candidate("nightly", llvm, source),
                candidate("system", Some(22), true),
            ]);
            let expected = PathBuf::from(format!("/{expected}/bin/rustc"));
            assert_eq!(chosen.unwrap(), expected, "{case}");
        }
    }

    #[test]
    fn when_no_compiler_fits_the_error_says_why_and_what_to_do() {
        let error = choose(&[
            candidate("nightly", Some(23), true),
            candidate("system", Some(22), false),
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "nightly has LLVM 23",
            "system has no library source",
            "rustup component add rust-src",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn the_llvm_version_is_read_from_the_compilers_description() {
        assert_eq!(
            llvm_major("rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.95.0\n"), None);
    }

    #[test]
    fn the_build_script_finds_one_setting_a_line() {
        let text = settings_text(Path::new("/usr/bin/rustc"), Path::new("/t/bin/bpf-linker"));
        assert_eq!(text, "rustc=/usr/bin/rustc\nlinker=/t/bin/bpf-linker\n");
    }
}
