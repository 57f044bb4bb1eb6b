//! Reads the offsets of kernel structure fields and the numbers of kernel functions from the kernel's own type
//! information (BTF).
//!
//! aya resolves such offsets only for C programs (CO-RE relocations), and its parser keeps its types private; of the
//! two crates that would do, one is LGPL and the other unmaintained since 2022 and ignorant of newer kinds. What is
//! needed is a walk over one table. Format: Documentation/bpf/btf.rst.
//!
//! The bytes come from the kernel, but every length is checked all the same.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use proxy_ebpf::fast_path::SocketOffsets;
use proxy_ebpf::offsets::{FieldOffset, KernelOffsets, StandingOffsets};

/// Where the kernel shows its type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// How deep anonymous structures may nest before a member search gives up.
const MAX_NESTING: usize = 8;

/// Why no offsets could be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel shows no type information (CONFIG_DEBUG_INFO_BTF is off).
    #[error("{KERNEL_BTF} cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// The type information ends early or contradicts itself.
    #[error("the kernel's type information is malformed at byte {0}")]
    Malformed(usize),
}

/// Reads the offsets the connect hooks need from the running kernel.
///
/// # Errors
/// [`BtfError`] when there is no usable type information; single fields that are missing are absent instead.
pub fn kernel_offsets() -> Result<KernelOffsets, BtfError> {
    of_this_kernel(offsets_from)
}

/// The number by which a BPF program calls a function of the running kernel; none where the kernel has no such function.
///
/// # Errors
/// [`BtfError`] when there is no usable type information.
pub(super) fn kernel_functions<const N: usize>(
    names: [&str; N],
) -> Result<[Option<u32>; N], BtfError> {
    of_this_kernel(|types| names.map(|name| types.functions.get(name.as_bytes()).copied()))
}

/// What the running kernel's types tell.
fn of_this_kernel<T>(tell: impl FnOnce(&Types<'_>) -> T) -> Result<T, BtfError> {
    let bytes = fs::read(Path::new(KERNEL_BTF))?;
    Ok(tell(&Types::parse(&bytes)?))
}

/// What the fast path has to know of the running kernel.
pub(super) struct SocketTypes {
    /// Where sockets keep what decides about a message.
    pub(super) offsets: SocketOffsets,
    /// Redirected bytes that are not read yet outlive a reset: since sockmaps hook a socket's end in place of its leaving
    /// the kernel's tables.
    pub(super) keeps_queue_on_reset: bool,
}

/// Reads what the fast path has to know of the running kernel.
///
/// # Errors
/// [`BtfError`] when there is no usable type information; single fields that are missing are absent instead.
pub(super) fn socket_types() -> Result<SocketTypes, BtfError> {
    of_this_kernel(|types| SocketTypes {
        offsets: socket_offsets_from(types),
        keeps_queue_on_reset: types.member_offset("sk_psock", "saved_destroy").is_some(),
    })
}

fn socket_offsets_from(types: &Types<'_>) -> SocketOffsets {
    let field = |structure, member| types.field(structure, member);
    SocketOffsets {
        tcp_write_seq: field("tcp_sock", "write_seq"),
        tcp_copied_seq: field("tcp_sock", "copied_seq"),
        sock_user_data: field("sock", "sk_user_data"),
        sock_socket: field("sock", "sk_socket"),
        sock_rcvlowat: field("sock", "sk_rcvlowat"),
        sock_shutdown: field("sock", "sk_shutdown"),
        sock_prot: field("sock_common", "skc_prot"),
        proto_memory_pressure: field("proto", "memory_pressure"),
        socket_file: field("socket", "file"),
        file_flags: field("file", "f_flags"),
        psock_ingress: field("sk_psock", "ingress_msg"),
    }
}

fn offsets_from(types: &Types<'_>) -> KernelOffsets {
    let field = |structure, member| types.field(structure, member);
    let start_boottime = match field("task_struct", "start_boottime") {
        // The name before Linux 5.5.
        FieldOffset::ABSENT => field("task_struct", "real_start_time"),
        found => found,
    };
    KernelOffsets {
        task_group_leader: field("task_struct", "group_leader"),
        task_start_boottime: start_boottime,
        task_tgid: field("task_struct", "tgid"),
        task_real_parent: field("task_struct", "real_parent"),
        task_cred: field("task_struct", "cred"),
        cred_euid: field("cred", "euid"),
        cred_egid: field("cred", "egid"),
        task_loginuid: field("task_struct", "loginuid"),
        task_mm: field("task_struct", "mm"),
        mm_exe_file: field("mm_struct", "exe_file"),
        file_inode: field("file", "f_inode"),
        inode_number: field("inode", "i_ino"),
        inode_super_block: field("inode", "i_sb"),
        super_block_device: field("super_block", "s_dev"),
        sock_addr_uaddr: field("bpf_sock_addr_kern", "uaddr"),
        sock_addr_uaddrlen: field("bpf_sock_addr_kern", "uaddrlen"),
        unix_sock_peer: field("unix_sock", "peer"),
        standing: standing_offsets_from(types),
    }
}

fn standing_offsets_from(types: &Types<'_>) -> StandingOffsets {
    let field = |structure, member| types.field(structure, member);
    let nested = |structure, member, inner, last| {
        let outer = types.member_offset(structure, member);
        let found = outer.zip(types.member_offset(inner, last));
        found.map_or(FieldOffset::ABSENT, |(outer, inner)| {
            FieldOffset::new(outer + inner)
        })
    };
    let number = |namespace| nested(namespace, "ns", "ns_common", "inum");
    StandingOffsets {
        task_parent: field("task_struct", "parent"),
        task_ptrace: field("task_struct", "ptrace"),
        task_atomic_flags: field("task_struct", "atomic_flags"),
        task_seccomp_mode: nested("task_struct", "seccomp", "seccomp", "mode"),
        task_nsproxy: field("task_struct", "nsproxy"),
        task_thread_pid: field("task_struct", "thread_pid"),
        cred_cap_effective: field("cred", "cap_effective"),
        cred_user_ns: field("cred", "user_ns"),
        cred_group_info: field("cred", "group_info"),
        group_info_count: field("group_info", "ngroups"),
        group_info_ids: field("group_info", "gid"),
        nsproxy_mnt: field("nsproxy", "mnt_ns"),
        nsproxy_net: field("nsproxy", "net_ns"),
        nsproxy_uts: field("nsproxy", "uts_ns"),
        nsproxy_ipc: field("nsproxy", "ipc_ns"),
        nsproxy_cgroup: field("nsproxy", "cgroup_ns"),
        mnt_number: number("mnt_namespace"),
        net_number: number("net"),
        uts_number: number("uts_namespace"),
        ipc_number: number("ipc_namespace"),
        cgroup_number: number("cgroup_namespace"),
        user_number: number("user_namespace"),
        pid_number: number("pid_namespace"),
        pid_level: field("pid", "level"),
        pid_numbers: field("pid", "numbers"),
        upid_ns: field("upid", "ns"),
    }
}

/// The structures and functions of a BTF blob.
struct Types<'a> {
    strings: &'a [u8],
    /// Type id → its members, for structures and unions.
    composites: HashMap<u32, Composite<'a>>,
    /// Structure name → type id.
    names: HashMap<&'a [u8], u32>,
    /// Function name → type id.
    functions: HashMap<&'a [u8], u32>,
}

struct Composite<'a> {
    members: &'a [u8],
    bitfield_offsets: bool,
}

/// A member: where its name is, its type, and where it starts.
struct Member {
    name: u32,
    type_id: u32,
    bit_offset: u32,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let header_len = word(bytes, 4)? as usize;
        if bytes.get(..2) != Some(MAGIC.to_le_bytes().as_slice()) {
            return Err(BtfError::Malformed(0));
        }
        let section = |offset_at: usize| -> Result<&'a [u8], BtfError> {
            let start = header_len.saturating_add(word(bytes, offset_at)? as usize);
            let end = start.saturating_add(word(bytes, offset_at + 4)? as usize);
            bytes.get(start..end).ok_or(BtfError::Malformed(offset_at))
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut parsed = Self {
            strings,
            composites: HashMap::new(),
            names: HashMap::new(),
            functions: HashMap::new(),
        };
        parsed.index(types)?;
        Ok(parsed)
    }

    /// Walks the type table once and keeps structures and functions.
    fn index(&mut self, types: &'a [u8]) -> Result<(), BtfError> {
        let (mut at, mut id) = (0, 1);
        while at < types.len() {
            let info = word(types, at + 4)?;
            let (count, kind) = ((info & 0xffff) as usize, (info >> 24) & 0x1f);
            let body = at + 12;
            let body_len = match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                _ => 0,
            };
            let members = types
                .get(body..body + body_len)
                .ok_or(BtfError::Malformed(at))?;
            if kind == KIND_STRUCT || kind == KIND_UNION {
                let name = self.name(word(types, at)?);
                if kind == KIND_STRUCT && !name.is_empty() {
                    self.names.entry(name).or_insert(id);
                }
                let bitfield_offsets = info >> 31 == 1;
                self.composites.insert(
                    id,
                    Composite {
                        members,
                        bitfield_offsets,
                    },
                );
            }
            if kind == KIND_FUNC {
                let name = self.name(word(types, at)?);
                self.functions.entry(name).or_insert(id);
            }
            at = body + body_len;
            id += 1;
        }
        Ok(())
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The offset of a member, for the programs.
    fn field(&self, structure: &str, member: &str) -> FieldOffset {
        self.member_offset(structure, member)
            .map_or(FieldOffset::ABSENT, FieldOffset::new)
    }

    /// The byte offset of a member, looked for in anonymous structures and unions too.
    fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let id = *self.names.get(structure.as_bytes())?;
        let bits = self.find(id, member.as_bytes(), 0)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    fn find(&self, id: u32, wanted: &[u8], depth: usize) -> Option<u32> {
        if depth > MAX_NESTING {
            return None;
        }
        self.composites
            .get(&id)?
            .members()
            .find_map(|member| match self.name(member.name) {
                [] => self
                    .find(member.type_id, wanted, depth + 1)
                    .map(|inner| member.bit_offset + inner),
                name => (name == wanted).then_some(member.bit_offset),
            })
    }
}

impl Composite<'_> {
    fn members(&self) -> impl Iterator<Item = Member> {
        self.members.chunks_exact(12).filter_map(|raw| {
            let offset = word(raw, 8).ok()?;
            Some(Member {
                name: word(raw, 0).ok()?,
                type_id: word(raw, 4).ok()?,
                bit_offset: if self.bitfield_offsets {
                    offset & 0xff_ffff
                } else {
                    offset
                },
            })
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let end = at.checked_add(4).ok_or(BtfError::Malformed(at))?;
    let raw = bytes.get(at..end).ok_or(BtfError::Malformed(at))?;
    raw.try_into()
        .map(u32::from_le_bytes)
        .map_err(|_| BtfError::Malformed(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob with `struct outer { int a; struct { int b; } }` where the inner structure is anonymous.
    fn nested_blob() -> Vec<u8> {
        let mut types = Vec::new();
        let mut push = |words: &[u32]| {
            words
                .iter()
                .for_each(|word| types.extend(word.to_le_bytes()))
        };
        push(&[1, KIND_INT << 24, 4, 32]);
        push(&[0, (KIND_STRUCT << 24) | 1, 4, 7, 1, 0]);
        push(&[9, (KIND_STRUCT << 24) | 2, 8, 5, 1, 0, 0, 2, 32]);
        push(&[9, KIND_FUNC << 24, 0]);
        let strings = b"\0int\0a\0b\0outer\0";
        let mut blob = Vec::new();
        blob.extend(MAGIC.to_le_bytes());
        blob.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            blob.extend(u32::to_le_bytes(word));
        }
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    #[test]
    fn members_of_anonymous_structures_are_found_at_their_outer_offset() {
        let blob = nested_blob();
        let types = Types::parse(&blob).unwrap();
        assert_eq!(types.member_offset("outer", "a"), Some(0));
        assert_eq!(types.member_offset("outer", "b"), Some(4));
        assert_eq!(types.member_offset("outer", "c"), None);
        assert_eq!(types.member_offset("inner", "a"), None);
        assert_eq!(types.functions.get(b"outer".as_slice()), Some(&4));
    }

    #[test]
    fn a_blob_cut_anywhere_is_an_error_or_has_fewer_types_but_never_a_panic() {
        let blob = nested_blob();
        for end in 0..blob.len() {
            if let Ok(types) = Types::parse(&blob[..end]) {
                assert_eq!(types.member_offset("outer", "c"), None);
            }
        }
    }
}
