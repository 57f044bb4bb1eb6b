//! Kernels that pgusher supports.

mod coexistence;
mod data;
mod existing;
mod features;
mod identity;
mod leftovers;
