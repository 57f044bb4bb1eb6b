//! The filter from inside: each test is a thread that has it.
#![expect(
    unsafe_code,
    reason = "calls that are refused have no safe wrappers, or are made before anybody checks them"
)]

use std::io;
use std::net::{TcpListener, TcpStream};

use super::*;

/// Does something on a thread with the role's filter.
fn as_role<T: Send + 'static>(role: Role, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        give_up(role).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// Makes a call without any memory: where the kernel would look at some, it finds an error.
fn errno_of(call: libc::c_long, arguments: [u64; 3]) -> Option<i32> {
    let [first, second, third] = arguments;
    // SAFETY: every pointer among the arguments is null, and what is not refused fails or changes nothing.
    let result = unsafe { libc::syscall(call, first, second, third, 0_u64, 0_u64, 0_u64) };
    (result < 0)
        .then(|| io::Error::last_os_error().raw_os_error())
        .flatten()
}

#[test]
fn every_call_on_the_list_is_refused_with_null_arguments() {
    as_role(Role::Relay, || {
        for call in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(errno_of(*call, [0; 3]), Some(EPERM), "call {call}");
        }
    });
}

#[test]
fn no_program_is_executed_and_no_process_made() {
    as_role(Role::Relay, || {
        let error = std::process::Command::new("/bin/true").spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EPERM), "{error}");
        // SAFETY: the fork is refused; if it were not, the child would end here.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(1) };
        }
        assert_eq!(
            (child, io::Error::last_os_error().raw_os_error()),
            (-1, Some(EPERM))
        );
        let new_namespace = flag(libc::CLONE_NEWUSER) | flag(libc::SIGCHLD);
        assert_eq!(
            errno_of(libc::SYS_clone, [new_namespace, 0, 0]),
            Some(EPERM)
        );
    });
}

#[test]
fn threads_files_and_connections_go_on_and_threads_inherit_the_filter() {
    as_role(Role::Relay, || {
        let thread = std::thread::spawn(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _accepted = listener.accept().unwrap();
            std::fs::read("/proc/self/status").unwrap();
            errno_of(libc::SYS_unshare, [0; 3])
        });
        assert_eq!(thread.join().unwrap(), Some(EPERM));
    });
}

#[test]
fn clone3_is_not_there_so_that_libc_takes_clone() {
    let errno = as_role(Role::Relay, || errno_of(libc::SYS_clone3, [0; 3]));
    assert_eq!(errno, Some(ENOSYS));
}

#[test]
fn only_maps_that_are_there_are_used() {
    as_role(Role::Relay, || {
        for command in 0..40 {
            let errno = errno_of(libc::SYS_bpf, [command, 0, 0]);
            if BPF_COMMANDS.contains(&command) {
                // The kernel looked at it: there are no attributes.
                assert_ne!(errno, None, "{command}");
            } else {
                assert_eq!(errno, Some(EPERM), "{command}");
            }
        }
    });
}

#[test]
fn sockets_are_of_the_families_that_are_used_and_never_raw() {
    as_role(Role::Relay, || {
        let stream = flag(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
        let raw = flag(SOCK_RAW | libc::SOCK_CLOEXEC);
        for family in [AF_INET, AF_UNIX] {
            assert_eq!(errno_of(libc::SYS_socket, [flag(family), stream, 0]), None);
        }
        assert_eq!(errno_of(libc::SYS_socket, [flag(AF_NETLINK), raw, 0]), None);
        for family in [AF_INET, AF_INET6] {
            let errno = errno_of(libc::SYS_socket, [flag(family), raw, 1]);
            assert_eq!(errno, Some(EPERM), "{family}");
        }
        for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
            assert_eq!(
                errno_of(libc::SYS_socket, [flag(family), stream, 0]),
                Some(EPERM)
            );
        }
    });
}

#[test]
fn the_porter_enters_network_namespaces_and_nothing_else() {
    let kinds = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        0,
    ];
    for role in [Role::Relay, Role::Porter] {
        as_role(role, move || {
            for kind in kinds {
                assert_eq!(
                    errno_of(libc::SYS_setns, [u64::MAX, flag(kind), 0]),
                    Some(EPERM)
                );
            }
            let net = errno_of(libc::SYS_setns, [u64::MAX, flag(CLONE_NEWNET), 0]);
            let expected = if role == Role::Porter {
                libc::EBADF
            } else {
                EPERM
            };
            assert_eq!(net, Some(expected));
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_x32_abi_is_no_way_around() {
    let execve = libc::SYS_execve | libc::c_long::from(X32_BIT);
    let errno = as_role(Role::Relay, move || errno_of(execve, [0; 3]));
    assert_eq!(errno, Some(EPERM));
}
