//! The Firecracker driver.

pub mod plan;
