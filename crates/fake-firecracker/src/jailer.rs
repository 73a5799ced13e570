//! What a driver sees of Firecracker's jailer: the directory it runs in, and its network namespace.
//!
//! It becomes the named Firecracker by exec, in the jail's root as its working directory and in the
//! given namespace. It confines nothing: the root directory, the user, the cgroups and the environment
//! stay the caller's, so that a fake with all its libraries can be what is jailed.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// The name under which the program is the jailer.
const NAME: &str = "jailer";

/// Whether this process was started as the jailer.
pub(crate) fn is_meant() -> bool {
    let name = env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name() == Some(OsStr::new(NAME))
}

/// Becomes Firecracker.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> Result<Infallible, String> {
    let Jail { id, exec_file, base, netns, rest } = parse(words)?;
    let program = exec_file.canonicalize().map_err(|e| format!("{}: {e}", exec_file.display()))?;
    let root = base.join(program.file_name().unwrap_or_default()).join(&id).join("root");
    fs::create_dir_all(&root)
        .and_then(|()| env::set_current_dir(&root))
        .map_err(|error| format!("{}: {error}", root.display()))?;
    if let Some(path) = netns {
        let enter = |netns: File| {
            let kind = Some(LinkNameSpaceType::Network);
            Ok(move_into_link_name_space(netns.as_fd(), kind)?)
        };
        let entered = File::open(&path).and_then(enter);
        entered.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let error = Command::new(&exec_file).arg("--id").arg(id).args(rest).exec();
    Err(format!("{}: {error}", exec_file.display()))
}

/// What the command line says, so far as anything is done about it.
#[derive(Debug, PartialEq, Eq)]
struct Jail {
    id: OsString,
    exec_file: PathBuf,
    base: PathBuf,
    netns: Option<PathBuf>,
    /// Firecracker's own arguments.
    rest: Vec<OsString>,
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Jail, String> {
    let (mut id, mut exec_file, mut base, mut netns) = (None, None, None, None);
    while let Some(word) = words.next().filter(|word| word != "--") {
        let value = words.next().ok_or_else(|| format!("{} has no value", word.display()))?;
        match word.to_str().unwrap_or_default() {
            "--id" => id = Some(value),
            "--exec-file" => exec_file = Some(value.into()),
            "--chroot-base-dir" => base = Some(value.into()),
            "--netns" => netns = Some(value.into()),
            "--uid" | "--gid" | "--cgroup-version" | "--parent-cgroup" | "--cgroup" => {}
            _ => return Err(format!("{} is no argument of the jailer", word.display())),
        }
    }
    let missing = |name: &str| format!("{name} is missing");
    Ok(Jail {
        id: id.ok_or_else(|| missing("--id"))?,
        exec_file: exec_file.ok_or_else(|| missing("--exec-file"))?,
        base: base.unwrap_or_else(|| "/srv/jailer".into()),
        netns,
        rest: words.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_dashes_is_firecrackers() {
        let line = "--id a --exec-file /fc --uid 1 --gid 1 --netns /n -- --enable-pci --id b";
        let jail = parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(jail.rest, ["--enable-pci", "--id", "b"]);
        assert_eq!((jail.id, jail.netns), ("a".into(), Some("/n".into())));
        assert!(parse(["--nonsense", "x"].map(OsString::from).into_iter()).is_err());
    }
}
