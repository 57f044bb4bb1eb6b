//! A value and how far it can be trusted.

use serde::{Deserialize, Serialize};

/// How far a fact can be trusted, from what nobody can forge to what somebody merely says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Captured in the hook, at connect().
    Kernel,
    /// Read from /proc and matched against the capture.
    Verified,
    /// Read from /proc, with nothing to match it against, or not matching.
    Late,
    /// The client said so.
    Claimed,
    /// The server said so.
    Confirmed,
}

impl Grade {
    /// Its name in records and policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Verified => "verified",
            Self::Late => "late",
            Self::Claimed => "claimed",
            Self::Confirmed => "confirmed",
        }
    }

    /// Whether nobody but root on this host could have made the fact up.
    pub fn is_attested(self) -> bool {
        matches!(self, Self::Kernel | Self::Verified)
    }
}

/// A value and how far it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact<T> {
    value: T,
    grade: Grade,
}

impl<T> Fact<T> {
    /// What the fact says.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// How far to trust it.
    pub fn grade(&self) -> Grade {
        self.grade
    }

    pub(super) fn new(value: T, grade: Grade) -> Self {
        Self { value, grade }
    }

    pub(super) fn kernel(value: T) -> Self {
        Self::new(value, Grade::Kernel)
    }

    pub(super) fn late(value: T) -> Self {
        Self::new(value, Grade::Late)
    }

    /// Another value that follows from this one, and can be trusted as far.
    pub(super) fn with<U>(&self, value: U) -> Fact<U> {
        Fact::new(value, self.grade)
    }
}
