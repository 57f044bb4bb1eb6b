//! What a guest is made of: programs of this machine with the libraries they load, PostgreSQL, the tests, the modules.
//!
//! Owns the lists. What is on them is taken from this machine, where it is installed by `setup`; a guest sees it at the
//! same paths.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::build::Programs;
use super::cpio::Tree;
use super::kernel::Unpacked;
use super::modules;
use crate::{process, workspace};

/// Where the guest has what is made here.
const HOME: &str = "/vm";
/// The server that the tests run against, as Debian installs it.
const POSTGRES: &str = "/usr/lib/postgresql/15";

/// Programs that the tests and a person at the guest's shell run. What else busybox has is busybox's.
const TOOLS: [&str; 24] = [
    "bash",
    "bpftool",
    "busybox",
    "chmod",
    "chown",
    "chroot",
    "cp",
    "env",
    "id",
    "ip",
    "mount",
    "nsenter",
    "openssl",
    "prlimit",
    "python3",
    "rm",
    "script",
    "setpriv",
    "sh",
    "sha256sum",
    "ss",
    "stat",
    "umount",
    "unshare",
];
const POSTGRES_PROGRAMS: [&str; 4] = ["initdb", "pg_dump", "postgres", "psql"];
/// Libraries that are loaded by name while a program runs.
const PLUGINS: [&str; 7] = [
    "/usr/lib/postgresql/15/lib/dict_snowball.so",
    "/usr/lib/postgresql/15/lib/libpqwalreceiver.so",
    "/usr/lib/postgresql/15/lib/pg_stat_statements.so",
    "/usr/lib/postgresql/15/lib/pgoutput.so",
    "/usr/lib/postgresql/15/lib/plpgsql.so",
    "/usr/lib/postgresql/15/lib/test_decoding.so",
    "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
];
/// Files that programs read at run time, and folders with all that is in them.
const DATA: [&str; 14] = [
    "/etc/group",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/locale/C.utf8",
    "/usr/lib/python3.11",
    "/usr/lib/ssl",
    "/usr/share/postgresql/15",
    "/usr/share/zoneinfo/Etc/UTC",
    "/usr/share/zoneinfo/UTC",
    "/usr/share/zoneinfo/posixrules",
];
/// Folders in them that nobody needs, by name.
const LEFT_OUT: [&str; 8] = [
    "__pycache__",
    "certs",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "man",
    "private",
    "pydoc_data",
];
/// Empty folders that programs expect.
const FOLDERS: [(&str, u32); 9] = [
    ("/dev", 0o755),
    ("/mnt", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),
    ("/var/lib", 0o755),
    ("/var/tmp", 0o1777),
];
/// Folders of the root that are links into /usr on Debian; libraries are looked for there.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Puts together the file system of one guest, which runs `plan`.
///
/// # Errors
///
/// When something is missing on this machine; the text says what.
pub(super) fn tree(programs: &Programs, kernel: &Unpacked, plan: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    for (folder, permissions) in FOLDERS {
        tree.directory(Path::new(folder), permissions);
    }
    for folder in MERGED {
        tree.link(&Path::new("/").join(folder), &Path::new("usr").join(folder));
    }
    let mut loaded = add_programs(&mut tree, programs)?;
    for path in DATA {
        add_data(&mut tree, Path::new(path), Path::new(path), &mut loaded)?;
    }
    add_data(
        &mut tree,
        &Path::new(HOME).join("packed"),
        &programs.packed,
        &mut loaded,
    )?;
    let tests = workspace::root().join("tests");
    for folder in ["clients", "transcripts"].map(|name| tests.join(name)) {
        add_data(&mut tree, &folder, &folder, &mut loaded)?;
    }
    for library in libraries(&loaded)? {
        add_file(&mut tree, &library, &library)?;
    }
    add_applets(&mut tree)?;
    for (number, module) in modules::wanted(kernel)?.into_iter().enumerate() {
        let path = Path::new(HOME).join(format!("modules/{number:02}.ko"));
        tree.text(&path, 0o644, module);
    }
    tree.text(&Path::new(HOME).join("plan"), 0o644, plan);
    Ok(tree)
}

/// Adds the programs, and returns everything that has libraries of its own.
fn add_programs(tree: &mut Tree, programs: &Programs) -> Result<BTreeSet<PathBuf>> {
    let mut loaded = BTreeSet::new();
    for name in TOOLS {
        loaded.insert(tool(name)?);
    }
    let postgres = Path::new(POSTGRES).join("bin");
    loaded.extend(POSTGRES_PROGRAMS.map(|name| postgres.join(name)));
    loaded.extend(PLUGINS.map(PathBuf::from));
    for path in &loaded {
        add_file(tree, path, path)?;
    }
    for (name, source) in programs.in_guest() {
        add_file(tree, &Path::new(HOME).join(name), source)?;
        loaded.insert(source.to_path_buf());
    }
    add_file(tree, Path::new("/init"), &programs.init)?;
    loaded.insert(programs.init.clone());
    Ok(loaded)
}

/// Where Debian has a tool. What a person has put in front of it in PATH is none of the guest's business.
fn tool(name: &str) -> Result<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "`{name}` is missing on this machine: `cargo xtask setup --for test` installs what guests need"
            )
        })
}

/// Adds a file, or a folder with what is in it. What may load libraries is noted.
fn add_data(
    tree: &mut Tree,
    path: &Path,
    source: &Path,
    loaded: &mut BTreeSet<PathBuf>,
) -> Result<()> {
    if !source.is_dir() {
        let permissions = add_file(tree, path, source)?;
        if permissions & 0o111 != 0 || source.extension().is_some_and(|end| end == "so") {
            loaded.insert(source.to_path_buf());
        }
        return Ok(());
    }
    tree.directory(path, permissions(source)?);
    let entries =
        fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_left_out = LEFT_OUT.iter().any(|left_out| name == *left_out);
        // A link to nowhere, like one to a file of a package's documentation, is none of the guest's business.
        if !is_left_out && entry.path().exists() {
            add_data(tree, &path.join(&name), &entry.path(), loaded)?;
        }
    }
    Ok(())
}

/// Adds a file where the guest has it: through links like /lib, the path is the one that the tree has. Returns the
/// file's permissions.
fn add_file(tree: &mut Tree, path: &Path, source: &Path) -> Result<u32> {
    let permissions = permissions(source)?;
    let merged = MERGED
        .iter()
        .any(|folder| path.starts_with(Path::new("/").join(folder)));
    let path = match path.strip_prefix("/") {
        Ok(below) if merged => Path::new("/usr").join(below),
        _ => path.to_path_buf(),
    };
    if !tree.has(&path) {
        tree.copy(&path, permissions, source);
    }
    Ok(permissions)
}

fn permissions(source: &Path) -> Result<u32> {
    let metadata = fs::metadata(source).with_context(|| {
        format!(
            "a guest needs {}, which is not on this machine",
            source.display()
        )
    })?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Every library that the dynamic linker loads for these.
fn libraries(loaded: &BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for path in loaded {
        // A program without an interpreter is no error here, and one that is no ELF file is a script.
        let output = Command::new("ldd")
            .arg(path)
            .output()
            .context("ldd belongs to Debian's package libc-bin")?;
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        libraries.extend(paths_in(&listing));
    }
    Ok(libraries)
}

/// The paths in a listing of ldd's: `name => /path (0x…)`, or `/path (0x…)` for the linker itself.
fn paths_in(listing: &str) -> impl Iterator<Item = PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        // For a file that is no dynamic executable it names the file itself, with a colon.
        .filter(|word| !word.ends_with(':'))
        .map(PathBuf::from)
}

/// Adds busybox under the names of all the tools that are not there otherwise.
fn add_applets(tree: &mut Tree) -> Result<()> {
    let names = process::capture(Command::new(tool("busybox")?).arg("--list"))?;
    for name in names.lines() {
        let places = ["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).join(name));
        if let [place, other] = places
            && !tree.has(&place)
            && !tree.has(&other)
        {
            tree.link(&place, Path::new("/bin/busybox"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_are_the_paths_in_what_ldd_says() {
        let listing = "\tlinux-vdso.so.1 (0x00007f5d21f3a000)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f5d1f33e000)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f5d21f3c000)\n\
                       /usr/bin/script:\n\
                       \tnot a dynamic executable\n";
        let found: Vec<PathBuf> = paths_in(listing).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn a_file_below_a_merged_folder_lies_in_usr() {
        let mut tree = Tree::default();
        add_file(&mut tree, Path::new("/bin/sh"), Path::new("/bin/sh")).unwrap();
        assert!(tree.has(Path::new("/usr/bin/sh")));
        let error = add_file(&mut tree, Path::new("/bin/sh"), Path::new("/no/such/file"));
        assert!(error.unwrap_err().to_string().contains("/no/such/file"));
    }
}
