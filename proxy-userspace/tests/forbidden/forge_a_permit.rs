//! Only the policies give leave to have a session.

use proxy_userspace::destination::Destination;
use proxy_userspace::policy::Permit;

fn forge(destination: Destination) -> Permit {
    Permit::new(destination, None, None)
}

fn main() {}
