//! Names of maps, programs and globals in the BPF object, as the loader asks for them, and the sizes of the maps.

/// Hash map: intercepted destination ports (`u16`, host order) → 1.
pub const MAP_PORTS: &str = "PORTS";
/// Hash map: thread group ids that are never intercepted → when their leader was started, in clock ticks since boot; 0
/// where that is not known.
pub const MAP_OWN_PROCESSES: &str = "OWN_PROCESSES";
/// Hash map: network namespace cookie → [`crate::handover::ListenerPorts`].
pub const MAP_LISTENERS: &str = "LISTENERS";
/// Hash map: [`crate::handover::HandoverKey`] → [`crate::interception::Interception`].
pub const MAP_HANDOVER: &str = "HANDOVER";
/// Hash map: cookies of network namespaces whose lack of a listener was told and not answered yet → 1.
pub const MAP_WANTED: &str = "WANTED";
/// Ring buffer of [`crate::wanted::WantedNetns`].
pub const MAP_WANTED_QUEUE: &str = "WANTED_QUEUE";
/// Socket storage: [`crate::unix::UnixInterception`].
pub const MAP_UNIX_SOCKETS: &str = "UNIX_SOCKETS";
/// Socket storage: our listening sockets → 1.
pub const MAP_LISTENING: &str = "LISTENING";
/// Array of one `u64`: when userspace was last alive, in monotonic nanoseconds; 0 when it has ended,
/// [`crate::serving::NOT_YET`] before it serves.
pub const MAP_HEARTBEAT: &str = "HEARTBEAT";
/// Per-CPU array of `u64`, indexed by [`crate::verdict::Verdict`].
pub const MAP_COUNTERS: &str = "COUNTERS";

/// The global that holds [`crate::offsets::KernelOffsets`].
pub const GLOBAL_OFFSETS: &str = "OFFSETS";
/// The global that holds [`crate::refusals::Refusals`].
pub const GLOBAL_REFUSALS: &str = "REFUSALS";

/// The global that holds [`crate::serving::Serving`].
pub const GLOBAL_SERVING: &str = "SERVING";

/// Program on `cgroup/connect4`.
pub const PROGRAM_CONNECT4: &str = "pgusher_connect4";
/// Program on `cgroup/connect6`.
pub const PROGRAM_CONNECT6: &str = "pgusher_connect6";
/// Program on `cgroup/getpeername4`.
pub const PROGRAM_GETPEERNAME4: &str = "pgusher_getpeername4";
/// Program on `cgroup/getpeername6`.
pub const PROGRAM_GETPEERNAME6: &str = "pgusher_getpeername6";
/// Program on `sock_ops`.
pub const PROGRAM_SOCK_OPS: &str = "pgusher_sock_ops";
/// Program on `connect_unix`.
pub const PROGRAM_CONNECT_UNIX: &str = "pgusher_connect_unix";
/// Program on `getpeername_unix`.
pub const PROGRAM_GETPEERNAME_UNIX: &str = "pgusher_getpeername_unix";
/// Program on `getsockname_unix`.
pub const PROGRAM_GETSOCKNAME_UNIX: &str = "pgusher_getsockname_unix";

/// Stands for the kernel function `bpf_cast_to_kern_ctx` in a call, until the loader puts its number there.
pub const CALL_CAST_TO_KERN_CTX: usize = 0x7067_0001;
/// Stands for the kernel function `bpf_sock_addr_set_sun_path` in a call, likewise.
pub const CALL_SET_SUN_PATH: usize = 0x7067_0002;

/// The most destination ports that can be intercepted.
pub const MAX_PORTS: usize = 64;
/// The most processes that can be exempt at once: the running one, its successor during an upgrade, and predecessors that
/// still have sessions.
pub const MAX_OWN_PROCESSES: usize = 64;
/// The most network namespaces with a listener.
pub const MAX_LISTENERS: usize = 4096;
/// The most network namespaces that can wait for a listener; a connect from one more is told of by the next.
pub const MAX_WANTED: usize = 1024;
/// The size of the ring buffer that tells of them, in bytes: a power of two, of whole pages.
pub const WANTED_BYTES: usize = 32 * 1024;
/// The most connections between SYN and accept; entries live for microseconds, a full accept queue included.
pub const MAX_HANDOVER: usize = 65_536;

/// Sockhash of the fast path: [`crate::fast_path::key`] → socket.
pub const MAP_FAST_SOCKETS: &str = "FAST_SOCKETS";
/// Hash map of the fast path: key of a socket whose bytes pgusher does not see → how many of them were redirected.
pub const MAP_FAST_BYTES: &str = "FAST_BYTES";
/// Per-CPU array of `u64`: messages, by [`crate::fast_path::Path`].
pub const MAP_FAST_COUNTERS: &str = "FAST_COUNTERS";
/// The global of the fast path that holds [`crate::fast_path::SocketOffsets`].
pub const GLOBAL_FAST_OFFSETS: &str = "FAST_OFFSETS";
/// The program that decides about each message.
pub const PROGRAM_FAST_SEND: &str = "pgusher_fast_send";
/// The program that joins sockets.
pub const PROGRAM_FAST_JOIN: &str = "pgusher_fast_join";
/// The program that tells whether a socket's application has read what was redirected to it.
pub const PROGRAM_FAST_ASK: &str = "pgusher_fast_ask";
/// The most sockets that take part at once: two or four of each session.
pub const MAX_FAST_SOCKETS: usize = 65_536;
