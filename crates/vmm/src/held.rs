//! One process of ours, held by a pidfd: it can be waited for, killed and reaped, and what is done
//! to it can never hit another process that got its number.

use crate::{ProcessRef, Role, VmmExit, procfs};
use aetherium_model::VmId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::OnceCell,
};

/// The variable that marks each process of a VM, with the VM's id.
pub(crate) const MARK_VM: &str = "AETHERIUM_VM";
/// The variable that says which run directory a marked process belongs to.
pub(crate) const MARK_RUN_DIR: &str = "AETHERIUM_RUN_DIR";
/// The variable that says what a marked process does.
pub(crate) const MARK_ROLE: &str = "AETHERIUM_ROLE";

/// How often an empty environment is looked at, and how long apart: an exec takes microseconds, on
/// an overloaded host milliseconds.
const EMPTY_LOOKS: u32 = 20;
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// A process, held.
#[derive(Debug)]
pub(crate) struct Held {
    who: ProcessRef,
    pidfd: AsyncFd<OwnedFd>,
    ended: OnceCell<VmmExit>,
    /// Its launch is under way: should it be given up, the process must not live on.
    fresh: bool,
}

impl Held {
    /// Holds a child that has not been reaped, so that its number is still its own. It is killed on
    /// drop until it is [`Held::kept`].
    pub(crate) fn child(role: Role, pid: u32) -> io::Result<Self> {
        let pidfd = open(pid)?;
        let stat = procfs::stat(pid)?.ok_or(Errno::SRCH)?;
        Self::new(ProcessRef { role, pid, start_ticks: stat.start_ticks }, pidfd, true)
    }

    /// Its launch is complete: it outlives this value, and this process.
    pub(crate) fn kept(mut self) -> Self {
        self.fresh = false;
        self
    }

    /// Holds the very process that `who` names, if it still runs and is `vm_id`'s: it carries the
    /// VM's mark or, where the VM has a jail, is confined to the jail's root.
    ///
    /// The pidfd is opened first and the number looked at afterwards: had the number passed to
    /// another process in between, its start time would differ.
    pub(crate) async fn find(
        who: ProcessRef,
        vm_id: VmId,
        jail_root: Option<&Path>,
    ) -> io::Result<Option<Self>> {
        let pidfd = match open(who.pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(stat) = procfs::stat(who.pid)? else { return Ok(None) };
        if stat.start_ticks != who.start_ticks || !stat.is_alive() {
            return Ok(None);
        }
        // Start times count from the host's boot, so after another boot they may meet by chance.
        let is_ours = match jail_root {
            Some(root) => procfs::has_root(who.pid, root),
            None => procfs::variable(&environ(who.pid).await, MARK_VM)
                .is_some_and(|mark| mark == vm_id.to_string()),
        };
        if is_ours { Self::new(who, pidfd, false).map(Some) } else { Ok(None) }
    }

    fn new(who: ProcessRef, pidfd: OwnedFd, fresh: bool) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and the `AsyncFd`
        // that owns it deregisters first.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { who, pidfd, ended: OnceCell::new(), fresh })
    }

    pub(crate) const fn who(&self) -> ProcessRef {
        self.who
    }

    /// Whether its end has been seen. Until then its number is its own: it is not reaped.
    pub(crate) fn has_been_seen_ended(&self) -> bool {
        self.ended.initialized()
    }

    /// Resolves when it has ended, having reaped it if it is a child. Any number of callers.
    pub(crate) async fn ended(&self) -> VmmExit {
        let end = async {
            // An error here means that the runtime is shutting down: nothing resolves any more.
            match self.pidfd.readable().await {
                Ok(_guard) => self.reap(),
                Err(_) => std::future::pending().await,
            }
        };
        *self.ended.get_or_init(|| end).await
    }

    /// Kills it; one that has ended is left alone.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The status of an ended process; it goes to the parent alone.
    fn reap(&self) -> VmmExit {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => VmmExit::Code(code),
                (None, Some(signal)) => VmmExit::Signal(signal),
                (None, None) => VmmExit::Unknown,
            },
            Ok(None) | Err(_) => VmmExit::Unknown,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.ended.initialized() {
            return;
        }
        if self.fresh {
            if let Err(error) = self.kill() {
                tracing::error!(pid = self.who.pid, %error, "a process of a failed launch lives on");
            }
            // A killed process ends within milliseconds, unless its storage hangs. Drop cannot wait
            // asynchronously, and a zombie would stay for as long as this process runs.
            let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)], Some(&patience));
        }
        self.reap();
    }
}

/// The environment of a process. For a moment during an exec the kernel shows none, so an empty one
/// is looked at again before it is believed.
async fn environ(pid: u32) -> Vec<u8> {
    for _ in 0..EMPTY_LOOKS {
        let environ = procfs::environ(pid);
        if !environ.is_empty() {
            return environ;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Vec::new()
}

fn open(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// Kills the process that `who` names, if it is still that one.
pub(crate) fn kill_exactly(pid: u32, start_ticks: u64) -> io::Result<()> {
    let pidfd = match open(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if procfs::stat(pid)?.is_none_or(|now| now.start_ticks != start_ticks) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reaps the process that `who` names, if it is still that one, has ended, and is a child of this
/// process that nobody holds any more; it would stay as a zombie for as long as this process runs.
pub(crate) fn reap_exactly(who: ProcessRef) {
    let Ok(pidfd) = open(who.pid) else { return };
    if let Ok(Some(now)) = procfs::stat(who.pid)
        && now.start_ticks == who.start_ticks
        && !now.is_alive()
    {
        // It is another's child where this fails, and another's to reap.
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    /// A child with a VM's mark, as another part of this process might have started it.
    fn marked(vm_id: VmId) -> (Child, ProcessRef) {
        let child =
            Command::new("sleep").arg("600").env(MARK_VM, vm_id.to_string()).spawn().unwrap();
        let stat = procfs::stat(child.id()).unwrap().unwrap();
        let who = ProcessRef { role: Role::Vmm, pid: child.id(), start_ticks: stat.start_ticks };
        (child, who)
    }

    #[tokio::test]
    async fn a_process_is_found_only_by_number_start_time_and_mark_together() {
        let vm_id = VmId::new();
        let (mut child, who) = marked(vm_id);
        let started_before = ProcessRef { start_ticks: who.start_ticks - 1, ..who };
        assert!(Held::find(started_before, vm_id, None).await.unwrap().is_none());
        assert!(Held::find(who, VmId::new(), None).await.unwrap().is_none());

        let held = Held::find(who, vm_id, None).await.unwrap().expect("all three are right");
        held.kill().unwrap();
        assert_eq!(held.ended().await, VmmExit::Signal(9));
        assert!(Held::find(who, vm_id, None).await.unwrap().is_none());
        // It was reaped by its holder, so that nothing is left to wait for.
        assert!(child.wait().is_err());
    }

    #[tokio::test]
    async fn a_recycled_number_is_not_killed() {
        let (mut child, who) = marked(VmId::new());
        kill_exactly(who.pid, who.start_ticks - 1).unwrap();
        // A KILL that was sent after all would be what ends it.
        let pid = Pid::from_raw(who.pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(15));

        let (mut child, who) = marked(VmId::new());
        kill_exactly(who.pid, who.start_ticks).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn a_process_dropped_before_it_is_kept_ends_and_one_dropped_after_lives() {
        let (_unwaited, who) = marked(VmId::new());
        drop(Held::child(Role::Vmm, who.pid).unwrap());
        assert_eq!(procfs::stat(who.pid).unwrap(), None, "neither running nor a zombie");

        let (mut child, who) = marked(VmId::new());
        drop(Held::child(Role::Vmm, who.pid).unwrap().kept());
        assert!(procfs::stat(who.pid).unwrap().unwrap().is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
