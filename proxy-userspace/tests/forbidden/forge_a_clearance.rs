//! Only the policies give leave to ask a server.

use std::net::SocketAddr;

use proxy_userspace::policy::Clearance;

fn forge(destination: SocketAddr) -> Clearance {
    Clearance { destination }
}

fn main() {}
