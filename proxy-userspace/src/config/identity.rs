//! The `[identity]` table of the settings file: what is read about a process beyond the rest.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use crate::identify::DEFAULT_POD_LOGS;

/// The table as it can be written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    exe_sha256: Option<bool>,
    pod_logs: Option<PathBuf>,
}

/// What is read about a process beyond the rest.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Whether executables are hashed, and asked for their fs-verity digest.
    pub exe_sha256: bool,
    /// Where the kubelet keeps the logs of pods, by whose names pods are named.
    pub pod_logs: PathBuf,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            exe_sha256: false,
            pod_logs: PathBuf::from(DEFAULT_POD_LOGS),
        }
    }
}

impl IdentityConfig {
    pub(super) fn check(settings: IdentitySettings) -> Result<Self, ConfigError> {
        let default = Self::default();
        let pod_logs = settings.pod_logs.unwrap_or(default.pod_logs);
        if !pod_logs.is_absolute() {
            return Err(ConfigError::Value {
                setting: "identity.pod_logs",
                reason: format!("`{}` is not an absolute path", pod_logs.display()),
            });
        }
        Ok(Self {
            exe_sha256: settings.exe_sha256.unwrap_or(default.exe_sha256),
            pod_logs,
        })
    }
}
