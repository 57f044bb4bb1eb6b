//! The server's portals made by Bind.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::wire::session::event::{Parameters, Prepared};

/// Named portals remembered of a session.
pub(in crate::wire) const MAX_PORTALS: usize = 1024;
/// Bytes of values remembered with them; beyond that, portals are remembered without values.
pub(in crate::wire) const MAX_PORTAL_BYTES: usize = 1024 * 1024;

/// What Bind made.
#[derive(Clone, Debug)]
pub(in crate::wire::session) struct Portal {
    pub(in crate::wire::session) statement: Bytes,
    pub(in crate::wire::session) prepared: Option<Arc<Prepared>>,
    pub(in crate::wire::session) forgotten: bool,
    pub(in crate::wire::session) parameters: Parameters,
}

#[derive(Clone, Debug)]
struct Named {
    portal: Portal,
    /// Its transaction may have ended, or SQL's CLOSE have closed it.
    doubtful: bool,
}

/// The server's portals.
#[derive(Clone, Debug, Default)]
pub(in crate::wire::session) struct Portals {
    unnamed: Option<Portal>,
    named: HashMap<Bytes, Named>,
    kept_bytes: usize,
    forgot: bool,
}

impl Portals {
    /// What a name stands for.
    pub(in crate::wire::session) fn find(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name).map(|named| &named.portal)
        }
    }

    /// Whether a name that stands for nothing may be one of those that are not remembered.
    pub(in crate::wire::session) fn may_have_forgotten(&self, name: &[u8]) -> bool {
        self.forgot && !name.is_empty()
    }

    /// BindComplete: the name stands for this from now on.
    pub(in crate::wire::session) fn insert(&mut self, name: &Bytes, mut portal: Portal) {
        if name.is_empty() {
            self.unnamed = Some(portal);
            return;
        }
        self.remove(name);
        if self.named.len() >= MAX_PORTALS {
            self.forgot = true;
            return;
        }
        if self.kept_bytes + portal.parameters.kept_bytes() > MAX_PORTAL_BYTES {
            portal.parameters = portal.parameters.without_values();
        }
        self.kept_bytes += portal.parameters.kept_bytes();
        let named = Named {
            portal,
            doubtful: false,
        };
        self.named.insert(name.clone(), named);
    }

    /// The name stands for nothing any more.
    pub(in crate::wire::session) fn remove(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else if let Some(named) = self.named.remove(name) {
            self.kept_bytes -= named.portal.parameters.kept_bytes();
        }
    }

    /// The transaction has ended, and with it every portal.
    #[inline]
    pub(in crate::wire::session) fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
            self.kept_bytes = 0;
        }
        self.forgot = false;
    }

    /// A command that may have ended their transaction, or closed one of them.
    pub(in crate::wire::session) fn some_may_be_gone(&mut self) {
        self.named
            .values_mut()
            .for_each(|named| named.doubtful = true);
    }

    /// `DECLARE name CURSOR`: a name that was free stands for a query that is not known.
    pub(in crate::wire::session) fn one_was_declared(&mut self) {
        let kept_bytes = &mut self.kept_bytes;
        self.named.retain(|_, named| {
            if named.doubtful {
                *kept_bytes -= named.portal.parameters.kept_bytes();
            }
            !named.doubtful
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::session::event::Value;

    fn portal(bytes: usize) -> Portal {
        let value = Value {
            kept: Some(Bytes::from(vec![b'v'; bytes])),
            length: bytes as u64,
        };
        Portal {
            statement: Bytes::new(),
            prepared: None,
            forgotten: false,
            parameters: Parameters {
                count: 1,
                formats: Vec::new(),
                values: Some(vec![value]),
            },
        }
    }

    #[test]
    fn beyond_the_most_portals_a_name_is_said_to_be_forgotten() {
        let mut portals = Portals::default();
        for number in 0..MAX_PORTALS {
            portals.insert(&Bytes::from(format!("p{number}")), portal(1));
        }
        assert!(!portals.may_have_forgotten(b"one more"));
        portals.insert(&Bytes::from_static(b"one more"), portal(1));
        assert!(portals.find(b"one more").is_none());
        assert!(portals.may_have_forgotten(b"one more"));
        portals.clear();
        assert!(!portals.may_have_forgotten(b"one more"));
        assert_eq!(portals.kept_bytes, 0);
    }

    #[test]
    fn beyond_the_most_bytes_a_portal_is_remembered_without_values() {
        let mut portals = Portals::default();
        let values = |portals: &Portals, name: &[u8]| {
            let parameters = &portals.find(name).unwrap().parameters;
            (parameters.count, parameters.values.is_some())
        };
        portals.insert(&Bytes::from_static(b"a"), portal(MAX_PORTAL_BYTES / 2));
        portals.insert(&Bytes::from_static(b"b"), portal(MAX_PORTAL_BYTES / 2));
        assert_eq!(values(&portals, b"a"), (1, true));
        assert_eq!(values(&portals, b"b"), (1, false));
        portals.remove(b"a");
        portals.insert(&Bytes::from_static(b"b"), portal(MAX_PORTAL_BYTES / 2));
        assert_eq!(values(&portals, b"b"), (1, true));
    }

    #[test]
    fn a_name_that_a_cursor_may_have_taken_over_is_not_named_for_the_old_query() {
        let mut portals = Portals::default();
        portals.insert(&Bytes::from_static(b"c"), portal(1));
        portals.one_was_declared();
        assert!(portals.find(b"c").is_some());
        portals.some_may_be_gone();
        assert!(portals.find(b"c").is_some());
        portals.one_was_declared();
        assert!(portals.find(b"c").is_none());
    }
}
