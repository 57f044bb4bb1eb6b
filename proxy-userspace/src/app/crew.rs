//! The threads that may do what the others have given up.

use anyhow::{Context as _, Result};

use crate::fences::{self, Role, Starter};
use crate::intercept::Porter;

/// Who does what the runtime's threads may not.
pub struct Crew {
    /// Until pgusher has started.
    pub(super) starter: Starter,
    /// For as long as there are network namespaces.
    pub(super) porter: Porter,
}

impl Crew {
    /// Starts them and puts up the fences: around the process, and around the calling thread and all that it starts from
    /// here on. To be called before there is a runtime.
    ///
    /// # Errors
    /// A fence that does not stand; the process must not go on then.
    pub fn muster() -> Result<Self> {
        let starter = Starter::start().context("cannot start a thread")?;
        fences::enclose_process()?;
        let porter = Porter::start()?;
        fences::enclose_thread(Role::Relay)?;
        Ok(Self { starter, porter })
    }
}
