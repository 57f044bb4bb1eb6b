//! The `pgusher` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_userspace::cli::main()
}
