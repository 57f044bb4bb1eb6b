//! What becomes of connects to servers' unix sockets.

use nix::unistd::User;
use serde::Deserialize;

use super::ConfigError;
use crate::intercept::Guise;

/// Whether connects to servers' unix sockets are intercepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UnixSockets {
    /// Where the kernel has the hooks.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// The guise of the user with this name or number.
///
/// # Errors
/// [`ConfigError::Value`] when there is none.
pub(super) fn guise(user: Option<&str>) -> Result<Guise, ConfigError> {
    let Some(name) = user else {
        return Ok(Guise::default());
    };
    let found = match name.parse() {
        Ok(number) => Some(number),
        Err(_) => User::from_name(name)
            .ok()
            .flatten()
            .map(|user| user.uid.as_raw()),
    };
    let refused = || ConfigError::Value {
        setting: "unix_socket_user",
        reason: format!("this host has no user `{name}`"),
    };
    found
        .map(|number| Guise::of(Some(number)))
        .ok_or_else(refused)
}
