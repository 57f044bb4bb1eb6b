//! What the calling task was allowed to do, and which namespaces it was in, at the moment of connect().

/// How many supplementary groups are captured. Of a task in more of them none are: a part could hide the one that
/// matters, and userspace looks for all.
pub const MAX_GROUPS: usize = 32;

/// A kind of namespace, by its place among those of a [`Standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Process numbers: those the task itself has one in.
    Pid,
    /// Mounts.
    Mnt,
    /// User and group ids.
    User,
    /// Network devices and sockets.
    Net,
    /// Host name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Where cgroup paths begin.
    Cgroup,
}

const NAMESPACES: usize = 7;

/// A task's standing. What could not be captured is absent; `present` says what is there, but a namespace, whose number
/// is never 0.
///
/// Size: 184 bytes, alignment 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    capabilities: u64,
    namespaces: [u32; NAMESPACES],
    tracer: u32,
    no_new_privs: u32,
    seccomp_mode: u32,
    group_count: u32,
    present: u32,
    groups: [u32; MAX_GROUPS],
}

const HAS_CAPABILITIES: u32 = 1 << 0;
const HAS_TRACER: u32 = 1 << 1;
const HAS_NO_NEW_PRIVS: u32 = 1 << 2;
const HAS_SECCOMP_MODE: u32 = 1 << 3;
const HAS_GROUPS: u32 = 1 << 4;
const HAS_ALL: u32 =
    HAS_CAPABILITIES | HAS_TRACER | HAS_NO_NEW_PRIVS | HAS_SECCOMP_MODE | HAS_GROUPS;

impl Standing {
    /// Nothing captured.
    pub const UNKNOWN: Self = Self {
        capabilities: 0,
        namespaces: [0; NAMESPACES],
        tracer: 0,
        no_new_privs: 0,
        seccomp_mode: 0,
        group_count: 0,
        present: 0,
        groups: [0; MAX_GROUPS],
    };

    /// Adds the effective capabilities, as a mask by number.
    #[inline(always)]
    pub const fn set_capabilities(&mut self, mask: u64) {
        self.capabilities = mask;
        self.present |= HAS_CAPABILITIES;
    }

    /// Adds a namespace, by its inode number.
    #[inline(always)]
    pub fn set_namespace(&mut self, kind: Namespace, number: u32) {
        if let Some(place) = self.namespaces.get_mut(kind as usize) {
            *place = number;
        }
    }

    /// Adds the process that traces the task; 0 if none does.
    #[inline(always)]
    pub const fn set_tracer(&mut self, tgid: u32) {
        self.tracer = tgid;
        self.present |= HAS_TRACER;
    }

    /// Adds whether exec can no longer give the task privileges.
    #[inline(always)]
    pub const fn set_no_new_privs(&mut self, is_set: bool) {
        self.no_new_privs = is_set as u32;
        self.present |= HAS_NO_NEW_PRIVS;
    }

    /// Adds how system calls are filtered (`SECCOMP_MODE_*`, include/uapi/linux/seccomp.h).
    #[inline(always)]
    pub const fn set_seccomp_mode(&mut self, mode: u32) {
        self.seccomp_mode = mode;
        self.present |= HAS_SECCOMP_MODE;
    }

    /// Where groups are written to, before [`Self::set_group_count`].
    #[inline(always)]
    pub const fn groups_mut(&mut self) -> &mut [u32; MAX_GROUPS] {
        &mut self.groups
    }

    /// Adds so many of what was written to [`Self::groups_mut`]: the task's supplementary groups, all of them.
    #[inline(always)]
    pub const fn set_group_count(&mut self, count: u32) {
        self.group_count = count;
        self.present |= HAS_GROUPS;
    }

    /// The effective capabilities, valid in the task's own user namespace.
    pub fn capabilities(&self) -> Option<u64> {
        self.has(HAS_CAPABILITIES).then_some(self.capabilities)
    }

    /// A namespace's inode number.
    pub fn namespace(&self, kind: Namespace) -> Option<u32> {
        let number = self.namespaces.get(kind as usize).copied();
        number.filter(|number| *number != 0)
    }

    /// The process that traces the task; 0 if none does.
    pub fn tracer(&self) -> Option<u32> {
        self.has(HAS_TRACER).then_some(self.tracer)
    }

    /// Whether exec can no longer give the task privileges.
    pub fn no_new_privs(&self) -> Option<bool> {
        self.has(HAS_NO_NEW_PRIVS).then_some(self.no_new_privs != 0)
    }

    /// How system calls are filtered (`SECCOMP_MODE_*`).
    pub fn seccomp_mode(&self) -> Option<u32> {
        self.has(HAS_SECCOMP_MODE).then_some(self.seccomp_mode)
    }

    /// The supplementary groups in the initial user namespace, all of them.
    pub fn groups(&self) -> Option<&[u32]> {
        let groups = self.groups.get(..self.group_count as usize);
        groups.filter(|_| self.has(HAS_GROUPS))
    }

    /// Whether everything was captured but namespaces.
    pub const fn is_complete(&self) -> bool {
        self.has(HAS_ALL)
    }

    const fn has(&self, flags: u32) -> bool {
        self.present & flags == flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_captured_is_absent_and_what_is_zero_is_not() {
        let mut standing = Standing::UNKNOWN;
        assert_eq!(standing.capabilities(), None);
        assert_eq!(standing.groups(), None);
        assert_eq!(standing.seccomp_mode(), None);
        assert_eq!(standing.no_new_privs(), None);
        assert_eq!(standing.tracer(), None);
        assert_eq!(standing.namespace(Namespace::User), None);
        standing.set_capabilities(0);
        standing.set_seccomp_mode(0);
        standing.set_no_new_privs(false);
        standing.set_tracer(0);
        assert!(!standing.is_complete());
        standing.set_group_count(0);
        assert!(standing.is_complete());
        assert_eq!(standing.capabilities(), Some(0));
        assert_eq!(standing.groups(), Some([].as_slice()));
        assert_eq!(standing.seccomp_mode(), Some(0));
        assert_eq!(standing.no_new_privs(), Some(false));
        assert_eq!(standing.tracer(), Some(0));
    }

    #[test]
    fn groups_are_those_that_were_counted() {
        let mut standing = Standing::UNKNOWN;
        standing.groups_mut()[..3].copy_from_slice(&[4, 27, 1000]);
        standing.set_group_count(2);
        assert_eq!(standing.groups(), Some([4, 27].as_slice()));
        standing.set_group_count(MAX_GROUPS as u32 + 1);
        assert_eq!(standing.groups(), None);
    }

    #[test]
    fn each_namespace_has_a_place_of_its_own() {
        let mut standing = Standing::UNKNOWN;
        standing.set_namespace(Namespace::Pid, 1);
        standing.set_namespace(Namespace::Cgroup, 7);
        assert_eq!(standing.namespace(Namespace::Pid), Some(1));
        assert_eq!(standing.namespace(Namespace::Mnt), None);
        assert_eq!(standing.namespace(Namespace::Cgroup), Some(7));
    }
}
