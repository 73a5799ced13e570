//! Watching a directory: inotify, one watch for each directory.
//!
//! Owns one inotify instance per watcher. Reads only as fast as the watcher does: what does not fit
//! into the kernel's queue meanwhile is told as lost, and nothing here grows.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::files::{Changed, FileEvent, Reach};
use aetherium_agent_proto::{Refusal, RefusalKind};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::QUEUE;
use super::watch_tree::{RawEvent, Step, Tree};
use crate::actor::Actor;
use crate::refuse::{OrRefuse as _, kind_of};

/// The most directories of one watch.
const MAX_DIRS: usize = 16_384;
/// How long the first half of a rename waits for the second, which the kernel queues right behind.
const MATE_TIME: Duration = Duration::from_millis(50);
/// What is read from the kernel at once, in bytes.
const BUFFER: usize = 16 * 1024;

const FLAGS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// A watch that has begun.
pub(super) struct Watch {
    actor: Actor,
    kernel: AsyncFd<Arc<OwnedFd>>,
    tree: Tree,
}

/// What was found in a directory when its watch began.
#[derive(Default)]
struct Found {
    watches: Vec<(i32, PathBuf)>,
    entries: Vec<Changed>,
}

impl Watch {
    /// Begins to watch. What happens from here on is told.
    pub(super) async fn begin(actor: Actor, top: PathBuf, reach: Reach) -> Result<Self, Refusal> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let kernel = inotify::init(flags).or_refuse("the guest has no watch left; end some")?;
        let kernel = Arc::new(kernel);
        let mut tree = Tree::new(top.clone(), reach);
        let watched = kernel.clone();
        let found = actor.run(move || follow(&watched, top, reach, 0)).await?;
        found.watches.into_iter().for_each(|(watch, dir)| tree.insert(watch, dir));
        // SAFETY: an Arc of an OwnedFd names the same open descriptor all its life.
        let kernel =
            unsafe { AsyncFd::register(kernel) }.or_refuse("the watch cannot be waited for")?;
        Ok(Self { actor, kernel, tree })
    }

    /// Tells what happens until the reader leaves or the directory is gone.
    pub(super) fn tell(self) -> mpsc::Receiver<Result<FileEvent, Refusal>> {
        let (sender, events) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            tokio::select! {
                outcome = self.follow(&sender) => {
                    if let Err(refusal) = outcome {
                        let _ = sender.send(Err(refusal)).await;
                    }
                }
                () = sender.closed() => {}
            }
        });
        events
    }

    async fn follow(
        mut self,
        sender: &mpsc::Sender<Result<FileEvent, Refusal>>,
    ) -> Result<(), Refusal> {
        loop {
            for step in self.next_steps().await? {
                match step {
                    Step::Tell(event) => {
                        // A reader that has left ends the watch from outside.
                        let _ = sender.send(Ok(event)).await;
                    }
                    Step::Follow(dir) => {
                        for entry in self.follow_new(dir).await? {
                            let _ = sender.send(Ok(FileEvent::Created(entry))).await;
                        }
                    }
                    Step::Forget(watch) => {
                        // A directory that is gone has lost its watch already.
                        let _ = inotify::remove_watch(self.kernel.get_ref(), watch);
                    }
                    Step::End => return Ok(()),
                }
            }
        }
    }

    /// Waits for events, or for the time a rename's second half may take.
    async fn next_steps(&mut self) -> Result<Vec<Step>, Refusal> {
        let ready = self.kernel.readable();
        let mut ready = if self.tree.is_moving() {
            match tokio::time::timeout(MATE_TIME, ready).await {
                Ok(ready) => ready,
                Err(_) => return Ok(self.tree.give_up_move()),
            }
        } else {
            ready.await
        }
        .or_refuse("the watch cannot be waited for")?;
        match ready.try_io(|kernel| read_events(kernel.get_ref())) {
            Ok(events) => {
                let events = events.or_refuse("the watch cannot be read")?;
                Ok(events.into_iter().flat_map(|event| self.tree.take(event)).collect())
            }
            Err(_would_block) => Ok(Vec::new()),
        }
    }

    /// Watches a directory that came into sight. What was made in it before its watch began is found
    /// by looking, so that nothing is missed; it may be told twice.
    async fn follow_new(&mut self, dir: PathBuf) -> Result<Vec<Changed>, Refusal> {
        let (kernel, known) = (self.kernel.get_ref().clone(), self.tree.len());
        let followed = self.actor.run(move || follow(&kernel, dir, Reach::Recursive, known)).await;
        match followed {
            Ok(found) => {
                found.watches.into_iter().for_each(|(watch, dir)| self.tree.insert(watch, dir));
                Ok(found.entries)
            }
            // It is gone again, or closed to the user; its end is told by the one above it.
            Err(refusal)
                if matches!(
                    refusal.kind,
                    RefusalKind::NotFound
                        | RefusalKind::PermissionDenied
                        | RefusalKind::NotADirectory
                ) =>
            {
                Ok(Vec::new())
            }
            Err(refusal) => Err(refusal),
        }
    }
}

/// Watches a directory and, if asked, all below it. Links are not followed, but for the first.
fn follow(kernel: &OwnedFd, top: PathBuf, reach: Reach, known: usize) -> Result<Found, Refusal> {
    let mut found = Found::default();
    add(kernel, top, FLAGS, known, &mut found)?;
    let mut looked_at = 0;
    while reach == Reach::Recursive && looked_at < found.watches.len() {
        let dir = found.watches[looked_at].1.clone();
        looked_at += 1;
        // What is gone, or closed to the user, has nothing to tell.
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            if known > 0 {
                found.entries.push(Changed { path: path.clone(), is_dir });
            }
            if is_dir {
                match add(kernel, path, FLAGS.union(WatchFlags::DONT_FOLLOW), known, &mut found) {
                    Err(refusal) if refusal.kind == RefusalKind::ResourceLimit => {
                        return Err(refusal);
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(found)
}

fn add(
    kernel: &OwnedFd,
    dir: PathBuf,
    flags: WatchFlags,
    known: usize,
    found: &mut Found,
) -> Result<(), Refusal> {
    if known + found.watches.len() >= MAX_DIRS {
        let detail = format!("more than {MAX_DIRS} directories are too many for one watch");
        return Err(Refusal::new(RefusalKind::ResourceLimit, detail));
    }
    match inotify::add_watch(kernel, &dir, flags) {
        Ok(watch) => {
            found.watches.push((watch, dir));
            Ok(())
        }
        Err(rustix::io::Errno::NOSPC) => {
            let detail = "the guest's user has no watch left; raise fs.inotify.max_user_watches";
            Err(Refusal::new(RefusalKind::ResourceLimit, detail))
        }
        Err(error) => Err(refused(&dir, error.into())),
    }
}

fn refused(dir: &Path, error: io::Error) -> Refusal {
    Refusal::new(kind_of(&error), format!("`{}` cannot be watched: {error}", dir.display()))
}

/// Reads what is there; never waits.
fn read_events(kernel: &OwnedFd) -> io::Result<Vec<RawEvent>> {
    let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
    let mut reader = inotify::Reader::new(kernel, &mut buffer);
    let mut events = Vec::new();
    // One buffer at a time: what is behind it stays in the kernel until this is told.
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(error) if events.is_empty() => return Err(error.into()),
            Err(_) => return Ok(events),
        };
        let name = event.file_name().map(|it| PathBuf::from(OsStr::from_bytes(it.to_bytes())));
        events.push(RawEvent {
            watch: event.wd(),
            flags: event.events(),
            cookie: event.cookie(),
            name,
        });
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}
