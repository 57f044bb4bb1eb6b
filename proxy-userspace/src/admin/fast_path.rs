//! What the status says of the fast path.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::intercept::{FastPath, FastPathCounts, HookError};

/// Whether there is a fast path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FastPathState {
    /// Not wanted.
    Off,
    /// Wanted, and impossible.
    Impossible {
        /// What the kernel lacks.
        reason: String,
    },
    /// There is.
    On {
        /// Whether applications receive redirected bytes, or pgusher alone does.
        reaches_applications: bool,
        /// What took it.
        #[serde(flatten)]
        counts: FastPathCounts,
    },
}

impl FastPathState {
    /// As it is now, where there is one.
    ///
    /// # Errors
    /// [`HookError`] when the kernel does not tell its counters.
    pub(super) fn read(&self, fast_path: Option<&FastPath>) -> Result<Self, HookError> {
        match fast_path {
            Some(fast_path) => Self::of(fast_path),
            None => Ok(self.clone()),
        }
    }

    /// Of one that is there.
    ///
    /// # Errors
    /// [`HookError`] when the kernel does not tell its counters.
    pub fn of(fast_path: &FastPath) -> Result<Self, HookError> {
        Ok(Self::On {
            reaches_applications: fast_path.reaches_applications(),
            counts: fast_path.counts()?,
        })
    }
}

impl fmt::Display for FastPathState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("switched off"),
            Self::Impossible { reason } => write!(out, "impossible: {reason}"),
            Self::On {
                reaches_applications,
                counts,
            } => {
                let reach = if *reaches_applications {
                    "both ways"
                } else {
                    "towards pgusher"
                };
                write!(
                    out,
                    "{reach}: {} sessions direct, {} client and {} server legs, {} left alone; {} messages past the stack, {} through it, {} delayed",
                    counts.direct,
                    counts.client_legs,
                    counts.server_legs,
                    counts.left_alone,
                    counts.redirected,
                    counts.through_stack,
                    counts.delayed
                )
            }
        }
    }
}
