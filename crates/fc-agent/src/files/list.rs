//! Listing a directory, batch by batch, however large it is.

use std::fs::ReadDir;
use std::path::Path;

use aetherium_agent_proto::files::{FileInfo, FileKind};
use aetherium_agent_proto::{Refusal, RefusalKind};

use super::info::Names;
use crate::actor::Parts;
use crate::refuse::OrRefuse as _;

/// Entries of one batch.
const BATCH: usize = 128;
/// The deepest listing; each level holds a descriptor.
const MAX_DEPTH: u32 = 64;

/// Lists what lies below a directory, `depth` levels deep. Links are told and not followed.
pub(super) fn list(path: &Path, depth: u32, parts: &Parts<Vec<FileInfo>>) -> Result<(), Refusal> {
    let depth = depth.max(1);
    if depth > MAX_DEPTH {
        let detail = format!("{depth} levels are more than {MAX_DEPTH}; list in steps");
        return Err(Refusal::new(RefusalKind::InvalidRequest, detail));
    }
    let names = Names::read();
    let mut open: Vec<ReadDir> = vec![std::fs::read_dir(path).cannot("be listed", path)?];
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.next() else {
            open.pop();
            continue;
        };
        let entry = entry.cannot("be listed to its end", path)?;
        // What is gone since its name was read is not there.
        let Ok(metadata) = entry.metadata() else { continue };
        let info = names.describe(entry.path(), &metadata);
        let deeper = info.kind == FileKind::Directory && open.len() < depth as usize;
        // A directory closed to the user is told, and what is in it is not.
        if deeper && let Ok(dir) = std::fs::read_dir(&info.path) {
            open.push(dir);
        }
        batch.push(info);
        if batch.len() == BATCH {
            parts.give(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)))?;
        }
    }
    parts.give(batch)
}
