//! Gets a root filesystem's image ready for a host: looks whether it is whole, and installs or upgrades
//! the agent in it.
//!
//! ```text
//! lock ─► sweep ─► at rest? ─► e2fsck -fn ─► look ──as wanted──► nothing to do
//!                     │            │          │
//!                   in use      damaged       └─► copy ─► room ─► write ─► e2fsck -fn ─► rename
//! ```
//! The image is never written to. All is done on a copy beside it, which takes its place by one rename
//! when it has been checked and is on the disk; the image before stays as `<image>.previous`. A run that
//! is killed leaves a working directory, which the next one removes. Nothing is mounted.

mod place;

use crate::{
    agent::Agent,
    command::Tool,
    error::{ImageError, OnPath, Result, blocking},
    ext4,
    install::{self, Found, FoundAgent, ImageInit, Stamp},
    progress::Progress,
    sparse,
    superblock::Superblock,
};
use aetherium_model::finding::Finding;
use place::{Held, Place};
use serde::Serialize;
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

const RESIZE_DEADLINE: Duration = Duration::from_secs(300);
/// Room for directories and for what describes a fragmented file, in bytes.
const SPARE_BYTES: u64 = 256 << 10;
/// Agent, stamp, unit, link, and every directory on the way to them.
const INODES: u64 = 12;

const WHOLE: &str = "a damaged root filesystem fails in the guest, where nobody sees why";
const AGENT: &str = "a guest that boots its own init is reached through the agent in its image";
const INIT: &str = "the agent has to be started at boot";

/// What is to become of an image.
#[derive(Debug, Clone)]
pub struct RootfsJob {
    /// The image: ext4, not mounted.
    pub rootfs: PathBuf,
    /// The agent to install; `None` only looks.
    pub agent: Option<PathBuf>,
    /// How long another run on the same image is waited for.
    pub patience: Duration,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreparedRootfs {
    /// What was found and done, step by step.
    pub findings: Vec<Finding>,
    /// The agent that the image has now.
    pub agent: Option<Stamp>,
    /// The image as it was before this run; `None` if this run changed nothing.
    pub previous: Option<PathBuf>,
}

/// Does the job. With nothing to change, nothing is changed.
///
/// # Errors
/// [`ImageError::RootfsDamaged`], [`ImageError::RootfsInUse`], [`ImageError::RootfsBusy`], and whatever
/// keeps the agent out. The image is then as it was.
pub async fn rootfs(job: &RootfsJob, progress: &dyn Progress) -> Result<PreparedRootfs> {
    let place = Place::of(&job.rootfs)?;
    let Some(agent) = &job.agent else {
        let mut findings = vec![check(&place, progress).await?];
        // Not beside the image, where somebody who only looks may not be allowed to write.
        let work = tempfile::Builder::new().prefix("aetherium-look-").tempdir();
        let work = work.on("make directory in", &std::env::temp_dir())?;
        let found = install::look(&place.image, work.path()).await?;
        findings.push(agent_found(&found));
        let agent = found.agent.stamp().cloned();
        return Ok(PreparedRootfs { findings, agent, previous: None });
    };
    let agent = Agent::read(agent).await?;
    progress.step(&format!("waiting for {}", place.image.display()));
    let held = place.hold(job.patience).await?;
    let mut findings = swept(&held)?;
    findings.push(check(held.place(), progress).await?);
    let work = held.work()?;
    let found = install::look(&held.place().image, work.path()).await?;
    if let Some(stamp) = stays(&found, &agent) {
        findings.extend([kept(stamp, &agent), started_by(found.init)]);
        return Ok(PreparedRootfs { findings, agent: Some(stamp.clone()), previous: None });
    }
    let stamp = install_on_copy(&held, work.path(), &found, &agent, progress).await?;
    let previous = held.place().previous();
    findings.extend([installed(&found, &stamp), started_by(found.init), kept_as(&previous)]);
    Ok(PreparedRootfs { findings, agent: Some(stamp), previous: Some(previous) })
}

/// Looks whether the image is whole.
async fn check(place: &Place, progress: &dyn Progress) -> Result<Finding> {
    let image = &place.image;
    let superblock = Superblock::read(image)?;
    if !superblock.at_rest {
        return Err(ImageError::RootfsInUse { path: image.clone() });
    }
    progress.step(&format!("checking {}", image.display()));
    if let Err(error) = ext4::check(image).await {
        let ImageError::CommandFailed { tail, .. } = error else { return Err(error) };
        let previous = place.previous();
        let whole = previous.exists() && ext4::check(&previous).await.is_ok();
        let previous = whole.then_some(previous);
        return Err(ImageError::RootfsDamaged { path: image.clone(), previous, tail });
    }
    let mib = |bytes: u64| bytes >> 20;
    let found = format!(
        "{}: ext4, whole, {} MiB, {} MiB free",
        image.display(),
        mib(superblock.bytes()),
        mib(superblock.free_bytes())
    );
    Ok(Finding::ok("rootfs.filesystem", found, WHOLE))
}

/// The agent that is there, if it is to stay: this one, or a newer one.
fn stays<'a>(found: &'a Found, agent: &Agent) -> Option<&'a Stamp> {
    let stamp = found.agent.stamp()?;
    let same = *stamp == install::stamp_of(agent, found.init);
    (same || install::is_newer(&stamp.version, &agent.version)).then_some(stamp)
}

async fn install_on_copy(
    held: &Held,
    work: &Path,
    found: &Found,
    agent: &Agent,
    progress: &dyn Progress,
) -> Result<Stamp> {
    let copy = work.join("image");
    progress.step("copying the image");
    let (from, to) = (held.place().image.clone(), copy.clone());
    blocking(move || sparse::copy(&from, &File::create_new(&to).on("make", &to)?)).await?;
    make_room(held.place(), &copy, found, agent).await?;
    progress.step(&format!("installing agent {}", agent.version));
    let stamp = install::write(&copy, work, agent, found.init).await?;
    progress.step("checking the changed copy");
    ext4::check(&copy).await?;
    held.replace(&copy, work)?;
    Ok(stamp)
}

/// Lets the copy grow, if the agent does not fit.
async fn make_room(place: &Place, copy: &Path, found: &Found, agent: &Agent) -> Result<()> {
    let superblock = Superblock::read(copy)?;
    let needed = (agent.bytes.len() as u64).saturating_sub(found.agent_bytes) + SPARE_BYTES;
    if superblock.free_inodes < INODES {
        let detail =
            format!("it has room for {} more files and needs {INODES}", superblock.free_inodes);
        return Err(ImageError::RootfsUnusable { path: place.image.clone(), detail });
    }
    if superblock.free_bytes() >= needed {
        return Ok(());
    }
    // Whole MiB, which every VMM takes for a disk. What describes the new blocks needs some of them.
    let bytes = (superblock.bytes() + needed + needed / 8).next_multiple_of(1 << 20);
    let file = File::options().write(true).open(copy).on("open", copy)?;
    file.set_len(bytes).on("size", copy)?;
    // `-f`: it was just checked, which resize2fs cannot know of a check that wrote nothing.
    Tool::new("resize2fs", "e2fsprogs", RESIZE_DEADLINE).arg("-f").arg(copy).run().await?;
    Ok(())
}

fn swept(held: &Held) -> Result<Vec<Finding>> {
    Ok(match held.sweep()? {
        0 => Vec::new(),
        count => {
            let found = format!("removed what {count} killed runs had left");
            vec![Finding::ok("rootfs.leftovers", found, "a copy of an image takes its room")]
        }
    })
}

fn agent_found(found: &Found) -> Finding {
    let check = "rootfs.agent";
    match &found.agent {
        FoundAgent::Absent => {
            let none = "none inside: it comes with Aetherium's initramfs";
            Finding::ok(check, none, AGENT)
        }
        FoundAgent::Whole(stamp) => Finding::ok(check, format!("{} inside", name(stamp)), AGENT),
        FoundAgent::Partial(detail) => {
            Finding::warn(check, *detail, AGENT, "install it anew: --install-agent")
        }
    }
}

fn kept(stamp: &Stamp, agent: &Agent) -> Finding {
    let found = if stamp.sha256 == agent.sha256 {
        format!("{} is installed already", name(stamp))
    } else {
        format!("{} is installed, and newer than {}: it stays", name(stamp), agent.version)
    };
    Finding::ok("rootfs.agent", found, AGENT)
}

fn installed(found: &Found, stamp: &Stamp) -> Finding {
    let done = match &found.agent {
        FoundAgent::Absent => format!("{} installed", name(stamp)),
        FoundAgent::Whole(before) => {
            format!("{} installed instead of {}", name(stamp), name(before))
        }
        FoundAgent::Partial(detail) => format!("{} installed anew: {detail}", name(stamp)),
    };
    Finding::ok("rootfs.agent", done, AGENT)
}

fn started_by(init: ImageInit) -> Finding {
    match init {
        ImageInit::Systemd => Finding::ok(
            "rootfs.init",
            "systemd starts it: aetherium-agent.service is enabled",
            INIT,
        ),
        ImageInit::Other => Finding::warn(
            "rootfs.init",
            "the image has no systemd: nothing starts the agent",
            INIT,
            format!(
                "let the image's own init run `{}`, or boot it with Aetherium's initramfs",
                install::COMMAND
            ),
        ),
    }
}

fn kept_as(previous: &Path) -> Finding {
    let found = format!("the image before is kept as {}", previous.display());
    Finding::ok("rootfs.previous", found, "what was is there again after one copy")
}

/// An agent by its version and the beginning of its digest.
fn name(stamp: &Stamp) -> String {
    let short = stamp.sha256.get(..12).unwrap_or(&stamp.sha256);
    format!("agent {} ({short})", stamp.version)
}
