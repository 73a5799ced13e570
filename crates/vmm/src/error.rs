//! What can go wrong with a VMM, and its conversion to a [`Fault`].

use crate::{ProcessRef, VmmExit, firecracker::plan::PlanError};
use aetherium_model::{Code, Fault, resources::DriverKind};
use std::{io, path::PathBuf, time::Duration};

/// Why a VMM could not be started, adopted or ended.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The program cannot be found.
    #[error("the program {program:?} was not found")]
    ProgramMissing {
        /// What was looked for.
        program: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The program could not be started.
    #[error("{program:?} could not be started: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM ended before its guest ran.
    #[error("{program:?} {exit} before the guest ran")]
    EndedEarly {
        /// The program.
        program: PathBuf,
        /// How it ended.
        exit: VmmExit,
        /// The last lines it printed.
        log: Vec<String>,
    },
    /// The VMM does not get ready.
    #[error("{program:?} was not ready after {waited:?}")]
    NotReady {
        /// The program.
        program: PathBuf,
        /// How long it was waited for.
        waited: Duration,
        /// The last lines it printed.
        log: Vec<String>,
    },
    /// The VMM's control socket said something that makes no sense.
    #[error("the control socket answered {answer:?} to {command:?}")]
    Control {
        /// What was asked.
        command: String,
        /// What came back.
        answer: String,
    },
    /// What was asked for cannot boot; nothing was started.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The VMM refused what it was told.
    #[error("{call} was refused with {status}: {said}")]
    Refused {
        /// What was asked, such as `PUT /drives/disk0`.
        call: String,
        /// The HTTP status.
        status: u16,
        /// The VMM's own words.
        said: String,
    },
    /// The VMM does not answer on its control socket.
    #[error("{call} was not answered within {waited:?}")]
    Unanswered {
        /// What was asked.
        call: String,
        /// How long the answer was waited for.
        waited: Duration,
    },
    /// The driver, or this VM, cannot do that.
    #[error("the {driver} driver cannot {verb}: {why}")]
    Unsupported {
        /// The driver.
        driver: DriverKind,
        /// What was asked for, such as `pause a VM`.
        verb: &'static str,
        /// Why not.
        why: String,
    },
    /// Guests of this kernel do not run under KVM here, and the driver has no other way.
    #[error("guests do not run under KVM on this host: {reason}")]
    NoKvm {
        /// What the probe guest showed.
        reason: String,
    },
    /// The run directory's path leaves no room for the names of sockets.
    #[error("the socket path {path:?} has {} bytes, more than the 107 that Unix allows", path.as_os_str().len())]
    PathTooLong {
        /// The path of a socket inside it.
        path: PathBuf,
    },
    /// A path or name that cannot be written on a command line.
    #[error("{value:?} cannot be given to a VMM: {why}")]
    BadValue {
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The driver cannot start that kind of guest.
    #[error("the {driver} driver cannot start {boot}")]
    WrongBoot {
        /// The driver.
        driver: DriverKind,
        /// What was asked for.
        boot: &'static str,
    },
    /// The footprint is another driver's.
    #[error("a VM of the {theirs} driver cannot be adopted by the {ours} driver")]
    WrongDriver {
        /// The footprint's.
        theirs: DriverKind,
        /// The one asked.
        ours: DriverKind,
    },
    /// Processes that do not end.
    #[error("{} still run {waited:?} after being killed", pids(processes))]
    StillAlive {
        /// The processes.
        processes: Vec<ProcessRef>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The host refused a file or process operation.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn pids(processes: &[ProcessRef]) -> String {
    let each: Vec<String> = processes.iter().map(|it| format!("{} {}", it.role, it.pid)).collect();
    each.join(", ")
}

impl VmmError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::ProgramMissing { remedy, .. } => remedy,
            Self::Spawn { .. } => "check that it is executable and that the host has free memory",
            Self::EndedEarly { .. } => {
                "read the lines below; the last one usually names the option or file"
            }
            Self::NotReady { .. } => "see whether the host is overloaded, then try again",
            Self::Plan(error) => error.remedy(),
            Self::Refused { .. } => {
                "the VMM's words name the setting; compare it with the VMM's version"
            }
            Self::Unanswered { .. } => {
                "see whether the host is overloaded; if the VMM hangs, end the VM"
            }
            Self::Unsupported { .. } => "do without it, or run the VM with another driver",
            Self::NoKvm { .. } => {
                "use a host with working (nested) virtualization, or `--driver qemu`"
            }
            Self::PathTooLong { .. } => "choose a data directory with a shorter path",
            Self::BadValue { .. } => "give a value of that form",
            Self::StillAlive { .. } => {
                "a process in uninterruptible sleep ends when its storage answers"
            }
            Self::Io { source, .. } if no_room(source) => "free space on that file system",
            Self::Io { .. } => "check the directory's owner, mode and free space",
            Self::Control { .. } | Self::WrongBoot { .. } | Self::WrongDriver { .. } => {
                "report it with the server's log of this moment"
            }
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::ProgramMissing { .. } | Self::NoKvm { .. } => Code::DriverUnavailable,
            Self::Plan(error) => error.code(),
            Self::Unsupported { .. } => Code::Conflict,
            // What is changed by this method runs, and goes on.
            Self::Refused { call, .. } if call.starts_with("PATCH ") => Code::Conflict,
            Self::Unanswered { .. } => Code::DeadlineExceeded,
            Self::WrongBoot { .. } | Self::WrongDriver { .. } => Code::Internal,
            Self::StillAlive { .. } => Code::DeadlineExceeded,
            Self::Io { source, .. } if no_room(source) => Code::DiskFull,
            _ => Code::VmmStartFailed,
        }
    }
}

impl From<VmmError> for Fault {
    fn from(error: VmmError) -> Self {
        let fault = Self::new(error.code(), error.to_string()).remedy(error.remedy());
        match error {
            VmmError::EndedEarly { log, .. } | VmmError::NotReady { log, .. } => {
                fault.evidence(log)
            }
            _ => fault,
        }
    }
}
