//! Watching a directory.

use std::path::Path;

use aetherium_agent_client::{AgentError, RefusalKind, Watch};
use aetherium_agent_proto::files::{Changed, FileEvent, Reach};

use crate::harness::{Agent, PATIENCE, long_story, story};

async fn until(watch: &mut Watch, wanted: &FileEvent) {
    loop {
        let event = watch.next().await.unwrap().expect("the watch ended");
        if event == *wanted {
            return;
        }
    }
}

fn at(path: &Path, is_dir: bool) -> Changed {
    Changed { path: path.to_owned(), is_dir }
}

#[test]
fn changes_are_told_below_new_directories_too() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let mut watch = agent.unix().files().watch(dir.path(), Reach::Recursive).await.unwrap();
        let (sub, file) = (dir.path().join("sub/deeper"), dir.path().join("sub/deeper/file"));
        std::fs::create_dir_all(&sub).unwrap();
        std::fs::write(&file, "x").unwrap();
        until(&mut watch, &FileEvent::Created(at(&sub, true))).await;
        until(&mut watch, &FileEvent::Created(at(&file, false))).await;
        std::fs::write(&file, "changed").unwrap();
        until(&mut watch, &FileEvent::Modified(at(&file, false))).await;
        std::fs::remove_file(&file).unwrap();
        until(&mut watch, &FileEvent::Removed(at(&file, false))).await;
    });
}

#[test]
fn a_rename_is_one_event_and_the_watch_goes_on_under_the_new_name() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::create_dir(&old).unwrap();
        let mut watch = agent.unix().files().watch(dir.path(), Reach::Recursive).await.unwrap();
        std::fs::rename(&old, &new).unwrap();
        until(&mut watch, &FileEvent::Renamed { from: old, to: at(&new, true) }).await;
        std::fs::write(new.join("file"), "x").unwrap();
        until(&mut watch, &FileEvent::Created(at(&new.join("file"), false))).await;
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::rename(&new, elsewhere.path().join("gone")).unwrap();
        until(&mut watch, &FileEvent::Removed(at(&new, true))).await;
    });
}

#[test]
fn a_watch_of_a_directory_alone_says_nothing_of_what_is_deeper() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let mut watch = agent.unix().files().watch(dir.path(), Reach::Itself).await.unwrap();
        std::fs::write(dir.path().join("sub/deep"), "x").unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let first = watch.next().await.unwrap();
        assert_eq!(first, Some(FileEvent::Created(at(&dir.path().join("file"), false))));
    });
}

#[test]
fn lost_events_are_told_when_the_watcher_does_not_keep_up() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    long_story(PATIENCE * 6, async {
        let mut watch = agent.unix().files().watch(dir.path(), Reach::Itself).await.unwrap();
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        // Two events each: more than the kernel queues and the connection's window holds together.
        for index in 0..limit * 3 / 2 {
            let path = dir.path().join(format!("{}-{index}", "x".repeat(100)));
            std::fs::write(&path, "").unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        until(&mut watch, &FileEvent::Lost).await;
    });
}

#[test]
fn the_end_of_the_directory_ends_the_watch_and_a_missing_one_cannot_be_watched() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let files = agent.unix().files();
        let mut watch = files.watch(&top, Reach::Recursive).await.unwrap();
        std::fs::remove_dir(&top).unwrap();
        until(&mut watch, &FileEvent::Removed(at(&top, true))).await;
        assert_eq!(watch.next().await.unwrap(), None);
        match files.watch(&top, Reach::Recursive).await {
            Err(AgentError::Refused { kind: RefusalKind::NotFound, .. }) => {}
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("a missing directory is watched"),
        }
    });
}
