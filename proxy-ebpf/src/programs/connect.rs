//! `cgroup/connect4` and `cgroup/connect6`: where a connection's life begins.
//!
//! Ours by the shared decision: the socket gets a record of who asked for what, and the address in the caller's
//! hands becomes our listener's. What the decision refuses fails; everything else goes on as if we were not there.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_boot_ns, bpf_setsockopt};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::warn;
use proxy_ebpf::decision::{Attempt, Decision, not_redirected, should_intercept};
use proxy_ebpf::endpoint::Endpoint;
use proxy_ebpf::interception::{LOOPBACK_IFINDEX, Route};
use proxy_ebpf::verdict::Verdict;
use proxy_ebpf::wanted::WantedNetns;

use super::context::{octets, read_v4, read_v6, read_words, write_v4, write_v6};
use super::maps::{Maps, count, forget_socket, socket_record_or_new, want_listener};
use super::origin;
use super::serving::fail_as_unserved;

/// The hook's return value: let connect() go on with the address as it is now.
const PROCEED: i32 = 1;
/// The hook's return value: connect() fails, with EPERM unless another error was set.
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn pgusher_connect4(context: SockAddrContext) -> i32 {
    match intercept(&context, read_v4(&context)) {
        Decision::Redirect { listener, .. } => write_v4(&context, &listener),
        Decision::Refuse(verdict) => return refuse(verdict),
        Decision::Ignore | Decision::Pass(_) => {}
    }
    PROCEED
}

#[cgroup_sock_addr(connect6)]
fn pgusher_connect6(context: SockAddrContext) -> i32 {
    match intercept(&context, read_v6(&context)) {
        Decision::Redirect { listener, .. } => write_v6(&context, &listener),
        Decision::Refuse(verdict) => return refuse(verdict),
        Decision::Ignore | Decision::Pass(_) => {}
    }
    PROCEED
}

#[inline(always)]
pub(super) fn refuse(verdict: Verdict) -> i32 {
    if matches!(verdict, Verdict::Unserved) {
        fail_as_unserved();
    }
    REFUSE
}

/// Decides, records and counts; what is left to do is the decision.
#[inline(always)]
fn intercept(context: &SockAddrContext, destination: Endpoint) -> Decision {
    // SAFETY: 4-byte and pointer reads of context fields; the helper takes the context itself.
    let (protocol, socket_type, socket, netns_cookie) = unsafe {
        let raw = &*context.sock_addr;
        (
            raw.protocol,
            raw.type_,
            raw.__bindgen_anon_1.sk,
            bpf_get_netns_cookie(context.as_ptr()),
        )
    };
    let attempt = Attempt {
        protocol,
        socket_type,
        destination,
        tgid: context.tgid(),
        netns_cookie,
    };
    let maps = Maps { context };
    let mut decision = should_intercept(&attempt, &maps);
    if let Decision::Redirect {
        destination,
        listener,
    } = decision
        && let Err(verdict) = record(
            context,
            socket,
            Route::new(destination, listener),
            netns_cookie,
        )
    {
        decision = not_redirected(verdict, &maps);
        warn!(
            context,
            "process {}: a connect of ours cannot be redirected", attempt.tgid
        );
    }
    match decision {
        Decision::Redirect { .. } => count(Verdict::Redirected),
        Decision::Pass(verdict) | Decision::Refuse(verdict) => {
            forget_socket(socket);
            tell(context, verdict, netns_cookie);
        }
        Decision::Ignore => forget_socket(socket),
    }
    decision
}

/// Counts a connect that is not redirected, and has userspace told where a listener is wanted.
#[inline(always)]
pub(super) fn tell(context: &SockAddrContext, verdict: Verdict, netns_cookie: u64) {
    count(verdict);
    if matches!(verdict, Verdict::OtherNetns) {
        want_listener(&WantedNetns::new(
            netns_cookie,
            context.tgid(),
            context.pid(),
        ));
    }
}

/// Keeps the record with the socket, unless the socket cannot hold one or stays tied to another interface.
#[inline(always)]
fn record(
    context: &SockAddrContext,
    socket: *mut bpf_sock,
    route: Route,
    netns_cookie: u64,
) -> Result<(), Verdict> {
    let slot = socket_record_or_new(socket).ok_or(Verdict::StorageFailed)?;
    // SAFETY: the verifier allows these reads of a full socket.
    let (ifindex, mark) = unsafe { ((*socket).bound_dev_if, (*socket).mark) };
    let source = bound_source(socket);
    if ifindex != 0 && ifindex != LOOPBACK_IFINDEX && bind_to_loopback(context).is_err() {
        return Err(Verdict::BoundToDevice);
    }
    let asked = slot.asked_interface(ifindex);
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let origin = slot.restart(route.with_socket(source, asked, mark), now);
    origin::capture(context, netns_cookie, origin);
    Ok(())
}

/// The source address the application bound before connecting, or unspecified.
#[inline(always)]
fn bound_source(socket: *mut bpf_sock) -> Endpoint {
    const AF_INET: u32 = 2;
    // SAFETY: the verifier allows word reads of a full socket.
    unsafe {
        let port = (*socket).src_port as u16;
        if (*socket).family == AF_INET {
            return Endpoint::v4((*socket).src_ip4.to_ne_bytes(), port);
        }
        let words = read_words(&raw const (*socket).src_ip6);
        Endpoint::v6(octets(words), port)
    }
}

/// Ties the socket to `lo`: bound to another interface it could never reach our listener. The application's own
/// choice is kept in the record and applied to the upstream connection. The kernel asks the caller for CAP_NET_RAW
/// to change a binding, even when a BPF program does it.
#[inline(always)]
fn bind_to_loopback(context: &SockAddrContext) -> Result<(), i64> {
    const SOL_SOCKET: i32 = 1;
    const SO_BINDTODEVICE: i32 = 25;
    let mut device = *b"lo\0\0";
    // SAFETY: the option value is four readable bytes on the stack.
    let result = unsafe {
        bpf_setsockopt(
            context.as_ptr(),
            SOL_SOCKET,
            SO_BINDTODEVICE,
            device.as_mut_ptr().cast(),
            device.len() as i32,
        )
    };
    if result == 0 { Ok(()) } else { Err(result) }
}
