//! The home that an assistant keeps its login in, in a guest, and the files of it there. They are read and
//! written with the rights of who the assistant runs as, and no others.

use super::bundle::{Found, Seen};
use crate::run::exec_spec;
use aetherium_agent_client::{AgentClient, AgentError, Files, RefusalKind, collect};
use aetherium_agent_proto::{
    ExitStatus,
    files::{ByteRange, FileKind, FileMode, WriteOptions},
};
use aetherium_catalog::HomePath;
use aetherium_model::{Code, Fault, run::Command};
use aetherium_secrets::SecretValue;
use std::{
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// How long the guest may take to say where the home is.
const ASK_MS: u64 = 30_000;
/// How long one file may take to be read or written.
const FILE_DEADLINE: Duration = Duration::from_secs(30);
/// The longest path of a home, in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// The largest file of a login, and the most that all of one's files have, in bytes.
const MAX_FILE: u64 = 64 * 1024;
const MAX_FILES: u64 = 256 * 1024;

/// Somebody's home in a guest.
pub(super) struct Home {
    files: Files,
    path: PathBuf,
}

impl Home {
    /// The home of who runs `command`, as that would see it.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) async fn of(agent: &AgentClient, command: &Command) -> Result<Self, Fault> {
        let ask = Command {
            argv: ["/bin/sh", "-c", "printf %s \"$HOME\""].map(str::to_owned).to_vec(),
            timeout_ms: Some(ASK_MS),
            cwd: Some("/".to_owned()),
            ..command.clone()
        };
        let user = command.user.as_deref();
        let unknown = |why: String| {
            let who = user.unwrap_or("who the template says");
            Fault::new(Code::LoginFailed, format!("the home of {who} is not known: {why}"))
                .remedy("take a template with /bin/sh, and a user that it has")
        };
        let asked = agent.exec(exec_spec(&ask, false)).await;
        let process = asked.map_err(|error| unknown(error.to_string()))?;
        let said = collect(process, MAX_PATH).await.map_err(|error| unknown(error.to_string()))?;
        let path = PathBuf::from(String::from_utf8_lossy(&said.stdout).into_owned());
        if said.exit.status != ExitStatus::Code(0) || !path.is_absolute() {
            return Err(unknown(format!("a shell says {path:?}")));
        }
        let files = match user {
            Some(user) => agent.files().as_user(user),
            None => agent.files(),
        };
        Ok(Self { files, path })
    }

    /// Those of the files that are there.
    ///
    /// # Errors
    /// One cannot be read, or they are too large for a login's.
    pub(super) async fn read(&self, wanted: &[HomePath]) -> Result<Found, Fault> {
        let (mut found, mut bytes) = (Found::new(), 0);
        for wanted in wanted {
            let read = tokio::time::timeout(FILE_DEADLINE, self.read_one(wanted));
            let late = |_| unread(wanted, "it took too long");
            let Some(seen) = read.await.map_err(late)?? else { continue };
            bytes += seen.content.reveal().len() as u64;
            if bytes > MAX_FILES {
                return Err(unread(wanted, &format!("with it there are over {MAX_FILES} bytes")));
            }
            found.insert(wanted.as_str().to_owned(), seen);
        }
        Ok(found)
    }

    async fn read_one(&self, wanted: &HomePath) -> Result<Option<Seen>, Fault> {
        let fail = |error: AgentError| unread(wanted, &error.to_string());
        let range = ByteRange { offset: 0, length: Some(MAX_FILE + 1) };
        let mut reader = match self.files.read(self.path.join(wanted.as_str()), range).await {
            Ok(reader) => reader,
            Err(AgentError::Refused { kind: RefusalKind::NotFound, .. }) => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let info = reader.info().clone();
        if info.kind != FileKind::File || info.size > MAX_FILE {
            let why = format!("it is no file of at most {MAX_FILE} bytes");
            return Err(unread(wanted, &why));
        }
        let mut content = Vec::with_capacity(usize::try_from(info.size).unwrap_or_default());
        while let Some(bytes) = reader.next().await.map_err(fail)? {
            content.extend_from_slice(&bytes);
        }
        let since = info.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Ok(Some(Seen { content: SecretValue::new(content), modified_ms }))
    }

    /// Writes a file that nobody else may read; readers see the old or the new one.
    ///
    /// # Errors
    /// `secret_not_delivered`: why it is not there.
    pub(super) async fn write(&self, path: &str, content: &SecretValue) -> Result<(), Fault> {
        let place = self.path.join(path);
        let written = tokio::time::timeout(FILE_DEADLINE, self.write_one(&place, content)).await;
        let written = match written {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err("it took too long".to_owned()),
        };
        written.map_err(|error| {
            let place = place.display();
            Fault::new(
                Code::SecretNotDelivered,
                format!("the login's file {place} could not be written: {error}"),
            )
            .remedy("see that the guest's disk has room and that its user may write there")
        })
    }

    async fn write_one(&self, place: &Path, content: &SecretValue) -> Result<(), AgentError> {
        if let Some(parent) = place.parent().filter(|parent| *parent != self.path) {
            // Made for nobody else where it is not there; one that is stays as it is.
            self.files.make_dir(parent, FileMode::new(0o700).ok()).await?;
        }
        let options = WriteOptions { mode: FileMode::new(0o600).ok(), ..WriteOptions::default() };
        let mut writer = self.files.write(place, options).await?;
        writer.write(content.reveal().to_vec().into()).await?;
        writer.commit().await.map(drop)
    }
}

fn unread(path: &HomePath, why: &str) -> Fault {
    let detail = format!("the login's file ~/{} cannot be taken: {why}", path.as_str());
    Fault::new(Code::LoginFailed, detail).remedy("look at it in the workspace, then log in again")
}
