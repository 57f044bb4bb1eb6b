//! Relay tests.
