//! The agent's end of a pipe or a terminal.
//!
//! One type for all of them: they are read and written alike, and handed over alike when the agent
//! replaces its program.

use std::io;
use std::os::fd::OwnedFd;

use bytes::{BufMut as _, BytesMut};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// An open descriptor that does not block.
pub(crate) struct Descriptor {
    fd: AsyncFd<OwnedFd>,
}

/// A descriptor that may have something to read.
pub(super) struct Readable<'a>(AsyncFdReadyGuard<'a, OwnedFd>);

impl Descriptor {
    /// Takes a descriptor that has been set not to block. Must run inside the runtime.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd names the same open descriptor all its life.
        Ok(Self { fd: unsafe { AsyncFd::register(fd) }? })
    }

    pub(crate) fn get(&self) -> &OwnedFd {
        self.fd.get_ref()
    }

    /// Waits until there is something to read, or nothing ever will be. Safe to drop.
    pub(super) async fn readable(&self) -> io::Result<Readable<'_>> {
        self.fd.readable().await.map(Readable)
    }

    /// Writes what there is room for; waits for room. Safe to drop.
    pub(crate) async fn write(&self, data: &[u8]) -> io::Result<usize> {
        loop {
            let mut writable = self.fd.writable().await?;
            if let Ok(written) = writable.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                return written;
            }
        }
    }
}

impl Readable<'_> {
    /// Reads at most `limit` bytes: 0 at the end, `None` when there is nothing yet.
    pub(super) fn read(
        &mut self,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Option<io::Result<usize>> {
        let spare = buffer.chunk_mut();
        let limit = limit.min(spare.len());
        // SAFETY: the bytes are only ever written to, never read, before they are initialised.
        let spare = unsafe { &mut spare.as_uninit_slice_mut()[..limit] };
        let read = self.0.try_io(|fd| match rustix::io::read(fd.get_ref(), spare) {
            Ok((read, _)) => Ok(read.len()),
            // A terminal says so when no process has its other end open.
            Err(rustix::io::Errno::IO) => Ok(0),
            Err(error) => Err(error.into()),
        });
        let read = read.ok()?;
        if let Ok(len) = read {
            // SAFETY: the kernel has initialised that many bytes.
            unsafe { buffer.advance_mut(len) };
        }
        Some(read)
    }
}
