//! The exec, and what the new program does first.

use std::convert::Infallible;
use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use bytes::Bytes;
use rustix::io::FdFlags;

use super::Candidate;
use super::state::Handover;
use crate::exec::Saved;
use crate::init;
use crate::serve::{self, Role, ServeError};

/// An exec about to happen.
pub(crate) struct Replacement {
    pub(crate) candidate: Candidate,
    pub(crate) handover: Handover,
    pub(crate) saved: Saved,
}

impl Replacement {
    /// Replaces the program. Returns only when that failed; everything is then as it was.
    pub(crate) fn execute(mut self) -> io::Result<Infallible> {
        let mut open = std::mem::take(&mut self.saved.descriptors);
        open.extend(self.handover.listeners.iter().map(|(_, fd)| *fd));
        open.extend(self.handover.estate.and_then(|estate| estate.disk));
        self.handover.processes = std::mem::take(&mut self.saved.processes);
        let state = self.handover.write(&self.saved.output)?;
        open.push(state.as_raw_fd());
        set_flags(&open, FdFlags::empty())?;
        let failed = exec(&self.candidate, state.as_raw_fd());
        set_flags(&open, FdFlags::CLOEXEC)?;
        Err(failed)
    }
}

fn set_flags(descriptors: &[RawFd], flags: FdFlags) -> io::Result<()> {
    for &fd in descriptors {
        // SAFETY: its owner is frozen or serving further up, and closes it only later.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd, flags)?;
    }
    Ok(())
}

fn exec(candidate: &Candidate, state: RawFd) -> io::Error {
    let texts = ["fc-agent", "--resume", &state.to_string()].map(CString::new);
    let Ok(texts) = texts.into_iter().collect::<Result<Vec<_>, _>>() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let argv: Vec<*const c_char> =
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: argv ends in a null pointer and its texts in zero bytes; the environment is the C
    // library's own, which nobody changes. The descriptor is a program open for reading.
    unsafe { libc::fexecve(candidate.program.as_raw_fd(), argv.as_ptr(), environ) };
    io::Error::last_os_error()
}

/// Goes on where the program before stopped.
pub(crate) fn resume(fd: RawFd) -> Result<(), ServeError> {
    let (handover, output): (Handover, Bytes) = Handover::read(fd).map_err(ServeError::Handover)?;
    match (handover.role, handover.estate) {
        (Role::Init, estate) => {
            init::resume(estate.unwrap_or_default(), || serve::take_over(handover, output))
        }
        (Role::Process, estate) => {
            let ending = serve::take_over(handover, output)?;
            init::end_beside(ending, estate).map_err(ServeError::MachineEnd)
        }
    }
}
