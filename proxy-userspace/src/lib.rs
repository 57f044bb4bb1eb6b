//! pgusher: an identity proxy for PostgreSQL that no application has to know about.
//!
//! The modules, in the order a connection meets them:
//!
//! | stage | module | what it does |
//! |---|---|---|
//! | 1 intercept | [`intercept`] | BPF hooks redirect connects to our listeners and hand over who asked for what |
//! | 2 identify | [`identify`] | the calling process, each fact with its grade of trust |
//! | 3 startup | [`startup`] | the client's opening packets and the encryption negotiation |
//! | 4 policy | [`policy`] | an identity's leave to connect, as a value |
//! | 5 route | [`route`] | from that leave to a connected server socket |
//! | 6 relay | [`relay`] | every byte, both ways, unchanged |
//! | 7 audit | [`audit`] | one pair of records for every connection |
//!
//! [`session`] calls the stages, [`wire`] knows the protocol and nothing of sockets, [`app`] wires and unwires it
//! all, [`succession`] hands over to another instance, [`fences`] are what it all runs inside. docs/architecture.md tells
//! the same at length.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod destination;
pub mod doctor;
pub mod explain;
pub mod fences;
pub mod identify;
pub mod intercept;
pub mod learn;
pub mod leg;
pub mod policy;
pub mod relay;
pub mod route;
pub mod session;
pub mod socket;
pub mod startup;
pub mod stream;
pub mod succession;
pub mod tls;
pub mod wire;
