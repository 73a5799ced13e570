//! Who depends on a template: VMs that run from it, workspaces whose disk was made over it, snapshots.
//!
//! A writable disk is laid over the root filesystem by the guest, file by file: with another base
//! below it, what it holds means something else. So a disk is bound to the base it was made over, by
//! digest, for as long as the disk is kept; a name may point elsewhere meanwhile.

use super::{InstalledTemplate, StoreLock, TemplateStore, places::names_in, steps::between};
use crate::error::{ImageError, OnPath, Result};
use aetherium_model::{Digest, Name, TemplateRef, VmId, WorkspaceId};
use serde::{Deserialize, Serialize};
use std::{fmt, fs, io, path::PathBuf, str::FromStr};

const SNAPSHOT: &str = "snapshot.";

/// Who depends on a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A VM, until it has ended.
    Vm(VmId),
    /// A workspace, until its disk is removed.
    Workspace(WorkspaceId),
    /// A snapshot, until it is removed.
    Snapshot(Name),
}

/// A text that names no holder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a VM, nor a workspace, nor a snapshot")]
pub struct InvalidHolder(String);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(id) => id.fmt(f),
            Self::Workspace(id) => id.fmt(f),
            Self::Snapshot(name) => write!(f, "{SNAPSHOT}{name}"),
        }
    }
}

impl FromStr for Holder {
    type Err = InvalidHolder;

    fn from_str(text: &str) -> Result<Self, InvalidHolder> {
        if let Some(name) = text.strip_prefix(SNAPSHOT) {
            return name.parse().map(Self::Snapshot).map_err(|_| InvalidHolder(text.to_owned()));
        }
        let vm = text.parse().map(Self::Vm).ok();
        let holder = vm.or_else(|| text.parse().map(Self::Workspace).ok());
        holder.ok_or_else(|| InvalidHolder(text.to_owned()))
    }
}

impl Serialize for Holder {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What a holder depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The template, by the name it was asked for and by its digest.
    pub template: TemplateRef,
    /// Its digest.
    pub digest: Digest,
}

impl TemplateStore {
    /// Opens a template and keeps it from being removed until [`TemplateStore::release`]. A holder
    /// holds one: another that it held before is let go.
    ///
    /// # Errors
    /// As [`TemplateStore::get`].
    pub fn hold(
        &self,
        holder: &Holder,
        wanted: impl Into<TemplateRef>,
    ) -> Result<InstalledTemplate> {
        let wanted = wanted.into();
        let lock = StoreLock::shared(&self.dir)?;
        let digest = self.resolve(&wanted)?;
        let template = self.open_manifest(&wanted, &digest)?;
        let held = Use { template: wanted, digest };
        let place = self.use_place(holder);
        let text = serde_json::to_vec(&held).map_err(io::Error::from).on("write", &place)?;
        self.write_file(&lock, &place, &text)?;
        Ok(template)
    }

    /// The template that a holder holds; none where it holds none.
    ///
    /// # Errors
    /// As [`TemplateStore::get`]; a template that is held and is not there is damage.
    pub fn held(&self, holder: &Holder) -> Result<Option<InstalledTemplate>> {
        let Some(held) = self.use_of(holder)? else { return Ok(None) };
        let pinned = TemplateRef::pinned(held.template.name, held.digest);
        self.get(&pinned).map(Some)
    }

    /// Says that a holder depends on nothing any more. Done twice it is done.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn release(&self, holder: &Holder) -> Result<()> {
        let _lock = StoreLock::shared(&self.dir)?;
        let place = self.use_place(holder);
        between();
        match fs::remove_file(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.on("remove", &place),
        }
    }

    /// Who holds what, sorted.
    ///
    /// # Errors
    /// If one cannot be read: then nothing may be removed.
    pub fn holders(&self) -> Result<Vec<(Holder, Use)>> {
        let mut holders: Vec<Holder> = names_in(&self.uses_dir())?;
        holders.sort();
        let mut all = Vec::new();
        for holder in holders {
            // One that was let go meanwhile is none.
            if let Some(held) = self.use_of(&holder)? {
                all.push((holder, held));
            }
        }
        Ok(all)
    }

    fn use_of(&self, holder: &Holder) -> Result<Option<Use>> {
        let place = self.use_place(holder);
        let text = match fs::read(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.on("read", &place)?,
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| ImageError::StoreDamaged { path: place, detail: error.to_string() })
    }

    fn use_place(&self, holder: &Holder) -> PathBuf {
        self.uses_dir().join(holder.to_string())
    }
}
