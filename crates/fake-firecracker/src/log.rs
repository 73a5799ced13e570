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
    pub(crate) fn new(id: &str, file: Option<File>) -> Self {
        Self { id: id.to_owned(), file: Mutex::new(file) }
    }

    pub(crate) fn redirect(&self, file: File) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// Writes a line, as from the thread that would say it.
    pub(crate) fn line(&self, thread: &str, message: &str) {
        let line = format!("{} [{}:{thread}] {message}\n", jiff::Timestamp::now(), self.id);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Like Firecracker's, a log that cannot be written stops nothing.
        let _ = match file.as_mut() {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stdout().write_all(line.as_bytes()),
        };
    }
}
