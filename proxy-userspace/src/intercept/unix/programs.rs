//! The hooks on unix sockets (Linux 6.7): taken from the same object as the others, completed, loaded and attached.
//!
//! aya has parsed the object and made its maps. What it cannot do is done here on a second parse: calls of kernel
//! functions get the numbers that the running kernel has for them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};

use aya::Ebpf;
use aya::maps::Map;
use aya_obj::Object;
use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_KFUNC_CALL, bpf_attach_type, bpf_insn};
use proxy_ebpf::names;
use socket2::{Domain, Socket, Type};

use super::super::attached::Hook;
use super::super::btf::{BtfError, kernel_functions};
use super::super::cgroup::Cgroup;
use super::super::object::OBJECT;
use super::kernel;
use crate::socket;

/// A program's name, and what it is attached as.
type Kind = (&'static str, bpf_attach_type);

/// The kernel functions that the programs call, and what stands for them in the object.
const FUNCTIONS: [(&str, usize); 2] = [
    ("bpf_cast_to_kern_ctx", names::CALL_CAST_TO_KERN_CTX),
    ("bpf_sock_addr_set_sun_path", names::CALL_SET_SUN_PATH),
];
const CONNECT: Kind = (
    names::PROGRAM_CONNECT_UNIX,
    bpf_attach_type::BPF_CGROUP_UNIX_CONNECT,
);
/// Attached before the connect hook, and for longer.
const ANSWERING: [Kind; 2] = [
    (
        names::PROGRAM_GETPEERNAME_UNIX,
        bpf_attach_type::BPF_CGROUP_UNIX_GETPEERNAME,
    ),
    (
        names::PROGRAM_GETSOCKNAME_UNIX,
        bpf_attach_type::BPF_CGROUP_UNIX_GETSOCKNAME,
    ),
];

/// Why unix sockets are not intercepted.
#[derive(Debug, thiserror::Error)]
pub enum UnixHookError {
    /// The kernel's functions cannot be told.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// The kernel is older than the hooks.
    #[error("this kernel has no `{0}`: hooks on unix sockets came with Linux 6.7")]
    TooOld(&'static str),
    /// Clients could hold up whoever reads from them.
    #[error(
        "this kernel lets clients of unix sockets send descriptors that pgusher would have to close (SO_PASSRIGHTS came with Linux 6.16): {0}"
    )]
    Descriptors(io::Error),
    /// The object is not what the loader expects: the build is broken.
    #[error("the BPF object cannot be completed: {0}; rebuild with `cargo xtask build`")]
    Object(String),
    /// The kernel did not take a program.
    #[error("the kernel refused BPF program {name}")]
    Program {
        /// The program's name.
        name: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Programs that passed the verifier and are not attached to anything.
pub(in crate::intercept) struct UnixPrograms {
    connect: OwnedFd,
    answering: Vec<(OwnedFd, Kind)>,
}

/// Checks that descriptors can be refused.
fn check_descriptors() -> io::Result<()> {
    socket::refuse_descriptors(&Socket::new(Domain::UNIX, Type::STREAM, None)?)
}

impl UnixPrograms {
    /// Loads the programs with the maps that `loaded` has made.
    ///
    /// # Errors
    /// [`UnixHookError`]
    pub(in crate::intercept) fn load(loaded: &Ebpf) -> Result<Self, UnixHookError> {
        check_descriptors().map_err(UnixHookError::Descriptors)?;
        let found = kernel_functions(FUNCTIONS.map(|(name, _)| name))?;
        let mut numbers = HashMap::new();
        for ((name, stand_in), number) in FUNCTIONS.into_iter().zip(found) {
            let number = number.ok_or(UnixHookError::TooOld(name))?;
            numbers.insert(as_immediate(stand_in), as_immediate(number as usize));
        }
        let object = relocated(loaded)?;
        let load = |(name, attach_type): Kind| -> Result<OwnedFd, UnixHookError> {
            let missing = || UnixHookError::Object(format!("it has no `{name}`"));
            let program = object.programs.get(name).ok_or_else(missing)?;
            let function = object.functions.get(&program.function_key());
            let mut instructions = function.ok_or_else(missing)?.instructions.clone();
            complete(&mut instructions, &numbers);
            let completed = kernel::Program {
                name,
                instructions: &instructions,
                license: &program.license,
                attach_type,
            };
            kernel::load(completed).map_err(|source| UnixHookError::Program { name, source })
        };
        let answering = ANSWERING
            .into_iter()
            .map(|kind| Ok((load(kind)?, kind)))
            .collect::<Result<_, UnixHookError>>()?;
        Ok(Self {
            connect: load(CONNECT)?,
            answering,
        })
    }

    /// Attaches the connect hook to `cgroup`.
    ///
    /// # Errors
    /// The kernel's reason.
    pub(in crate::intercept) fn attach_connect(&self, cgroup: &Cgroup) -> io::Result<Hook> {
        attach(&self.connect, CONNECT, cgroup)
    }

    /// Attaches those that answer for redirected sockets.
    ///
    /// # Errors
    /// The kernel's reason; none of them stays attached then.
    pub(in crate::intercept) fn attach_answering(&self, cgroup: &Cgroup) -> io::Result<Vec<Hook>> {
        let answering = self.answering.iter();
        let answering = answering.map(|(program, kind)| attach(program, *kind, cgroup));
        answering.collect()
    }
}

fn attach(program: &OwnedFd, (name, attach_type): Kind, cgroup: &Cgroup) -> io::Result<Hook> {
    let directory = cgroup.directory().as_fd();
    let link = kernel::attach(program.as_fd(), directory, attach_type)?;
    Ok(Hook::of_own_link(name, link))
}

/// The object, parsed and tied to the maps of the one that is loaded.
fn relocated(loaded: &Ebpf) -> Result<Object, UnixHookError> {
    let failed = |error: &dyn std::fmt::Display| UnixHookError::Object(error.to_string());
    let mut object = Object::parse(OBJECT).map_err(|error| failed(&error))?;
    let text_sections: HashSet<usize> = object.functions.keys().map(|key| key.0).collect();
    let maps = object.maps.clone();
    let descriptors: HashMap<&str, RawFd> = loaded
        .maps()
        .filter_map(|(name, map)| Some((name, descriptor(map)?)))
        .collect();
    let known = maps.iter().filter_map(|(name, map)| {
        let descriptor = descriptors.get(name.as_str())?;
        Some((name.as_str(), *descriptor, map))
    });
    object
        .relocate_maps(known, &text_sections)
        .map_err(|error| failed(&error))?;
    object
        .relocate_calls(&text_sections)
        .map_err(|error| failed(&error))?;
    Ok(object)
}

/// The descriptor of a map of a kind that the object has.
fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// Turns every call of a stand-in into one of the kernel function it stands for (`BPF_PSEUDO_KFUNC_CALL`,
/// include/uapi/linux/bpf.h).
fn complete(instructions: &mut [bpf_insn], numbers: &HashMap<i32, i32>) {
    let call = u8::try_from(BPF_JMP | BPF_CALL).ok();
    for instruction in instructions {
        if Some(instruction.code) == call
            && instruction.src_reg() == 0
            && let Some(number) = numbers.get(&instruction.imm)
        {
            instruction.set_src_reg(BPF_PSEUDO_KFUNC_CALL as u8);
            instruction.imm = *number;
        }
    }
}

/// A number as an instruction holds it.
fn as_immediate(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
