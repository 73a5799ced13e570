//! How a build tells what it is doing. The command line draws bars from it; tests stay silent.

use aetherium_model::finding::Finding;

/// Is told what a build is doing. Calls come from one build at a time, in order.
pub trait Progress: Send + Sync {
    /// A step begins, or the tool that performs one says something: one line for people.
    fn step(&self, label: &str);

    /// Something measured in bytes begins; `None` where its size is not known beforehand.
    fn total(&self, label: &str, bytes: Option<u64>);

    /// So many more bytes of what was last announced are done.
    fn advance(&self, bytes: u64);

    /// What was last announced with [`Progress::total`] is complete.
    fn done(&self);

    /// The template will work, but less well; the finding says why and what to do.
    fn warn(&self, finding: &Finding);
}

/// Drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _label: &str) {}
    fn total(&self, _label: &str, _bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn done(&self) {}
    fn warn(&self, _finding: &Finding) {}
}
