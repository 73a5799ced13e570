//! The Firecracker driver.

pub mod plan;
mod preflight;
