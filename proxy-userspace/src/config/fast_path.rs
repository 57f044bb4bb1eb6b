//! Whether sessions are put on the fast path.

use serde::{Deserialize, Serialize};

use crate::intercept::Reach;

/// Whether sessions are put on the fast path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FastPathChoice {
    /// Never.
    #[default]
    Off,
    /// As far as no application can notice.
    Auto,
    /// Wherever the kernel can.
    Full,
}

impl FastPathChoice {
    /// Whom redirected bytes may reach; `None` where there are none.
    pub fn reach(self) -> Option<Reach> {
        match self {
            Self::Off => None,
            Self::Auto => Some(Reach::Unnoticed),
            Self::Full => Some(Reach::Applications),
        }
    }
}
