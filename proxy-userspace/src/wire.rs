//! The wire protocol's frame, sans-IO: bytes in, facts out. Nothing here awaits, allocates without a bound, or
//! changes a byte.
//!
//! Message formats: PostgreSQL documentation, "Frontend/Backend Protocol", sections "Message Formats" and "Message
//! Flow"; limits: src/backend/tcop/backend_startup.c.

pub mod backend;
pub mod binding;
pub mod boundary;
pub mod build;
mod collect;
pub mod cursor;
pub mod error_response;
pub mod frame;
pub mod frontend;
pub mod login;
pub mod negotiation;
pub mod opening;
pub mod probe;
pub mod session;
pub mod text;
