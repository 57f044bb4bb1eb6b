//! Sessions as transcripts, and what the machine tells of them.

mod copying;
mod doubt;
mod extended;
mod hostile;
mod limits;
mod login;
mod names;
mod properties;
mod simple;
mod transcript;
