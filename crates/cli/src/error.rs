//! What a verb can fail with: how it is printed, and with which exit code the program ends.

use aetherium_model::{Code, Fault};
use std::process::ExitCode;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct CliError {
    fault: Fault,
    exit_code: u8,
}

impl CliError {
    /// A fault of the system: the program ends with 1.
    pub(crate) fn new(fault: impl Into<Fault>) -> Self {
        Self { fault: fault.into(), exit_code: 1 }
    }

    /// Ends the program with another code.
    #[must_use]
    pub(crate) fn exiting_with(mut self, exit_code: u8) -> Self {
        self.exit_code = exit_code;
        self
    }

    pub(crate) fn fault(&self) -> &Fault {
        &self.fault
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }

    /// Prints what happened, what decided it, and what to do.
    pub(crate) fn print(&self) {
        eprintln!("error: {} [{}]", self.fault.detail, self.fault.code);
        for line in &self.fault.evidence {
            eprintln!("  | {line}");
        }
        if !self.fault.remedy.is_empty() {
            eprintln!("what to do: {}", self.fault.remedy);
        }
    }
}

impl<E: Into<Fault>> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// A fault of the local machine, with what was tried.
pub(crate) fn local(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Fault {
    Fault::new(Code::Unavailable, format!("{what}: {error}"))
}
