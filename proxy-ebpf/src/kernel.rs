//! What the programs of every object ask of the kernel they run in.
#![expect(
    unsafe_code,
    reason = "kernel memory and map values are raw pointers that helpers and the verifier check"
)]

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;

use crate::offsets::FieldOffset;

/// Makes the record of a socket that has none.
pub const CREATE: u64 = BPF_SK_STORAGE_GET_F_CREATE as u64;

/// Reads a field of the structure at `base`; a null base or a fault is `None`.
#[inline(always)]
pub fn read<T>(base: u64, field: FieldOffset) -> Option<T> {
    let offset = field.get()?;
    if base == 0 {
        return None;
    }
    let address = (base as usize).wrapping_add(offset) as *const T;
    // SAFETY: probe_read_kernel checks the address and reports a fault instead of taking it.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// The record that a map keeps with a socket; `flags` is 0 or [`CREATE`].
///
/// `socket` comes from a context, or is held, as the verifier sees to.
#[inline(always)]
pub fn socket_storage<T>(
    map: &SkStorage<T>,
    socket: *mut bpf_sock,
    flags: u64,
) -> Option<&'static mut T> {
    if socket.is_null() {
        return None;
    }
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the map is one of ours, the verifier has seen that `socket` is a socket, and it was checked against null;
    // the kernel returns null or memory of the map's value size that lives as long as the socket.
    unsafe {
        bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), flags)
            .cast::<T>()
            .as_mut()
    }
}
