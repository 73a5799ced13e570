//! The agent inside a root filesystem's image, for guests that boot their own init.
//!
//! ```text
//! /usr/local/bin/fc-agent                        the agent
//! /usr/local/lib/aetherium/agent.json            its stamp: version and digests
//! /etc/systemd/system/aetherium-agent.service    its unit, where the image has systemd
//!   └─ multi-user.target.wants/…                 the link that enables it
//! ```
//! [`look`] tells what is there, [`write`] puts it there; both work on an image that is not mounted.
//! Must never write to an image that somebody uses: a copy is [`crate::prepare`]'s to make.

mod debugfs;

use crate::{
    agent::Agent,
    digest,
    error::{ImageError, OnPath, Result, blocking},
};
use debugfs::{Debugfs, Kind};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

const AGENT: &str = "/usr/local/bin/fc-agent";
const STAMP: &str = "/usr/local/lib/aetherium/agent.json";
const UNIT: &str = "/etc/systemd/system/aetherium-agent.service";
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/aetherium-agent.service";
/// Where [`ENABLED`] leads, as `systemctl enable` would have it.
const ENABLED_TARGET: &str = UNIT;
const UNIT_TEXT: &str = include_str!("aetherium-agent.service");
/// Where systemd is: with a merged /usr, and without.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
/// How the agent is started where there is no systemd.
pub(crate) const COMMAND: &str = "/usr/local/bin/fc-agent --installed";

/// Which agent an image has, as the file beside it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its version.
    pub version: String,
    /// SHA-256 of its program, in hexadecimal.
    pub sha256: String,
    /// SHA-256 of its unit; absent where the image had no systemd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_sha256: Option<String>,
}

/// What starts services in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageInit {
    Systemd,
    /// Something else, or nothing: whoever made the image has to start the agent.
    Other,
}

/// What an image has of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) init: ImageInit,
    pub(crate) agent: FoundAgent,
    /// Size of the program that is there, in bytes.
    pub(crate) agent_bytes: u64,
}

/// The agent that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundAgent {
    /// Nothing at all.
    Absent,
    /// All that the stamp speaks of is as it says.
    Whole(Stamp),
    /// Something is there, but not as a stamp says.
    Partial(&'static str),
}

impl FoundAgent {
    /// The stamp, where it tells the truth.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        match self {
            Self::Whole(stamp) => Some(stamp),
            Self::Absent | Self::Partial(_) => None,
        }
    }
}

/// The stamp of `agent` in an image with that init.
pub(crate) fn stamp_of(agent: &Agent, init: ImageInit) -> Stamp {
    Stamp {
        version: agent.version.clone(),
        sha256: agent.sha256.clone(),
        unit_sha256: match init {
            ImageInit::Systemd => Some(digest::of_bytes(UNIT_TEXT.as_bytes())),
            ImageInit::Other => None,
        },
    }
}

/// Looks what an image has. Files that are looked at are copied into `work`.
///
/// # Errors
/// If `debugfs` is missing or cannot read the image.
pub(crate) async fn look(image: &Path, work: &Path) -> Result<Found> {
    let inside = Debugfs { image, work };
    let programs = inside.kinds(&SYSTEMD.map(str::to_owned)).await?;
    let has_systemd = programs.values().any(|kind| matches!(kind, Kind::File | Kind::Link));
    let init = if has_systemd { ImageInit::Systemd } else { ImageInit::Other };
    let agent = inside.dump(AGENT, "found-agent").await?;
    let agent_bytes = match &agent {
        Some(file) => fs::metadata(file).on("look at", file)?.len(),
        None => 0,
    };
    let stamp = inside.dump(STAMP, "found-stamp").await?;
    let found = match (agent, stamp) {
        (None, None) => FoundAgent::Absent,
        (None, Some(_)) => FoundAgent::Partial("there is a stamp, but no agent"),
        (Some(_), None) => FoundAgent::Partial("there is an agent without a stamp"),
        (Some(agent), Some(stamp)) => compare(&inside, init, &agent, &stamp).await?,
    };
    Ok(Found { init, agent: found, agent_bytes })
}

/// Whether what is there is what the stamp says.
async fn compare(
    inside: &Debugfs<'_>,
    init: ImageInit,
    agent: &Path,
    stamp: &Path,
) -> Result<FoundAgent> {
    let text = fs::read(stamp).on("read", stamp)?;
    let Ok(stamp) = serde_json::from_slice::<Stamp>(&text) else {
        return Ok(FoundAgent::Partial("its stamp cannot be read"));
    };
    let agent = agent.to_owned();
    if blocking(move || digest::of_file(&agent)).await? != stamp.sha256 {
        return Ok(FoundAgent::Partial("the agent has not the digest of its stamp"));
    }
    if init == ImageInit::Systemd {
        let unit = match inside.dump(UNIT, "found-unit").await? {
            Some(unit) => Some(digest::of_file(&unit)?),
            None => None,
        };
        if unit.is_none() || unit != stamp.unit_sha256 {
            return Ok(FoundAgent::Partial("its unit is missing, or not that of its stamp"));
        }
        if inside.link(ENABLED).await?.as_deref() != Some(ENABLED_TARGET) {
            return Ok(FoundAgent::Partial("its unit is not enabled"));
        }
    }
    Ok(FoundAgent::Whole(stamp))
}

/// Writes agent, stamp and unit into an image and looks whether they are there.
///
/// # Errors
/// [`ImageError::AgentNotInstalled`] if they are not; the image is then worth nothing.
pub(crate) async fn write(
    image: &Path,
    work: &Path,
    agent: &Agent,
    init: ImageInit,
) -> Result<Stamp> {
    let stamp = stamp_of(agent, init);
    let (place, program, said) = (work.to_owned(), agent.bytes.clone(), stamp.clone());
    blocking(move || stage(&place, &program, &said)).await?;
    let inside = Debugfs { image, work };
    let wanted = wanted(init);
    let looked: Vec<String> = wanted.iter().flat_map(|(path, _)| on_the_way(path)).collect();
    let kinds = inside.kinds(&looked).await?;
    let commands = plan(&wanted, &kinds).map_err(|detail| not_installed(image, detail))?;
    inside.change(commands).await?;
    match look(image, work).await?.agent {
        FoundAgent::Whole(found) if found == stamp => Ok(stamp),
        FoundAgent::Partial(detail) => Err(not_installed(image, detail)),
        _ => Err(not_installed(image, "what was written is not there")),
    }
}

/// Puts the files to be written into the working directory, with the modes they shall have.
fn stage(work: &Path, program: &[u8], stamp: &Stamp) -> Result<()> {
    let text = serde_json::to_vec_pretty(stamp).map_err(std::io::Error::from);
    let files: [(&str, &[u8], u32); 3] = [
        ("agent", program, 0o755),
        ("stamp", &text.on("write", work)?, 0o644),
        ("unit", UNIT_TEXT.as_bytes(), 0o644),
    ];
    for (name, content, mode) in files {
        let path = work.join(name);
        fs::write(&path, content).on("write", &path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).on("set permissions of", &path)?;
    }
    Ok(())
}

/// What is to be at a path of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The staged file of that name.
    File(&'static str),
    /// A link that leads there.
    Link(&'static str),
}

fn wanted(init: ImageInit) -> Vec<(&'static str, Wanted)> {
    let mut wanted = vec![(AGENT, Wanted::File("agent")), (STAMP, Wanted::File("stamp"))];
    if init == ImageInit::Systemd {
        wanted.extend([(UNIT, Wanted::File("unit")), (ENABLED, Wanted::Link(ENABLED_TARGET))]);
    }
    wanted
}

/// The directories on the way to a path, as [`directory`] names them, and the path itself.
fn on_the_way(path: &str) -> Vec<String> {
    let directories = path.match_indices('/').skip(1).map(|(end, _)| directory(&path[..end]));
    directories.chain([path.to_owned()]).collect()
}

/// A path that is a directory's, even where a link leads to it.
fn directory(path: &str) -> String {
    format!("{path}/.")
}

/// The commands that make what is wanted, from what is there. Pure.
fn plan(
    wanted: &[(&'static str, Wanted)],
    kinds: &BTreeMap<String, Kind>,
) -> Result<Vec<String>, &'static str> {
    let mut commands: Vec<String> = Vec::new();
    for (path, what) in wanted {
        for (end, _) in path.match_indices('/').skip(1) {
            let dir = &path[..end];
            let make = format!("mkdir {}", debugfs::followed(dir));
            if !kinds.contains_key(&directory(dir)) && !commands.contains(&make) {
                commands.push(make);
            }
        }
        match kinds.get(*path) {
            None => {}
            Some(Kind::Directory) => return Err("a directory is in the way"),
            Some(_) => commands.push(format!("rm {}", debugfs::followed(path))),
        }
        match (what, path.rsplit_once('/')) {
            // A name with a slash would be written as such: `write` knows names of the directory it
            // is in.
            (Wanted::File(name), Some((dir, file))) => commands.extend([
                format!("cd {}", directory(dir)),
                format!("write {name} {file}"),
                "cd /".to_owned(),
            ]),
            (Wanted::File(name), None) => commands.push(format!("write {name} {path}")),
            (Wanted::Link(target), _) => {
                commands.push(format!("symlink {} {target}", debugfs::followed(path)));
            }
        }
    }
    Ok(commands)
}

fn not_installed(image: &Path, detail: &str) -> ImageError {
    ImageError::AgentNotInstalled { path: image.to_owned(), detail: detail.to_owned() }
}

/// Whether one version comes after another: by their numbers, from left to right.
pub(crate) fn is_newer(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) > numbers(than)
}

#[cfg(test)]
mod tests;
