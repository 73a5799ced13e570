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
    collections::BTreeMap,
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
    /// What is at each of these paths, whose last part is not followed if it is a link; what is not
    /// there is left out.
    pub(super) async fn kinds(&self, paths: &[String]) -> Result<BTreeMap<String, Kind>> {
        let commands = paths.iter().map(|path| format!("stat {path}")).collect();
        let said = self.run("-c", commands).await?;
        Ok(parse_kinds(&said))
    }

    /// Where the link at `path` leads; `None` if there is no link.
    pub(super) async fn link(&self, path: &str) -> Result<Option<String>> {
        Ok(parse_link(&self.run("-c", vec![format!("stat {path}")]).await?))
    }

    /// Copies a regular file out, as `name`; `None` if there is none at `path`.
    pub(super) async fn dump(&self, path: &str, name: &str) -> Result<Option<PathBuf>> {
        let said =
            self.run("-c", vec![format!("stat {path}"), format!("dump {path} {name}")]).await?;
        let is_file = parse_kinds(&said).get(path) == Some(&Kind::File);
        Ok(is_file.then(|| self.work.join(name)))
    }

    /// Runs commands that change the image, each whatever became of the one before.
    pub(super) async fn change(&self, commands: Vec<String>) -> Result<()> {
        self.run("-w", commands).await.map(drop)
    }

    /// Runs commands in one go: with `-w` to change the image, with `-c` to look without reading its
    /// bitmaps. Each is repeated in the output, before what it says.
    async fn run(&self, how: &str, commands: Vec<String>) -> Result<String> {
        let script = self.work.join(SCRIPT);
        let (place, text) = (script.clone(), commands.join("\n") + "\n");
        blocking(move || fs::write(&place, text).on("write", &place)).await?;
        let tool = Tool::new("debugfs", PACKAGE, DEADLINE).dir(self.work);
        tool.args([how, "-f"]).arg(&script).arg(self.image).run().await
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

/// Reads, behind each `debugfs: stat PATH`, a line like
/// `Inode: 12   Type: regular    Mode:  0755   Flags: 0x80000`; there is none for what is not there.
fn parse_kinds(said: &str) -> BTreeMap<String, Kind> {
    let answers = said.split("debugfs: stat ").skip(1);
    let kinds = answers.filter_map(|answer| {
        let (path, rest) = answer.split_once('\n')?;
        let line = rest.lines().find(|line| line.starts_with("Inode: "))?;
        let kind = match line.split_once("Type: ")?.1.split_whitespace().next()? {
            "regular" => Kind::File,
            "directory" => Kind::Directory,
            "symlink" => Kind::Link,
            _ => Kind::Other,
        };
        Some((path.trim().to_owned(), kind))
    });
    kinds.collect()
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
        let said = "debugfs: stat /x\nInode: 12   Type: regular    Mode:  0755   Flags: 0x80000\n\
                    debugfs: stat /gone\ndebugfs: stat /usr/.\nInode: 13   Type: directory    Mode: 0\n\
                    debugfs: stat /l\nInode: 14   Type: symlink    Mode:  0777\n\
                    Fast link dest: \"../a.service\"\n";
        let kinds = parse_kinds(said);
        assert_eq!(kinds.len(), 3);
        assert_eq!((kinds["/x"], kinds["/usr/."]), (Kind::File, Kind::Directory));
        assert_eq!(kinds["/l"], Kind::Link);
        assert_eq!(parse_link(said).unwrap(), "../a.service");
        assert_eq!((parse_kinds("").len(), parse_link("")), (0, None));
    }
}
