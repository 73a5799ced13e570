//! Reads and changes files of an ext4 image that is not mounted, through `debugfs`.
//!
//! `debugfs` ends well whatever became of its commands, so nothing here believes that a change was
//! made: whoever changes an image looks at it again. Paths of the image are followed through its
//! symbolic links, and never leave it.

use crate::{
    command::Tool,
    error::{OnPath, Result, blocking},
};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(120);
const PACKAGE: &str = "e2fsprogs";
/// The file of commands, in the working directory.
const SCRIPT: &str = "commands";

/// What is at a path of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// An image, and a directory for the files that go in and out. Their names there are plain words:
/// `debugfs` splits its commands at spaces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debugfs<'a> {
    pub(super) image: &'a Path,
    pub(super) work: &'a Path,
}

impl Debugfs<'_> {
    /// What is at `path`, whose last part is not followed if it is a link.
    pub(super) async fn kind(&self, path: &str) -> Result<Option<Kind>> {
        Ok(parse_kind(&self.ask(&format!("stat {path}")).await?))
    }

    /// Whether `path` is a directory, or a link to one.
    pub(super) async fn is_directory(&self, path: &str) -> Result<bool> {
        Ok(self.kind(&format!("{path}/.")).await? == Some(Kind::Directory))
    }

    /// Where the link at `path` leads; `None` if there is no link.
    pub(super) async fn link(&self, path: &str) -> Result<Option<String>> {
        Ok(parse_link(&self.ask(&format!("stat {path}")).await?))
    }

    /// Copies a regular file out, as `name`; `None` if there is none at `path`.
    pub(super) async fn dump(&self, path: &str, name: &str) -> Result<Option<PathBuf>> {
        if self.kind(path).await? != Some(Kind::File) {
            return Ok(None);
        }
        self.ask(&format!("dump {path} {name}")).await?;
        Ok(Some(self.work.join(name)))
    }

    /// Runs commands that change the image, each whatever became of the one before.
    pub(super) async fn change(&self, commands: Vec<String>) -> Result<()> {
        let script = self.work.join(SCRIPT);
        let text = commands.iter().fold(String::new(), |mut text, command| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{command}");
            text
        });
        let place = script.clone();
        blocking(move || fs::write(&place, text).on("write", &place)).await?;
        self.tool().arg("-w").arg("-f").arg(&script).arg(self.image).run().await?;
        Ok(())
    }

    async fn ask(&self, command: &str) -> Result<String> {
        // `-c`: without the bitmaps, which no question here needs.
        self.tool().args(["-c", "-R", command]).arg(self.image).run().await
    }

    fn tool(&self) -> Tool<'static> {
        Tool::new("debugfs", PACKAGE, DEADLINE).dir(self.work)
    }
}

/// The same path, for commands that make or remove its last part: they do not follow the part before it
/// if that is a link, but they follow `.`.
pub(super) fn followed(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, name)) => format!("{dir}/./{name}"),
        None => path.to_owned(),
    }
}

/// Reads `Inode: 12   Type: regular    Mode:  0755   Flags: 0x80000`.
fn parse_kind(said: &str) -> Option<Kind> {
    let line = said.lines().find(|line| line.starts_with("Inode: "))?;
    let kind = line.split_once("Type: ")?.1.split_whitespace().next()?;
    Some(match kind {
        "regular" => Kind::File,
        "directory" => Kind::Directory,
        "symlink" => Kind::Link,
        _ => Kind::Other,
    })
}

/// Reads `Fast link dest: "../x.service"`. A longer one is not told, and none of ours is.
fn parse_link(said: &str) -> Option<String> {
    let target = said.lines().find_map(|line| line.strip_prefix("Fast link dest: "))?;
    Some(target.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debugfs_says_of_an_inode_is_read() {
        let file = "debugfs: stat /x\nInode: 12   Type: regular    Mode:  0755   Flags: 0x80000\n";
        assert_eq!(parse_kind(file), Some(Kind::File));
        let link = "Inode: 14   Type: symlink    Mode:  0777\nFast link dest: \"../a.service\"\n";
        assert_eq!(parse_kind(link), Some(Kind::Link));
        assert_eq!(parse_link(link).unwrap(), "../a.service");
        assert_eq!((parse_kind(""), parse_link(file)), (None, None));
    }
}
