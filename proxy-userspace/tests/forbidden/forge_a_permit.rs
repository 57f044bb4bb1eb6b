//! Only the policies give leave to have a session.

use std::net::SocketAddr;

use proxy_userspace::policy::Permit;

fn forge(destination: SocketAddr) -> Permit {
    Permit::new(destination, None, None)
}

fn main() {}
