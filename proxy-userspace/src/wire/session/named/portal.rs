//! What Bind makes, and how much of it is remembered.

use std::sync::Arc;

use bytes::Bytes;

use super::Nameable;
use crate::wire::session::event::{Parameters, Prepared};

/// What Bind made.
#[derive(Clone, Debug)]
pub(in crate::wire::session) struct Portal {
    pub(in crate::wire::session) statement: Bytes,
    pub(in crate::wire::session) prepared: Option<Arc<Prepared>>,
    pub(in crate::wire::session) forgotten: bool,
    pub(in crate::wire::session) parameters: Arc<Parameters>,
}

impl Nameable for Portal {
    const MOST: usize = 1024;
    /// Of values.
    const MOST_BYTES: usize = 1024 * 1024;

    fn kept_bytes(&self) -> usize {
        self.parameters.kept_bytes()
    }

    fn without_bytes(mut self) -> Self {
        self.parameters = Arc::new(self.parameters.without_values());
        self
    }
}
