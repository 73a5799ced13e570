//! How much an image may unpack to, and the reader that sees to it.

use super::Problem;
use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
};

/// What one image may take. The defaults are far above any useful image, and far below a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Entries of all layers together.
    pub(crate) entries: u64,
    /// Bytes of all layers together, unpacked; sparse files count with their whole length.
    pub(crate) bytes: u64,
    /// How many times its packed size a layer may unpack to. Real ones stay below 20.
    pub(crate) ratio: u64,
    /// Bytes that a layer may unpack to whatever the ratio: zeros pack well, and there are some.
    pub(crate) ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 64 << 30, ratio: 200, ratio_from: 256 << 20 }
    }
}

/// What is left of the limits while an image's layers are applied.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, entries: limits.entries, bytes: limits.bytes }
    }

    /// Counts one entry.
    pub(super) fn entry(&mut self) -> Result<(), Problem> {
        let max = self.limits.entries;
        self.entries = self.entries.checked_sub(1).ok_or(Problem::TooManyEntries { max })?;
        Ok(())
    }

    /// Counts a file's bytes, before any is written.
    pub(super) fn file(&mut self, bytes: u64) -> Result<(), Problem> {
        let max = self.limits.bytes;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Problem::TooLarge { max })?;
        Ok(())
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }
}

/// The bytes of one layer on their way: counted before and after they are unpacked.
#[derive(Debug)]
pub(super) struct Flow {
    limits: Limits,
    packed: Cell<u64>,
    unpacked: Cell<u64>,
    broken: RefCell<Option<Problem>>,
}

impl Flow {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, packed: Cell::new(0), unpacked: Cell::new(0), broken: RefCell::new(None) }
    }

    /// What is wrong, given what reading ended with: the limit that was met, if one was.
    pub(super) fn explain(&self, problem: Problem) -> Problem {
        self.broken.take().unwrap_or(problem)
    }

    /// Counts what comes through `inner`, still packed.
    pub(super) fn packed<R: Read>(&self, inner: R) -> Packed<'_, R> {
        Packed { inner, flow: self }
    }

    /// Counts what comes through `inner`, unpacked, and stops it at the limits.
    pub(super) fn unpacked<R: Read>(&self, inner: R) -> Unpacked<'_, R> {
        Unpacked { inner, flow: self }
    }

    fn take_unpacked(&self, bytes: u64) -> Result<(), Problem> {
        let unpacked = self.unpacked.get().saturating_add(bytes);
        self.unpacked.set(unpacked);
        let Limits { ratio, ratio_from, bytes: most, .. } = self.limits;
        if unpacked > most {
            return Err(Problem::TooLarge { max: most });
        }
        if unpacked > ratio_from && unpacked / ratio > self.packed.get() {
            return Err(Problem::TooDense { max: ratio, unpacked });
        }
        Ok(())
    }
}

pub(super) struct Packed<'a, R> {
    inner: R,
    flow: &'a Flow,
}

impl<R: Read> Read for Packed<'_, R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(chunk)?;
        self.flow.packed.set(self.flow.packed.get() + read as u64);
        Ok(read)
    }
}

pub(super) struct Unpacked<'a, R> {
    inner: R,
    flow: &'a Flow,
}

impl<R: Read> Read for Unpacked<'_, R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(chunk)?;
        self.flow.take_unpacked(read as u64).map_err(|problem| {
            self.flow.broken.replace(Some(problem));
            io::Error::other("a limit of images was met")
        })?;
        Ok(read)
    }
}

pub(super) const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
