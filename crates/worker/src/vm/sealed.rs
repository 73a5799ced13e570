//! The memory of VMs that were given secrets: encrypted on its way to the disk, and in clear in the host's own
//! memory alone.
//!
//! ```text
//! VMM ──► <volatile>/<vm>/{memory,state} ──AES-256-GCM──► hibernation/{memory,state}
//! VMM ◄── <volatile>/<vm>/{memory,state} ◄─────────────── the same, with the key in the manifest, which is
//!                                                         under a master key
//! ```

use super::snapshot::{MANIFEST, Snapshot};
use crate::{WorkerError, host::Host, layout::replace_file, volatile};
use aetherium_model::{Code, Fault, WorkspaceId};
use aetherium_secrets::{Binding, KeyId, SealError, Sealed, StreamError, StreamKey};
use aetherium_store::StoreError;
use aetherium_vmm::{Machine, SnapshotFiles};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// What a guest's devices and the file system's own records take beside its memory, in bytes.
const BESIDE_MEMORY: u64 = 32 << 20;

/// The key of an encrypted snapshot, in its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// The master key that it is under.
    key_id: String,
    envelope: String,
}

impl Envelope {
    fn sealed(&self) -> Result<Sealed, SealError> {
        let key_id: KeyId = self.key_id.parse().map_err(|_| SealError::Malformed)?;
        Ok(Sealed { key_id, envelope: self.envelope.clone() })
    }
}

impl From<Sealed> for Envelope {
    fn from(Sealed { key_id, envelope }: Sealed) -> Self {
        Self { key_id: key_id.to_string(), envelope }
    }
}

/// What encrypts one snapshot of a VM. Whatever its VMM has written in clear goes with it.
pub(super) struct Seal {
    key: Option<StreamKey>,
    envelope: Envelope,
    dir: PathBuf,
}

impl Drop for Seal {
    fn drop(&mut self) {
        volatile::clear(&self.dir);
    }
}

impl Seal {
    /// A new key for the memory of a workspace's VM.
    ///
    /// # Errors
    /// There is no master key, or no place in the host's memory for `memory_mib`.
    pub(super) fn new(
        host: &Host,
        workspace: WorkspaceId,
        machine: &dyn Machine,
        memory_mib: u32,
    ) -> Result<Self, Fault> {
        let refused = |why: Fault| {
            let detail = format!(
                "it was given secrets, so its memory may reach the disk only encrypted: {}",
                why.detail
            );
            Fault { detail, ..why }
        };
        host.volatile.check_room(room_for(memory_mib)).map_err(refused)?;
        let dir = machine.footprint().volatile.clone().ok_or_else(|| {
            let detail = "this VM was started without a directory in the host's memory";
            refused(Fault::new(Code::Conflict, detail).remedy("the workspace's next VM has one"))
        })?;
        let keys = host.queue.store().keys()?;
        let (key, sealed) = keys
            .new_stream_key(&binding(workspace))
            .map_err(StoreError::from)
            .map_err(Fault::from)?;
        Ok(Self { key: Some(key), envelope: sealed.into(), dir })
    }

    /// Where the VMM is to write.
    pub(super) fn files(&self) -> SnapshotFiles {
        SnapshotFiles::within(&self.dir)
    }

    /// Encrypts what the VMM has written.
    pub(super) async fn encrypt(&mut self, to: SnapshotFiles) -> Result<Envelope, Fault> {
        let key = self.key.take().ok_or_else(|| Fault::internal("a key is used once"))?;
        let from = self.files();
        blocking(move || {
            for (label, from, to) in labelled(&from, &to) {
                let failed = |error| WorkerError::io(to, error);
                let mut plain = BufReader::new(File::open(from).map_err(failed)?);
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
                let mut sealed = BufWriter::new(file.map_err(failed)?);
                key.seal(label, &mut plain, &mut sealed).map_err(failed)?;
                sealed.into_inner().map_err(|error| failed(error.into_error()))?;
                // Two of them would take twice the room.
                std::fs::remove_file(from).map_err(failed)?;
            }
            Ok(())
        })
        .await?;
        Ok(self.envelope.clone())
    }
}

/// Decrypts the memory of a workspace's hibernated VM into the directory that its next VM has in the host's
/// memory.
///
/// # Errors
/// The key is not known, or the files are not what was written.
pub(super) async fn decrypt(
    host: &Host,
    workspace: WorkspaceId,
    envelope: &Envelope,
    from: SnapshotFiles,
    dir: &Path,
) -> Result<SnapshotFiles, Fault> {
    let keys = host.queue.store().keys()?;
    let key = envelope.sealed().and_then(|sealed| keys.stream_key(&sealed, &binding(workspace)));
    let key = key.map_err(StoreError::from)?;
    let to = SnapshotFiles::within(dir);
    let made = to.clone();
    blocking(move || {
        for (label, from, to) in labelled(&from, &to) {
            let failed = |path: &Path, error| Fault::from(WorkerError::io(path, error));
            let mut sealed = BufReader::new(File::open(from).map_err(|error| failed(from, error))?);
            // For any jail to read: the directory above keeps others out.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(to);
            let mut plain = file.map_err(|error| failed(to, error))?;
            key.open(label, &mut sealed, &mut plain).map_err(|error| match error {
                StreamError::Altered => {
                    Fault::new(Code::Conflict, format!("{} does not open: {error}", from.display()))
                }
                StreamError::Io(error) => failed(to, error),
            })?;
        }
        Ok(())
    })
    .await?;
    Ok(made)
}

/// Why encrypted memory cannot be loaded where there is no place for it.
pub(super) fn nowhere() -> Fault {
    let detail = "the memory is encrypted, and this worker has no directory in its host's memory";
    Fault::new(Code::Conflict, detail).remedy("name one of a tmpfs with --volatile-dir")
}

/// Whether a workspace's hibernated VM can be woken now, as far as the host's memory goes.
///
/// # Errors
/// [`Code::NoCapacity`]: later.
pub(crate) fn room_to_wake(host: &Host, workspace: WorkspaceId) -> Result<(), Fault> {
    // What is wrong with it otherwise, waking it tells.
    let Ok(snapshot) = Snapshot::of_hibernated(host, workspace) else { return Ok(()) };
    if snapshot.record.sealed.is_none() {
        return Ok(());
    }
    let memory_mib = snapshot.manifest().ground.memory_mib;
    match host.volatile.check_room(room_for(memory_mib)) {
        Err(why) if why.code == Code::NoCapacity => Err(why),
        _ => Ok(()),
    }
}

/// Puts the key of a workspace's hibernated memory under the newest master key.
///
/// # Errors
/// It is under one that is not known, or the manifest cannot be written.
pub(crate) fn renew_key(host: &Host, workspace: WorkspaceId) -> Result<(), Fault> {
    let Ok(mut snapshot) = Snapshot::of_hibernated(host, workspace) else { return Ok(()) };
    let Some(envelope) = &snapshot.record.sealed else { return Ok(()) };
    let keys = host.queue.store().keys()?;
    if envelope.key_id == keys.newest().as_str() {
        return Ok(());
    }
    let renewed = envelope.sealed().and_then(|sealed| keys.rewrap(&sealed, &binding(workspace)));
    snapshot.record.sealed = Some(renewed.map_err(StoreError::from)?.into());
    let text = serde_json::to_vec_pretty(&snapshot.record).map_err(WorkerError::Encode)?;
    Ok(replace_file(&host.layout.hibernation(workspace).join(MANIFEST), &text)?)
}

/// What such a VM takes of the host's memory while its own is on its way, in bytes.
fn room_for(memory_mib: u32) -> u64 {
    (u64::from(memory_mib) << 20) + BESIDE_MEMORY
}

fn binding(workspace: WorkspaceId) -> Binding {
    Binding::to(["hibernation", &workspace.to_string()])
}

/// The two files with what they are called.
fn labelled<'a>(
    from: &'a SnapshotFiles,
    to: &'a SnapshotFiles,
) -> [(&'static str, &'a Path, &'a Path); 2] {
    [("memory", &from.memory, &to.memory), ("state", &from.state, &to.state)]
}

async fn blocking(work: impl FnOnce() -> Result<(), Fault> + Send + 'static) -> Result<(), Fault> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
