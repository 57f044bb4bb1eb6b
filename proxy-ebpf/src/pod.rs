//! `aya::Pod` for the shared types: the loader may read and write them as plain bytes.
#![expect(
    unsafe_code,
    reason = "Pod is an unsafe marker trait; `layout` asserts what it promises"
)]

use crate::fast_path::{AskRequest, JoinRequest, SocketOffsets};
use crate::handover::{HandoverKey, ListenerPorts};
use crate::interception::Interception;
use crate::offsets::KernelOffsets;
use crate::refusals::Refusals;
use crate::serving::Serving;
use crate::unix::UnixInterception;

// SAFETY: `repr(C)`, no padding (asserted in `layout` by size), every bit pattern is valid.
unsafe impl aya::Pod for HandoverKey {}
// SAFETY: as above.
unsafe impl aya::Pod for ListenerPorts {}
// SAFETY: as above.
unsafe impl aya::Pod for Interception {}
// SAFETY: as above.
unsafe impl aya::Pod for KernelOffsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Refusals {}
// SAFETY: as above.
unsafe impl aya::Pod for Serving {}
// SAFETY: as above.
unsafe impl aya::Pod for UnixInterception {}
// SAFETY: as above.
unsafe impl aya::Pod for SocketOffsets {}

impl JoinRequest {
    /// As the program is given it.
    pub const fn as_bytes(&self) -> &[u8] {
        // SAFETY: `repr(C)` without padding (asserted in `layout` by size), so each of its bytes is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

impl AskRequest {
    /// As the program is given it.
    pub const fn as_bytes(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}
