//! What can go wrong in a worker outside any one VM.

use aetherium_model::{Code, Fault};
use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of the worker itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A file or directory of the data directory could not be used.
    #[error("{path}: {source}; check its owner, its mode and the free space of its filesystem", path = path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Sockets below the data directory would have names longer than Unix allows.
    #[error("the data directory {path} has a path of {length} bytes, and sockets below it allow {most}; choose a shorter one with --data-dir", path = path.display())]
    DataDirTooLong {
        /// The directory.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed.
        most: usize,
    },
    /// The file that holds the worker's id holds something else.
    #[error("{path} does not hold a worker id but {content:?}; restore it, or remove it to start as a new worker without VMs", path = path.display())]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// Something of ours could not be written as JSON.
    #[error("cannot encode: {0}")]
    Encode(#[source] serde_json::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] aetherium_store::StoreError),
    /// Templates or disks could not be used.
    #[error(transparent)]
    Image(#[from] aetherium_image::ImageError),
}

impl WorkerError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

impl From<WorkerError> for Fault {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Store(error) => error.into(),
            WorkerError::Image(error) => error.into(),
            WorkerError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::new(Code::DiskFull, error.to_string())
                    .remedy("free space on the filesystem of the data directory")
            }
            WorkerError::DataDirTooLong { .. } => {
                Self::new(Code::InvalidRequest, error.to_string())
            }
            WorkerError::Io { .. } | WorkerError::BadIdentity { .. } => {
                Self::new(Code::Unavailable, error.to_string())
            }
            WorkerError::Encode(_) => Self::internal(error),
        }
    }
}
