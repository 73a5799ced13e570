//! Where a server and its clients find each other.
//!
//! ```text
//! <data>/api-key        the first key, mode 0600
//! <data>/secrets-keys   what secrets are encrypted with, mode 0600, unless another file is named
//! <data>/server.json    the running server's address, removed when it stops
//! <data>/lock           held while a server runs: two never share a data directory
//! <data>/aetherium.db   the database, unless another is named
//! <data>/kernels/       imported and built kernels, by name
//! ```

use crate::{
    commands::load_keys,
    error::{CliError, local},
};
use aetherium_model::{Code, Fault};
use aetherium_secrets::{MasterKeys, new_key_line};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The data directory, by its path.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// What a running server says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    /// The API's base URL.
    pub(crate) url: String,
    /// The server's process.
    pub(crate) pid: u32,
}

/// Held for as long as a server runs; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] fs::File);

impl DataDir {
    /// The directory that was named, or the default: `$XDG_STATE_HOME/aetherium`, which is
    /// `~/.local/state/aetherium` unless set (XDG Base Directory Specification).
    pub(crate) fn locate(named: Option<&Path>) -> Result<Self, CliError> {
        if let Some(path) = named {
            return std::path::absolute(path)
                .map(Self)
                .map_err(|error| local(format!("--data-dir {}", path.display()), error).into());
        }
        let absolute =
            |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|state| Self(state.join("aetherium")))
            .ok_or_else(|| {
                Fault::new(Code::InvalidRequest, "neither XDG_STATE_HOME nor HOME is set")
                    .remedy("name a directory with --data-dir")
                    .into()
            })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The database that is used where none is named.
    pub(crate) fn database_url(&self) -> String {
        format!("sqlite://{}", self.0.join("aetherium.db").display())
    }

    /// Makes the directory if need be; only its owner may enter.
    pub(crate) fn create(&self) -> Result<(), CliError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| local(format!("cannot make {}", self.0.display()), error).into())
    }

    /// Takes the directory for one server.
    ///
    /// # Errors
    /// Another server has it: `conflict`.
    pub(crate) fn lock(&self) -> Result<Lock, CliError> {
        let path = self.0.join("lock");
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| local(format!("cannot open {}", path.display()), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(fs::TryLockError::WouldBlock) => {
                let who = self
                    .running()
                    .map_or_else(String::new, |it| format!(" (process {} at {})", it.pid, it.url));
                Err(Fault::new(
                    Code::Conflict,
                    format!("another server uses the data directory {}{who}", self.0.display()),
                )
                .remedy("use that server, stop it, or name another directory with --data-dir")
                .into())
            }
            Err(fs::TryLockError::Error(error)) => {
                Err(local(format!("cannot lock {}", path.display()), error).into())
            }
        }
    }

    /// The API key, made on the first call.
    pub(crate) fn api_key(&self) -> Result<String, CliError> {
        if let Some(key) = self.existing_api_key()? {
            return Ok(key);
        }
        let random: [u8; 24] = rand::random();
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("aeth_{digits}");
        let path = self.0.join("api-key");
        match write_new(&path, key.as_bytes()) {
            Ok(()) => Ok(key),
            // Somebody else was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.existing_api_key()?.ok_or_else(|| {
                    local(format!("cannot read {}", path.display()), "it is empty").into()
                })
            }
            Err(error) => Err(local(format!("cannot write {}", path.display()), error).into()),
        }
    }

    /// The API key, if there is one.
    pub(crate) fn existing_api_key(&self) -> Result<Option<String>, CliError> {
        let path = self.0.join("api-key");
        match fs::read_to_string(&path) {
            Ok(key) => Ok(Some(key.trim().to_owned()).filter(|key| !key.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(local(format!("cannot read {}", path.display()), error).into()),
        }
    }

    /// The master keys of secrets, of which one is made on the first call.
    pub(crate) fn secrets_keys(&self) -> Result<MasterKeys, CliError> {
        let path = self.0.join("secrets-keys");
        if !path.exists() {
            let id = "k1".parse().map_err(Fault::internal)?;
            match write_new(&path, new_key_line(&id).as_bytes()) {
                // Somebody else was first.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made.map_err(|error| local(format!("cannot write {}", path.display()), error))?;
                }
            }
        }
        load_keys(&path)
    }

    /// The server that says it runs here; it may have been killed since.
    pub(crate) fn running(&self) -> Option<Running> {
        serde_json::from_slice(&fs::read(self.0.join("server.json")).ok()?).ok()
    }

    /// Says that this process serves at `url`.
    pub(crate) fn announce(&self, url: &str) -> Result<(), CliError> {
        let running = Running { url: url.to_owned(), pid: std::process::id() };
        let text = serde_json::to_vec(&running).map_err(Fault::internal)?;
        let (temporary, path) = (self.0.join("server.json.new"), self.0.join("server.json"));
        let _ = fs::remove_file(&temporary);
        write_new(&temporary, &text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| local(format!("cannot write {}", path.display()), error).into())
    }

    /// Takes that back.
    pub(crate) fn retract(&self) {
        // A file that is left is harmless: a client that finds nobody at its address says so.
        let _ = fs::remove_file(self.0.join("server.json"));
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_api_key_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::locate(Some(dir.path())).unwrap();
        let key = data.api_key().unwrap();
        assert_eq!(data.api_key().unwrap(), key);
        assert!(key.len() >= 40, "{key}");
        let mode = fs::metadata(dir.path().join("api-key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn two_servers_never_share_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::locate(Some(dir.path())).unwrap();
        let held = data.lock().unwrap();
        assert_eq!(data.lock().unwrap_err().fault().code, Code::Conflict);
        drop(held);
        data.lock().unwrap();
    }
}
