//! The moments between two changes of the disk. Tests end the process at each of them.

/// Stands wherever one change of the disk is done and the next is to come. Does nothing but in tests.
#[cfg(not(test))]
pub(super) const fn between() {}

#[cfg(test)]
pub(super) use super::tests::crash::die_if_wanted as between;
