//! An address is no leave to go there.

use std::net::SocketAddr;

use proxy_ebpf::interception::Route;
use proxy_userspace::route::Router;

async fn dial(router: &Router, server: SocketAddr, route: &Route) {
    let _ = router.dial(&server, route).await;
}

fn main() {}
