//! Snapshot files: the configuration as JSON under the version's format, and a sparse memory file.
//!
//! Nothing of the guest itself is kept: a load starts its agent anew.

use crate::{
    body::{
        BootSource, CreateSnapshot, Drive, MachineConfig, NetworkInterface, SnapshotType, Vsock,
    },
    refusal::Refusal,
    version::Version,
};
use aetherium_agent_proto::config::GuestConfig;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// What a snapshot holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) format: String,
    pub(crate) machine: MachineConfig,
    pub(crate) boot: Option<BootSource>,
    pub(crate) drives: Vec<Drive>,
    pub(crate) networks: Vec<NetworkInterface>,
    pub(crate) vsock: Option<Vsock>,
    /// What the guest was told at its boot, which is in its memory.
    pub(crate) guest: Option<GuestConfig>,
    /// Kept with the memory: a snapshot of one transport loads as that, whatever the command line.
    pub(crate) pci: bool,
}

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// Writes both files.
pub(crate) fn write(saved: &Saved, to: &CreateSnapshot) -> Result<(), Refusal> {
    let refused = |what: &str, file: &str, error: io::Error| {
        let message = format!(
            "Create snapshot error: Cannot perform {what} on the {file} backing file: {error}"
        );
        Refusal::bad_request(message)
    };
    let text = serde_json::to_vec(saved).map_err(Refusal::body)?;
    File::create(&to.snapshot_path)
        .map_err(|error| refused("open", "snapshot", error))?
        .write_all(&text)
        .map_err(|error| refused("write", "snapshot", error))?;
    let memory = match to.snapshot_type {
        SnapshotType::Full => File::create(&to.mem_file_path),
        // A diff goes over what is there already.
        SnapshotType::Diff => {
            File::options().write(true).create(true).truncate(false).open(&to.mem_file_path)
        }
    };
    memory
        .map_err(|error| refused("open", "memory", error))?
        .set_len(saved.machine.mem_size_mib * MIB)
        .map_err(|error| refused("set_length", "memory", error))
}

/// Reads both files. Any refusal ends Firecracker.
pub(crate) fn read(state: &Path, memory: &Path, version: Version) -> Result<Saved, Refusal> {
    let refused = |why: String| {
        Refusal::fatal(format!("Load snapshot error: Failed to restore from snapshot: {why}"))
    };
    let from_file = |why: String| refused(format!("Failed to get snapshot state from file: {why}"));
    let text = fs::read(state)
        .map_err(|error| from_file(format!("Failed to open snapshot file: {error}")))?;
    let broken = |why: String| from_file(format!("Failed to load snapshot state from file: {why}"));
    let saved: Saved = serde_json::from_slice(&text).map_err(|_| {
        broken("An error occurred during bitcode serialization: bitcode error".to_owned())
    })?;
    if saved.format != version.snapshot_format() {
        return Err(broken(format!("Invalid data version: {}", saved.format)));
    }
    let memory_refused = |why: String| {
        refused(format!(
            "Failed to load guest memory: Error creating guest memory from file: {why}"
        ))
    };
    let size = fs::metadata(memory)
        .map_err(|error| memory_refused(format!("Failed to load guest memory: {error}")))?
        .len();
    if size < saved.machine.mem_size_mib * MIB {
        let why =
            "Failed to restore guest memory: Cannot create mmap region: the file is too short";
        return Err(memory_refused(why.to_owned()));
    }
    Ok(saved)
}
