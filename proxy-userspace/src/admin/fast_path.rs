//! What the status says of the fast path.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::intercept::{FastPath, FastPathCounts, HookError, NoFastPath};

/// Whether there is a fast path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum FastPathState {
    /// Not wanted.
    #[default]
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
    /// As it is now.
    ///
    /// # Errors
    /// [`HookError`] when the kernel does not tell its counters.
    pub(super) fn read(fast_path: Result<&FastPath, &NoFastPath>) -> Result<Self, HookError> {
        Ok(match fast_path {
            Ok(fast_path) => Self::On {
                reaches_applications: fast_path.reaches_applications(),
                counts: fast_path.counts()?,
            },
            Err(NoFastPath::Off) => Self::Off,
            Err(NoFastPath::Impossible { reason }) => Self::Impossible {
                reason: reason.clone(),
            },
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
