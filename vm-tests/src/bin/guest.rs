//! The first process of a guest: brings the machine up, runs what it is told to, and ends the machine with a verdict.
//!
//! The kernel's command line says what: `pgusher.probe` nothing at all, `pgusher.shell` a shell for a person, and
//! otherwise the plan in `/vm/plan`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};
use vm_tests::inventory::Inventory;
use vm_tests::machine::{HOME, bring_up, is_told};
use vm_tests::{exit_device, facts, programs};

/// A server with pgusher on its port, for a person at the shell; both end with the guest.
const SHELL: &str = r#"
cd /tmp && mkdir server && cp -R "$PGUSHER_PG15_DATA" server/data && chmod 700 server/data && chown -R postgres server
PATH=$PATH:/usr/lib/postgresql/15/bin
setpriv --reuid=postgres --regid=postgres --init-groups postgres -D server/data \
    -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=mmap >server/log 2>&1 &
pgusher run --port 5432 --audit-sink file:/tmp/audit.jsonl 2>/tmp/pgusher.log &
echo "PostgreSQL is on port 5432 with pgusher in front: psql -h 127.0.0.1 -U postgres; /tmp/audit.jsonl, /tmp/pgusher.log."
echo "The tests are kernel and suite, with a part of a name as argument. exit ends the machine."
export PATH PGUSER=postgres PGHOST=127.0.0.1 PAGER=less
# A shell that can be interrupted wants a terminal of its own.
exec setsid -c bash </dev/ttyS0 >/dev/ttyS0 2>&1
"#;

fn main() {
    let is_success = match live() {
        Ok(is_success) => is_success,
        Err(error) => {
            println!("guest: {error:#}");
            false
        }
    };
    if let Err(error) = exit_device::leave(is_success) {
        println!("guest: there is no exit device: {error}");
    }
    // Without the device the machine is powered off, which is no success either.
    let never = reboot(RebootMode::RB_POWER_OFF);
    println!("guest: {never:?}");
}

/// Does what the guest is there for; says whether it went well.
fn live() -> Result<bool> {
    bring_up()?;
    if is_told("pgusher.probe") {
        return Ok(true);
    }
    if is_told("pgusher.shell") {
        return programs::run(Command::new("bash").args(["-c", SHELL]));
    }
    let path = Path::new(HOME).join("plan");
    let plan = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    // Sorts before everything else in the table.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    facts::tell("*release*", release.trim())?;
    let before = Inventory::take()?;
    let is_success = programs::run_all(&plan)?;
    before.wait_until_restored()?;
    print!("{}", facts::told());
    Ok(is_success)
}
