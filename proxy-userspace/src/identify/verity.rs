//! The fs-verity digest of a file: what the file system itself checks every page of it against.
//! (Documentation/filesystems/fsverity.rst)
#![expect(unsafe_code, reason = "no crate wraps FS_IOC_MEASURE_VERITY")]

use std::fs::File;
use std::os::fd::AsRawFd as _;

use crate::wire::text::hex;

/// `FS_IOC_MEASURE_VERITY`, `_IOWR('f', 134, struct fsverity_digest)` of include/uapi/linux/fsverity.h.
const MEASURE_VERITY: libc::c_ulong = 0xc004_6686;
/// A SHA-512 digest, the longest there is (`FS_VERITY_MAX_DIGEST_SIZE`, include/linux/fsverity.h).
const MAX_DIGEST_BYTES: usize = 64;

/// `struct fsverity_digest` with its room for the digest.
#[repr(C)]
struct Measurement {
    algorithm: u16,
    /// Before the call the room, after it the length.
    size: u16,
    digest: [u8; MAX_DIGEST_BYTES],
}

/// The file's digest as `algorithm:hexadecimal`; none where the file, its file system or the kernel has none.
pub(super) fn measure(file: &File) -> Option<String> {
    let mut measurement = Measurement {
        algorithm: 0,
        size: u16::try_from(MAX_DIGEST_BYTES).ok()?,
        digest: [0; MAX_DIGEST_BYTES],
    };
    // SAFETY: the request reads and writes a `struct fsverity_digest` with `size` bytes of room behind its header,
    // which is what `measurement` is.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), MEASURE_VERITY, &raw mut measurement) };
    if result == 0 {
        shown(&measurement)
    } else {
        None
    }
}

fn shown(measurement: &Measurement) -> Option<String> {
    // FS_VERITY_HASH_ALG_*
    let algorithm = match measurement.algorithm {
        1 => "sha256",
        2 => "sha512",
        _ => return None,
    };
    let digest = measurement.digest.get(..usize::from(measurement.size))?;
    Some(format!("{algorithm}:{}", hex(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_verity_has_no_digest() {
        let file = File::open("/proc/self/exe").unwrap();
        assert_eq!(measure(&file), None);
    }

    #[test]
    fn a_measurement_is_shown_with_its_algorithm() {
        let of = |algorithm, size| {
            shown(&Measurement {
                algorithm,
                size,
                digest: [0xab; MAX_DIGEST_BYTES],
            })
        };
        assert_eq!(of(1, 32), Some(format!("sha256:{}", "ab".repeat(32))));
        assert_eq!(of(2, 64), Some(format!("sha512:{}", "ab".repeat(64))));
        assert_eq!(of(3, 32), None);
        assert_eq!(of(1, 65), None);
    }
}
