//! From inotify's events to what a watcher is told. Pure: events in, events and wishes out.
//!
//! Owns the map from watch numbers to directories. The two halves of a rename come one after the
//! other, or not at all when the other end lies outside; the first half waits for its mate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use aetherium_agent_proto::files::{Changed, FileEvent, Reach};
use rustix::fs::inotify::ReadFlags;

/// An event as the kernel gives it.
#[derive(Debug, Clone)]
pub(super) struct RawEvent {
    pub(super) watch: i32,
    pub(super) flags: ReadFlags,
    pub(super) cookie: u32,
    pub(super) name: Option<PathBuf>,
}

/// What an event leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Tell(FileEvent),
    /// A directory has come into sight; watch it, and tell of what is in it.
    Follow(PathBuf),
    /// A directory has left it.
    Forget(i32),
    /// The watched directory itself is gone.
    End,
}

/// The directories that are watched.
pub(super) struct Tree {
    reach: Reach,
    top: PathBuf,
    dirs: HashMap<i32, PathBuf>,
    moving: Option<(u32, Changed)>,
}

impl Tree {
    pub(super) fn new(top: PathBuf, reach: Reach) -> Self {
        Self { reach, top, dirs: HashMap::new(), moving: None }
    }

    /// A directory is watched under this number.
    pub(super) fn insert(&mut self, watch: i32, dir: PathBuf) {
        self.dirs.insert(watch, dir);
    }

    pub(super) fn len(&self) -> usize {
        self.dirs.len()
    }

    /// Whether the first half of a rename waits for the second.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// Takes one event.
    pub(super) fn take(&mut self, event: RawEvent) -> Vec<Step> {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            let mut steps = self.give_up_move();
            steps.push(Step::Tell(FileEvent::Lost));
            return steps;
        }
        if event.flags.contains(ReadFlags::IGNORED) {
            return self.ignored(event.watch);
        }
        let Some(dir) = self.dirs.get(&event.watch) else { return Vec::new() };
        let is_top = *dir == self.top;
        let Some(name) = event.name else {
            // About a watched directory itself. All but the top are told by the one above them.
            let gone = event.flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF);
            return if is_top && gone { self.end() } else { Vec::new() };
        };
        let changed =
            Changed { path: dir.join(name), is_dir: event.flags.contains(ReadFlags::ISDIR) };
        self.change(event.flags, event.cookie, changed)
    }

    fn change(&mut self, flags: ReadFlags, cookie: u32, changed: Changed) -> Vec<Step> {
        if flags.contains(ReadFlags::MOVED_TO)
            && let Some((_, from)) = self.moving.take_if(|(waiting, _)| *waiting == cookie)
        {
            self.rename(&from.path, &changed.path);
            return vec![Step::Tell(FileEvent::Renamed { from: from.path, to: changed })];
        }
        let mut steps = self.give_up_move();
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.moving = Some((cookie, changed));
        } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            let follow = changed.is_dir && self.reach == Reach::Recursive;
            let dir = follow.then(|| changed.path.clone());
            steps.push(Step::Tell(FileEvent::Created(changed)));
            steps.extend(dir.map(Step::Follow));
        } else if flags.contains(ReadFlags::DELETE) {
            steps.push(Step::Tell(FileEvent::Removed(changed)));
        } else if flags.contains(ReadFlags::MODIFY) {
            steps.push(Step::Tell(FileEvent::Modified(changed)));
        } else if flags.contains(ReadFlags::ATTRIB) {
            steps.push(Step::Tell(FileEvent::Attributes(changed)));
        }
        steps
    }

    /// The mate of a waiting half does not come: its file has left.
    pub(super) fn give_up_move(&mut self) -> Vec<Step> {
        let Some((_, from)) = self.moving.take() else { return Vec::new() };
        let left = |dir: &Path| dir.starts_with(&from.path);
        let mut steps: Vec<Step> = if from.is_dir {
            self.dirs.iter().filter(|(_, dir)| left(dir)).map(|(it, _)| Step::Forget(*it)).collect()
        } else {
            Vec::new()
        };
        self.dirs.retain(|_, dir| !left(dir));
        steps.push(Step::Tell(FileEvent::Removed(from)));
        steps
    }

    fn ignored(&mut self, watch: i32) -> Vec<Step> {
        match self.dirs.remove(&watch) {
            Some(dir) if dir == self.top => self.end(),
            _ => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<Step> {
        let mut steps = self.give_up_move();
        let top = Changed { path: self.top.clone(), is_dir: true };
        steps.extend([Step::Tell(FileEvent::Removed(top)), Step::End]);
        steps
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        for dir in self.dirs.values_mut() {
            if let Ok(rest) = dir.strip_prefix(from) {
                // Joining nothing would add a slash.
                *dir = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new("/w".into(), Reach::Recursive);
        tree.insert(1, "/w".into());
        tree.insert(2, "/w/a".into());
        tree.insert(3, "/w/a/b".into());
        tree
    }

    fn raw(watch: i32, flags: ReadFlags, cookie: u32, name: &str) -> RawEvent {
        let name = (!name.is_empty()).then(|| name.into());
        RawEvent { watch, flags, cookie, name }
    }

    fn file(path: &str) -> Changed {
        Changed { path: path.into(), is_dir: false }
    }

    fn dir(path: &str) -> Changed {
        Changed { path: path.into(), is_dir: true }
    }

    #[test]
    fn a_new_directory_is_told_and_followed() {
        let steps = tree().take(raw(2, ReadFlags::CREATE | ReadFlags::ISDIR, 0, "new"));
        let told = Step::Tell(FileEvent::Created(dir("/w/a/new")));
        assert_eq!(steps, [told, Step::Follow("/w/a/new".into())]);
    }

    #[test]
    fn the_two_halves_of_a_rename_are_one_event_and_what_is_below_keeps_being_known() {
        let mut tree = tree();
        assert!(tree.take(raw(1, ReadFlags::MOVED_FROM | ReadFlags::ISDIR, 7, "a")).is_empty());
        let steps = tree.take(raw(1, ReadFlags::MOVED_TO | ReadFlags::ISDIR, 7, "z"));
        let renamed = FileEvent::Renamed { from: "/w/a".into(), to: dir("/w/z") };
        assert_eq!(steps, [Step::Tell(renamed)]);
        let steps = tree.take(raw(3, ReadFlags::MODIFY, 0, "f"));
        assert_eq!(steps, [Step::Tell(FileEvent::Modified(file("/w/z/b/f")))]);
    }

    #[test]
    fn half_a_rename_is_a_removal_and_what_was_below_is_forgotten() {
        let mut tree = tree();
        tree.take(raw(1, ReadFlags::MOVED_FROM | ReadFlags::ISDIR, 7, "a"));
        let mut steps = tree.take(raw(1, ReadFlags::CREATE, 0, "x"));
        assert_eq!(steps.pop(), Some(Step::Tell(FileEvent::Created(file("/w/x")))));
        assert_eq!(steps.pop(), Some(Step::Tell(FileEvent::Removed(dir("/w/a")))));
        assert!(steps.contains(&Step::Forget(2)) && steps.contains(&Step::Forget(3)));
        assert_eq!(tree.len(), 1);
    }

    #[test]
    fn an_overflow_is_told_and_the_end_of_the_top_ends_the_watch() {
        let lost = tree().take(raw(-1, ReadFlags::QUEUE_OVERFLOW, 0, ""));
        assert_eq!(lost, [Step::Tell(FileEvent::Lost)]);
        let ended = tree().take(raw(1, ReadFlags::DELETE_SELF, 0, ""));
        assert_eq!(ended, [Step::Tell(FileEvent::Removed(dir("/w"))), Step::End]);
        assert!(tree().take(raw(2, ReadFlags::DELETE_SELF, 0, "")).is_empty());
    }
}
