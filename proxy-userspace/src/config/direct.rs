//! Which connects may go direct: those that cannot be redirected, and those that nobody would serve.

use std::time::Duration;

use proxy_ebpf::names::MAX_LISTENERS;
use proxy_ebpf::refusals::Refusals;
use proxy_ebpf::verdict::Verdict;
use serde::Deserialize;

use super::{ConfigError, checked_timeout};
use crate::intercept::MIN_STALL_TIMEOUT;
use crate::policy::PolicyMode;

/// Ten heartbeats: a host that is merely busy does not lose as many.
const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(5);

const DEFAULT_MAX_NAMESPACES: usize = 1024;

/// What becomes of connects from network namespaces in which pgusher has no listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UnknownNetns {
    /// They go direct.
    Pass,
    /// They fail.
    Refuse,
}

/// What becomes of connects while no pgusher serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WhenDown {
    /// They go direct.
    Open,
    /// They fail with ECONNREFUSED, until the next start or `pgusher detach`.
    Closed,
}

impl WhenDown {
    /// What holds where the operator said nothing.
    pub(super) fn usual(mode: PolicyMode) -> Self {
        match mode {
            PolicyMode::Observe => Self::Open,
            PolicyMode::Enforce => Self::Closed,
        }
    }
}

/// One place in the hooks' table is for our own.
pub(super) fn checked_namespaces(value: Option<usize>) -> Result<usize, ConfigError> {
    let value = value.unwrap_or(DEFAULT_MAX_NAMESPACES);
    if value < MAX_LISTENERS {
        return Ok(value);
    }
    Err(ConfigError::Value {
        setting: "max_namespaces",
        reason: format!("{value} is more than {}", MAX_LISTENERS - 1),
    })
}

/// Where policies are enforced nothing goes around them; where they are not, nothing fails unless it was asked for.
pub(super) fn refusals(
    unknown_netns: Option<UnknownNetns>,
    when_down: WhenDown,
    mode: PolicyMode,
) -> Refusals {
    let (refusals, unknown_by_default) = match mode {
        PolicyMode::Observe => (Refusals::ALWAYS, UnknownNetns::Pass),
        PolicyMode::Enforce => (Refusals::ENFORCING, UnknownNetns::Refuse),
    };
    let refusals = match unknown_netns.unwrap_or(unknown_by_default) {
        UnknownNetns::Pass => refusals,
        UnknownNetns::Refuse => refusals.and(Verdict::OtherNetns),
    };
    match when_down {
        WhenDown::Open => refusals,
        WhenDown::Closed => refusals.and(Verdict::Unserved),
    }
}

pub(super) fn checked_stall_timeout(value: Option<Duration>) -> Result<Duration, ConfigError> {
    let setting = "stall_timeout";
    let value = checked_timeout(setting, value.unwrap_or(DEFAULT_STALL_TIMEOUT))?;
    if value < MIN_STALL_TIMEOUT {
        return Err(ConfigError::Value {
            setting,
            reason: format!(
                "{value:?} is less than {MIN_STALL_TIMEOUT:?}: a busy host would count as down"
            ),
        });
    }
    Ok(value)
}
