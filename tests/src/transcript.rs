//! Transcripts: conversations with a server, written down as text and played directly and through pgusher.
//!
//! The fixtures are in `tests/transcripts`, whose README explains the notation and says which rule of the protocol
//! each case is about.
//!
//! | module | owns |
//! |---|---|
//! | [`fixture`] | files, cases and steps; refusing what makes no sense |
//! | `words`, `client`, `expectation` | the notation of a line, of `C:` and of `S:` |
//! | `connection`, `credentials` | the client's end of a connection; answers that depend on the server's |
//! | `administrator` | what happens to a session from outside |
//! | `taken` | whether pgusher has read what was sent |
//! | `player` | playing a case |
//! | `reply` | what the server sent, and masking what two sessions cannot have in common |
//! | [`comparison`] | direct against through pgusher, whole and cut |

mod administrator;
mod client;
pub mod comparison;
mod connection;
mod credentials;
mod expectation;
pub mod fixture;
mod player;
mod reply;
mod taken;
mod words;
