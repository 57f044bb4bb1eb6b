//! What the connect hooks tell userspace about a network namespace that has no listener: somebody needs one there.

/// A connect met no listener in its network namespace.
///
/// Size: 16 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedNetns {
    netns_cookie: u64,
    tgid: u32,
    tid: u32,
}

impl WantedNetns {
    /// Makes the message about the socket's namespace and the thread that connected it.
    #[inline(always)]
    pub const fn new(netns_cookie: u64, tgid: u32, tid: u32) -> Self {
        Self {
            netns_cookie,
            tgid,
            tid,
        }
    }

    /// Reads a message as the ring buffer holds it; `None` if it is of another size.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (cookie, rest) = bytes.split_first_chunk()?;
        let (tgid, rest) = rest.split_first_chunk()?;
        let tid = rest.try_into().ok()?;
        Some(Self {
            netns_cookie: u64::from_ne_bytes(*cookie),
            tgid: u32::from_ne_bytes(*tgid),
            tid: u32::from_ne_bytes(tid),
        })
    }

    /// The cookie of the socket's namespace.
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The process that connected, in the initial pid namespace.
    pub const fn tgid(&self) -> u32 {
        self.tgid
    }

    /// Its thread that connected; threads may be in different network namespaces.
    pub const fn tid(&self) -> u32 {
        self.tid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_lies_in_memory_and_in_no_other_size() {
        let mut bytes = [0_u8; 17];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&40_u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&41_u32.to_ne_bytes());
        let read = WantedNetns::from_bytes(&bytes[..16]);
        assert_eq!(read, Some(WantedNetns::new(7, 40, 41)));
        for length in (0..16).chain([17]) {
            assert_eq!(WantedNetns::from_bytes(&bytes[..length]), None, "{length}");
        }
    }
}
