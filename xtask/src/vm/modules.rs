//! Kernel modules that guests load: what a cloud kernel does not have built in and the tests use.
//!
//! Packages hold no `modules.dep` (it is made when they are installed), so a module is asked itself what it needs.
//! Debian compresses newer ones, and no insmod of a guest could read that: they are archived as they will be loaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kernel::Unpacked;

/// The list of connections, which a host loads when it is asked for; and pairs of interfaces, between a namespace and
/// another.
const WANTED: [&str; 2] = ["tcp_diag", "veth"];
/// What a module's own description says it needs, between zero bytes (`.modinfo`, include/linux/module.h).
const DEPENDS: &[u8] = b"\0depends=";

/// Returns the contents of the modules in the order in which they can be loaded.
///
/// # Errors
///
/// When the kernel has no such module, or it cannot be read.
pub(super) fn wanted(kernel: &Unpacked) -> Result<Vec<Vec<u8>>> {
    let mut order = Vec::new();
    for name in WANTED {
        visit(&kernel.modules, name, &mut order)?;
    }
    Ok(order.into_iter().map(|(_, bytes)| bytes).collect())
}

/// Adds a module behind those it needs, each once.
fn visit(folder: &Path, name: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let path = find(folder, name)?
        .with_context(|| format!("no module {name} below {}", folder.display()))?;
    let bytes = read(&path)?;
    for needed in dependencies(&bytes) {
        visit(folder, &needed, order)?;
    }
    order.push((name.to_owned(), bytes));
    Ok(())
}

/// Looks for a module's file in the folders of a kernel.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = file_name.split('.').next().unwrap_or_default();
        // The same module is spelled either way.
        let is_it = file_name.contains(".ko") && stem.replace('-', "_") == name.replace('-', "_");
        if is_it {
            return Ok(Some(path));
        }
        // `build` and `source` are links out of the package.
        if path.is_dir()
            && !path.is_symlink()
            && let Some(found) = find(&path, name)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|end| end != "xz") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("xz belongs to Debian's package xz-utils")?;
    ensure!(
        output.status.success(),
        "cannot decompress {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// The names of the modules that this one needs.
fn dependencies(module: &[u8]) -> Vec<String> {
    let found = module
        .windows(DEPENDS.len())
        .position(|window| window == DEPENDS);
    let names = found
        .and_then(|at| module.get(at + DEPENDS.len()..))
        .and_then(|rest| rest.split(|byte| *byte == 0).next())
        .unwrap_or_default();
    String::from_utf8_lossy(names)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_behind_those_they_need() {
        let folder = tempfile::tempdir().unwrap();
        let net = folder.path().join("kernel/net");
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("top.ko"), b"x\0depends=low,mid-dle\0y").unwrap();
        fs::write(net.join("mid_dle.ko"), b"\0depends=low\0").unwrap();
        fs::write(net.join("low.ko"), b"\0depends=\0").unwrap();
        let mut order = Vec::new();
        visit(folder.path(), "top", &mut order).unwrap();
        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["low", "mid-dle", "top"]);
        let error = visit(folder.path(), "none", &mut order).unwrap_err();
        assert!(error.to_string().contains("no module none"), "{error}");
    }
}
