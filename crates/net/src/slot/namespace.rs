//! Network namespaces: made, named by a file, entered by a thread, and forgotten.
//!
//! A namespace is entered by a thread, not by a process. Every function here that enters one must be
//! called on a thread of its own (see [`on_thread`]), never on one of the runtime's.

use super::NetError;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};
use tokio::sync::oneshot;

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace that is held open: it lives at least as long as this value.
#[derive(Debug, Clone)]
pub(super) struct Namespace(Arc<File>);

impl Namespace {
    /// The one that the calling thread is in.
    pub(super) fn current() -> Result<Self, NetError> {
        let file = File::open(OWN).map_err(NetError::io("open the namespace", OWN))?;
        Ok(Self(Arc::new(file)))
    }

    /// Moves the calling thread into it.
    pub(super) fn enter(&self) -> Result<(), NetError> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| NetError::io("enter the namespace", OWN)(error.into()))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a new namespace, names it by a file at `path`, and leaves the calling thread in it.
///
/// The file is mounted over with the namespace, as `ip netns add` does it: so the namespace lives
/// without a process, and `ip netns` shows it.
pub(super) fn create(path: &Path) -> Result<(), NetError> {
    let failed = |action| NetError::io(action, path);
    OpenOptions::new().write(true).create_new(true).open(path).map_err(failed("create"))?;
    // SAFETY: only the network namespace of this thread changes; nothing that Rust relies on, such
    // as file descriptors or memory, is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|error| failed("make a network namespace for")(error.into()))?;
    mount_bind(OWN, path).map_err(|error| failed("mount a namespace on")(error.into()))
}

/// Forgets the namespace that `path` names. It ends with the last process in it. One that is not
/// there, or was never mounted, is no error.
pub(super) fn remove(path: &Path) -> Result<(), NetError> {
    let failed = |action| NetError::io(action, path);
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(failed("unmount")(error.into())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(error)),
        _ => Ok(()),
    }
}

/// Makes the directory in which namespaces have their names, as `ip netns` wants it: a mount of its
/// own that is shared, so that whoever has another view of the file system sees a namespace come and,
/// above all, go.
pub(super) fn prepare_dir(dir: &Path) -> Result<(), NetError> {
    let failed = |action| NetError::io(action, dir);
    fs::create_dir_all(dir).map_err(failed("create"))?;
    let share = || mount_change(dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount(dir, dir, c"none", MountFlags::BIND | MountFlags::REC, None)
                .and_then(|()| share())
                .map_err(|error| failed("mount and share")(error.into()))
        }
        Err(error) => Err(failed("share")(error.into())),
    }
}

/// Does `work` on a thread of its own and waits for its outcome.
///
/// The work is never abandoned half done: if nobody waits for the outcome any more, what it made is
/// given to `unwanted`.
pub(super) async fn on_thread<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
    unwanted: impl FnOnce(T) + Send + 'static,
) -> Result<T, NetError> {
    let (sender, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name("aetherium-net".to_owned())
        .spawn(move || {
            if let Err(Ok(made)) = sender.send(work()) {
                unwanted(made);
            }
        })
        .map_err(NetError::io("start a thread to work in", OWN))?;
    outcome.await.unwrap_or(Err(NetError::ThreadLost { action }))
}
