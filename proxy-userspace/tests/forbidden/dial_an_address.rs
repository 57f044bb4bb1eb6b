//! An address is no leave to go there.

use std::net::SocketAddr;

use proxy_userspace::route::{Router, Way};

async fn dial(router: &Router, server: SocketAddr, way: &Way) {
    let _ = router.dial(&server, way).await;
}

fn main() {}
