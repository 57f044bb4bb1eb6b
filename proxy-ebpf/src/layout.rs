//! Sizes and alignments of everything that crosses the kernel boundary, checked when either side is compiled.

use crate::endpoint::Endpoint;
use crate::fast_path::{AskRequest, JoinHead, JoinRequest, Pair, SocketAddresses, SocketOffsets};
use crate::handover::{HandoverKey, ListenerPorts};
use crate::interception::{Interception, Route};
use crate::names::{MAX_WANTED, WANTED_BYTES};
use crate::offsets::KernelOffsets;
use crate::origin::Origin;
use crate::refusals::Refusals;
use crate::serving::Serving;
use crate::standing::Standing;
use crate::unix::{DialledPath, ListenerName, UnixInterception};
use crate::wanted::WantedNetns;

const _: () = {
    assert!(size_of::<Endpoint>() == 18 && align_of::<Endpoint>() == 1);
    assert!(size_of::<Origin>() == 280 && align_of::<Origin>() == 8);
    assert!(size_of::<Standing>() == 184 && align_of::<Standing>() == 8);
    assert!(size_of::<Route>() == 64 && align_of::<Route>() == 4);
    assert!(size_of::<Interception>() == 352 && align_of::<Interception>() == 8);
    assert!(size_of::<HandoverKey>() == 48 && align_of::<HandoverKey>() == 8);
    assert!(size_of::<ListenerPorts>() == 10 && align_of::<ListenerPorts>() == 1);
    assert!(size_of::<KernelOffsets>() == 172 && align_of::<KernelOffsets>() == 4);
    assert!(size_of::<WantedNetns>() == 16 && align_of::<WantedNetns>() == 8);
    // A message for each namespace that is waited for finds room, with the eight bytes before it.
    assert!(MAX_WANTED * (size_of::<WantedNetns>() + 8) <= WANTED_BYTES);
    assert!(size_of::<Serving>() == 16 && align_of::<Serving>() == 8);
    assert!(size_of::<ListenerName>() == 6 && align_of::<ListenerName>() == 1);
    assert!(size_of::<DialledPath>() == 112 && align_of::<DialledPath>() == 4);
    assert!(size_of::<UnixInterception>() == 400 && align_of::<UnixInterception>() == 8);
    assert!(size_of::<SocketAddresses>() == 40 && align_of::<SocketAddresses>() == 4);
    assert!(size_of::<JoinHead>() == 16 && size_of::<JoinRequest>() == 192);
    assert!(align_of::<JoinRequest>() == 8);
    assert!(size_of::<AskRequest>() == 24 && align_of::<AskRequest>() == 8);
    assert!(size_of::<Pair>() == 48 && align_of::<Pair>() == 8);
    assert!(size_of::<SocketOffsets>() == 44 && align_of::<SocketOffsets>() == 4);
    assert!(size_of::<Refusals>() == 4 && align_of::<Refusals>() == 4);
};
