//! The archive that a kernel unpacks as its first file system: cpio, format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
/// Marks the end.
const TRAILER: &str = "TRAILER!!!";
/// A file's length has eight hexadecimal digits.
const MAX_FILE_BYTES: u64 = u32::MAX as u64;

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    /// A file of this machine's.
    Copy(PathBuf),
    Text(Vec<u8>),
    Link(PathBuf),
}

/// A file system to be: absolute paths and what is there. Everything belongs to root.
#[derive(Debug, Default)]
pub(super) struct Tree {
    // In order of the paths, so a directory comes before what is in it.
    entries: BTreeMap<PathBuf, (u32, Entry)>,
}

impl Tree {
    /// Adds a directory, and those above it.
    pub(super) fn directory(&mut self, path: &Path, permissions: u32) {
        self.parents(path);
        self.entries
            .insert(path.to_path_buf(), (permissions, Entry::Directory));
    }

    /// Adds a file with this content.
    pub(super) fn text(&mut self, path: &Path, permissions: u32, content: impl Into<Vec<u8>>) {
        self.insert(path, permissions, Entry::Text(content.into()));
    }

    /// Adds a copy of a file of this machine's, which is read when the archive is written.
    pub(super) fn copy(&mut self, path: &Path, permissions: u32, source: &Path) {
        self.insert(path, permissions, Entry::Copy(source.to_path_buf()));
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &Path) {
        self.insert(path, 0o777, Entry::Link(target.to_path_buf()));
    }

    /// Whether something is there.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    fn insert(&mut self, path: &Path, permissions: u32, entry: Entry) {
        self.parents(path);
        self.entries
            .insert(path.to_path_buf(), (permissions, entry));
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            self.entries
                .entry(parent.to_path_buf())
                .or_insert((0o755, Entry::Directory));
        }
    }

    /// Writes the archive.
    ///
    /// # Errors
    ///
    /// When a file to copy cannot be read, or the archive not be written.
    pub(super) fn write(&self, archive: &mut impl Write) -> Result<()> {
        for (number, (path, (permissions, entry))) in self.entries.iter().enumerate() {
            let name: PathBuf = path
                .components()
                .filter(|part| matches!(part, Component::Normal(_)))
                .collect();
            if name.as_os_str().is_empty() {
                continue;
            }
            let header = Header {
                number,
                name: &name.to_string_lossy(),
                permissions: *permissions,
            };
            header
                .write(archive, entry)
                .with_context(|| format!("cannot archive {}", path.display()))?;
        }
        let trailer = Header {
            number: 0,
            name: TRAILER,
            permissions: 0,
        };
        trailer.write_fields(archive, 0, 0)?;
        Ok(archive.flush()?)
    }
}

/// What an entry begins with.
struct Header<'a> {
    number: usize,
    name: &'a str,
    permissions: u32,
}

impl Header<'_> {
    fn write(&self, archive: &mut impl Write, entry: &Entry) -> Result<()> {
        match entry {
            Entry::Directory => Ok(self.write_fields(archive, DIRECTORY, 0)?),
            Entry::Text(bytes) => self.write_bytes(archive, REGULAR, bytes),
            Entry::Link(target) => {
                self.write_bytes(archive, SYMLINK, target.as_os_str().as_encoded_bytes())
            }
            Entry::Copy(source) => {
                let length = fs::metadata(source)?.len();
                self.write_fields(archive, REGULAR, length)?;
                let copied = io::copy(&mut File::open(source)?, archive)?;
                ensure!(copied == length, "{} changes", source.display());
                Ok(pad(archive, length)?)
            }
        }
    }

    fn write_bytes(&self, archive: &mut impl Write, kind: u32, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        self.write_fields(archive, kind, length)?;
        archive.write_all(bytes)?;
        Ok(pad(archive, length)?)
    }

    fn write_fields(&self, archive: &mut impl Write, kind: u32, length: u64) -> io::Result<()> {
        if length > MAX_FILE_BYTES {
            return Err(io::Error::other("a file of more than 4 GiB"));
        }
        let name_length = self.name.len() as u64 + 1;
        // Inode, mode, owner, group, links, time, length, four device numbers, length of the name, checksum.
        let fields = [
            self.number as u64,
            u64::from(kind | self.permissions),
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        archive.write_all(b"070701")?;
        for field in fields {
            write!(archive, "{field:08X}")?;
        }
        archive.write_all(self.name.as_bytes())?;
        archive.write_all(&[0])?;
        // The header has 110 bytes.
        pad(archive, 110 + name_length)
    }
}

/// Fills up to a multiple of four.
fn pad(archive: &mut impl Write, length: u64) -> io::Result<()> {
    for _ in length..length.next_multiple_of(4) {
        archive.write_all(&[0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_what_went_into_it_directories_first() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::write(&source, "from this machine").unwrap();
        let mut tree = Tree::default();
        tree.text(Path::new("/etc/deep/text"), 0o644, "five5");
        tree.copy(Path::new("/bin/program"), 0o755, &source);
        tree.link(Path::new("/sbin"), Path::new("bin"));
        tree.directory(Path::new("/tmp"), 0o1777);
        assert!(tree.has(Path::new("/etc/deep")));
        assert!(!tree.has(Path::new("/etc/flat")));

        let mut bytes = Vec::new();
        tree.write(&mut bytes).unwrap();
        let expected = [
            ("bin", 0o040_755, ""),
            ("bin/program", 0o100_755, "from this machine"),
            ("etc", 0o040_755, ""),
            ("etc/deep", 0o040_755, ""),
            ("etc/deep/text", 0o100_644, "five5"),
            ("sbin", 0o120_777, "bin"),
            ("tmp", 0o041_777, ""),
            (TRAILER, 0, ""),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, mode, content)| (name.to_owned(), mode, content.to_owned()))
            .collect();
        assert_eq!(read(&bytes), expected);
    }

    /// Reads an archive as the kernel does (init/initramfs.c): name, mode and content of each entry.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, String)> {
        let mut entries = Vec::new();
        while !archive.is_empty() {
            let field = |number: usize| {
                let at = 6 + 8 * number;
                let digits = std::str::from_utf8(&archive[at..at + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap() as usize
            };
            assert_eq!(&archive[..6], b"070701");
            let (mode, length, name_length) = (field(1), field(6), field(11));
            let content = (110 + name_length).next_multiple_of(4);
            let text = |range: &[u8]| String::from_utf8(range.to_vec()).unwrap();
            entries.push((
                text(&archive[110..110 + name_length - 1]),
                u32::try_from(mode).unwrap(),
                text(&archive[content..content + length]),
            ));
            archive = &archive[(content + length).next_multiple_of(4)..];
        }
        entries
    }
}
