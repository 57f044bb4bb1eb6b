//! A clearance is lent for as long as the permit is held, not given away.

use proxy_userspace::policy::{Clearance, Permit};

fn keep(permit: Permit) -> Clearance {
    let clearance: &Clearance = permit.clearance();
    *clearance
}

fn main() {}
