//! Firecracker's log: to standard output until a file is named.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
};

/// A log with the instance's id in each line.
#[derive(Debug)]
pub(crate) struct Log {
    id: String,
    file: Mutex<Option<File>>,
}

impl Log {
    /// The log of an instance without a name, to standard output.
    pub(crate) fn anonymous() -> Self {
        Self::new("anonymous-instance", None)
    }

    pub(crate) fn new(id: &str, file: Option<File>) -> Self {
        Self { id: id.to_owned(), file: Mutex::new(file) }
    }

    pub(crate) fn redirect(&self, file: File) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// Writes how Firecracker says that it ends.
    pub(crate) fn end(&self, code: u8) {
        match code {
            0 => self.line("main", "Firecracker exiting successfully. exit_code=0"),
            _ => self.line("main", &format!("Firecracker exiting with error. exit_code={code}")),
        }
    }

    /// Writes a line, as from the thread that would say it.
    pub(crate) fn line(&self, thread: &str, message: &str) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.9f");
        let line = format!("{now} [{}:{thread}] {message}\n", self.id);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Like Firecracker's, a log that cannot be written stops nothing.
        let _ = match file.as_mut() {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stdout().write_all(line.as_bytes()),
        };
    }
}
