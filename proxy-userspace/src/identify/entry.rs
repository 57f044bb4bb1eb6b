//! Files below /proc/PID, read whole in as few calls as the kernel allows.

use std::fs::File;
use std::io::{self, Read as _};

/// The room made for a file at once: most are shorter.
const USUAL_BYTES: usize = 4096;

/// Reads at most `most` bytes of a process's file.
pub(super) fn read(pid: u32, name: &str, most: usize) -> Option<Vec<u8>> {
    let mut file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    let mut bytes = vec![0; USUAL_BYTES.min(most)];
    let mut filled = 0;
    loop {
        let room = bytes.get_mut(filled..)?;
        let (read, asked) = (read_some(&mut file, room)?, room.len());
        filled += read;
        // The kernel makes such a file in one piece: what leaves room has ended.
        if read < asked || filled == most {
            bytes.truncate(filled);
            return Some(bytes);
        }
        bytes.resize(most.min(2 * filled), 0);
    }
}

fn read_some(file: &mut File, room: &mut [u8]) -> Option<usize> {
    loop {
        match file.read(room) {
            Ok(read) => return Some(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of /proc that is as long as the process wants.
    fn environment(most: usize) -> Vec<u8> {
        let long = "x".repeat(3 * USUAL_BYTES);
        let mut child = std::process::Command::new("cat")
            .env_clear()
            .env("LONG", long)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let found = read(child.id(), "environ", most);
        child.kill().unwrap();
        child.wait().unwrap();
        found.unwrap()
    }

    #[test]
    fn a_file_is_read_to_its_end_however_long_it_is() {
        let whole = environment(64 * 1024);
        assert_eq!(whole.len(), "LONG=".len() + 3 * USUAL_BYTES + 1);
        assert!(whole.starts_with(b"LONG=x") && whole.ends_with(b"x\0"));
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        for most in [7, USUAL_BYTES, USUAL_BYTES + 1] {
            assert_eq!(environment(most).len(), most);
        }
    }
}
