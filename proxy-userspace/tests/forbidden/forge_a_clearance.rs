//! Only the policies give leave to ask a server.

use proxy_userspace::destination::Destination;
use proxy_userspace::policy::Clearance;

fn forge(destination: Destination) -> Clearance {
    Clearance { destination }
}

fn main() {}
