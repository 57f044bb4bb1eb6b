//! Kernels that pgusher supports.

mod coexistence;
mod data;
mod features;
mod identity;
