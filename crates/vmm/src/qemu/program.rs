//! Which QEMU there is, and what it can do. Asked once, by running it.

use crate::{VmmError, spawn::find_program};
use std::{
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, sync::OnceCell, time::timeout};

/// The program's name in `PATH`.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// The machine that guests get, of the newest version that this QEMU has.
pub(crate) const MACHINE: &str = "q35";
/// What to do where it is missing.
pub(crate) const REMEDY: &str = "install QEMU: `apt install qemu-system-x86` (Debian, Ubuntu), \
     `dnf install qemu-system-x86` (Fedora), `apk add qemu-system-x86_64` (Alpine)";
/// The oldest version that has been run with this driver.
pub(crate) const OLDEST: Version = Version { major: 7, minor: 2 };

const DEADLINE: Duration = Duration::from_secs(10);

/// A QEMU version, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Reads `QEMU emulator version 7.2.22 (Debian …)`.
    fn parse(text: &str) -> Option<Self> {
        let number = text.split_once("version ")?.1;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

/// A QEMU that has been asked.
#[derive(Debug, Clone)]
pub(crate) struct Info {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    /// The version in full, such as `7.2.22 (Debian …)`.
    pub(crate) version_text: String,
    /// Whether it was built with `-sandbox`.
    pub(crate) sandbox: bool,
}

/// The QEMU to use; asked at the first need, and again as long as it does not answer.
#[derive(Debug)]
pub(crate) struct Program {
    configured: Option<PathBuf>,
    info: OnceCell<Info>,
    machine: OnceCell<String>,
}

impl Program {
    pub(crate) const fn new(configured: Option<PathBuf>) -> Self {
        Self { configured, info: OnceCell::const_new(), machine: OnceCell::const_new() }
    }

    /// What it is.
    ///
    /// # Errors
    /// When it is missing or does not tell its version.
    pub(crate) async fn info(&self) -> Result<Info, VmmError> {
        self.info.get_or_try_init(|| self.ask()).await.cloned()
    }

    /// The machine type that [`MACHINE`] stands for, with its version.
    ///
    /// # Errors
    /// QEMU is missing, or does not name it.
    pub(crate) async fn machine(&self) -> Result<String, VmmError> {
        let ask = async {
            let text = answer(&self.info().await?.path, &["-machine", "help"]).await?;
            alias(&text, MACHINE).map(str::to_owned).ok_or_else(|| VmmError::Control {
                command: "-machine help".to_owned(),
                answer: text.chars().take(400).collect(),
            })
        };
        self.machine.get_or_try_init(|| ask).await.cloned()
    }

    async fn ask(&self) -> Result<Info, VmmError> {
        let wanted = || self.configured.clone().unwrap_or_else(|| PROGRAM.into());
        let path = find_program(self.configured.as_deref(), PROGRAM)
            .ok_or_else(|| VmmError::ProgramMissing { program: wanted(), remedy: REMEDY })?;
        // `-version` ends QEMU where it stands on the command line, and an option that was not
        // built in fails before it.
        let sandboxed = answer(&path, &["-sandbox", "on", "-version"]).await;
        let sandbox = sandboxed.is_ok();
        let text = match sandboxed {
            Ok(text) => text,
            Err(_) => answer(&path, &["-version"]).await?,
        };
        let unreadable = || VmmError::Control {
            command: format!("{} -version", path.display()),
            answer: text.clone(),
        };
        let version = Version::parse(&text).ok_or_else(unreadable)?;
        let first = text.lines().next().unwrap_or_default();
        let version_text = first.split_once("version ").map_or(first, |it| it.1).to_owned();
        Ok(Info { path, version, version_text, sandbox })
    }
}

/// What it prints when it is run with these arguments.
async fn answer(path: &Path, args: &[&str]) -> Result<String, VmmError> {
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let not_ready =
        |_| VmmError::NotReady { program: path.to_owned(), waited: DEADLINE, log: Vec::new() };
    let output = timeout(DEADLINE, command.output()).await.map_err(not_ready)?;
    let output = output.map_err(|source| VmmError::Spawn { program: path.to_owned(), source })?;
    if !output.status.success() {
        let answer = String::from_utf8_lossy(&output.stderr).chars().take(400).collect();
        return Err(VmmError::Control { command: args.join(" "), answer });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a machine's name stands for, in QEMU's list of machines.
fn alias<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    Some(line.split_once("(alias of ")?.1.split_once(')')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stands_for_another_is_known_by_that_ones_name() {
        let list = "Supported machines are:\n\
                    pc                   Standard PC (i440FX, 1996) (alias of pc-i440fx-7.2)\n\
                    q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)\n\
                    pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)\n";
        assert_eq!(alias(list, "q35"), Some("pc-q35-7.2"));
        assert_eq!(alias(list, "pc-q35-7.2"), None);
    }

    #[test]
    fn a_version_is_read_from_what_qemu_prints() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(Version::parse(debian), Some(Version { major: 7, minor: 2 }));
        let release = "QEMU emulator version 10.0.0";
        assert!(Version::parse(release) > Some(OLDEST));
        assert_eq!(Version::parse("something else"), None);
    }
}
