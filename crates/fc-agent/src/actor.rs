//! Blocking work, on a thread of its own, with the rights of the user it is done for.
//!
//! Linux gives each thread its own credentials. So a thread is made for one piece of work, takes the
//! user's groups and the user's ids as its *effective* ones, and ends with the work: nothing is ever
//! taken back, and no other work can inherit the wrong rights. With an effective id other than
//! root's the kernel takes every capability from the thread. The real and the saved id stay the agent's, or the
//! user could send signals to the thread, and a signal meant to kill a thread kills its program.
//!
//! Owns the bound on such threads. Must never run work of two users on one thread.

use std::io;
use std::path::Path;

use aetherium_agent_proto::{Refusal, RefusalKind};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::exec::{Accounts, User};
use crate::refuse::OrRefuse as _;

/// The most pieces of work at once.
const MAX_WORK: usize = 128;

static PLACES: Semaphore = Semaphore::const_new(MAX_WORK);

/// Who does a piece of work.
#[derive(Clone)]
pub(crate) struct Actor {
    /// `None` is the agent itself.
    user: Option<User>,
}

impl Actor {
    /// The user of that name or number; the agent itself if none is named.
    pub(crate) fn find(name: Option<&str>) -> Result<Self, Refusal> {
        let Some(name) = name else { return Ok(Self { user: None }) };
        let user = Accounts::read(Path::new("/etc")).find(name).ok_or_else(|| unknown(name))?;
        let is_agent = user.uid == rustix::process::geteuid().as_raw();
        Ok(Self { user: (!is_agent).then_some(user) })
    }

    /// Does the work and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, result) = oneshot::channel();
        self.start(move |rights| {
            // A caller that has left wants no result.
            let _ = sender.send(rights.and_then(|()| work()));
        })?;
        result.await.unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Other, "the work broke off")))
    }

    /// Does work that gives its result in parts, as the reader takes them. A refusal is the last.
    pub(crate) fn stream<T: Send + 'static>(
        &self,
        queue: usize,
        work: impl FnOnce(&Parts<T>) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<mpsc::Receiver<Result<T, Refusal>>, Refusal> {
        let (sender, parts) = mpsc::channel(queue);
        self.start(move |rights| {
            let parts = Parts { sender };
            if let Err(refusal) = rights.and_then(|()| work(&parts)) {
                let _ = parts.sender.blocking_send(Err(refusal));
            }
        })?;
        Ok(parts)
    }

    /// Starts a thread that takes the user's rights, or learns why it cannot, and works.
    fn start(
        &self,
        work: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) -> Result<(), Refusal> {
        let place = PLACES.try_acquire().map_err(|_| {
            let detail = format!("{MAX_WORK} file operations run already; wait for some to end");
            Refusal::new(RefusalKind::ResourceLimit, detail)
        })?;
        let user = self.user.clone();
        let thread = std::thread::Builder::new().name("actor".to_owned()).spawn(move || {
            let _place = place;
            work(user.map_or(Ok(()), |user| take_rights(&user)));
        });
        thread.map(drop).or_refuse("the guest has no thread left for a file operation")
    }
}

/// Where work that streams puts its parts.
pub(crate) struct Parts<T> {
    sender: mpsc::Sender<Result<T, Refusal>>,
}

impl<T> Parts<T> {
    /// Gives a part; waits while the reader is slow.
    ///
    /// # Errors
    /// When the reader has left, which ends the work.
    pub(crate) fn give(&self, part: T) -> Result<(), Refusal> {
        self.sender
            .blocking_send(Ok(part))
            .map_err(|_| Refusal::new(RefusalKind::Incomplete, "the reader has left"))
    }
}

pub(crate) fn unknown(user: &str) -> Refusal {
    let detail = format!(
        "user `{user}` does not exist in the guest; add it to /etc/passwd or give a number"
    );
    Refusal::new(RefusalKind::UnknownUser, detail)
}

/// Takes a user's groups and ids, for this thread alone.
fn take_rights(user: &User) -> Result<(), Refusal> {
    /// "Leave this one as it is."
    const KEEP: libc::c_long = -1;
    let call = |number, arguments: [libc::c_long; 3]| {
        let [first, second, third] = arguments;
        // The raw calls change the calling thread; the C library's change every thread.
        // SAFETY: the numbers are plain; the list of `setgroups` outlives the call.
        match unsafe { libc::syscall(number, first, second, third) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let groups = [user.groups.len() as libc::c_long, user.groups.as_ptr() as libc::c_long, 0];
    let taken = call(libc::SYS_setgroups, groups)
        .and_then(|()| call(libc::SYS_setresgid, [KEEP, user.gid.into(), KEEP]))
        .and_then(|()| call(libc::SYS_setresuid, [KEEP, user.uid.into(), KEEP]));
    taken.or_refuse(format_args!("the agent may not act as user `{}`", user.name))
}
