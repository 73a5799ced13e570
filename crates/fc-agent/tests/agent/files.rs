//! Files: what is written is read, what breaks off leaves nothing, who may not may not.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aetherium_agent_client::{AgentClient, AgentError, FileReader, RefusalKind};
use aetherium_agent_proto::files::{
    Attributes, ByteRange, FileKind, FileMode, Ownership, Placement, Reach, WriteOptions,
};
use bytes::Bytes;

use crate::harness::{Agent, PATIENCE, eventually, long_story, story};

/// An account that every system has.
const NOBODY: &str = "nobody";

pub(crate) async fn all(mut reader: FileReader) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(data) = reader.next().await.unwrap() {
        content.extend_from_slice(&data);
    }
    content
}

async fn put(client: &AgentClient, path: &Path, content: &[u8], options: WriteOptions) {
    let mut writer = client.files().write(path, options).await.unwrap();
    writer.write(Bytes::copy_from_slice(content)).await.unwrap();
    writer.commit().await.unwrap();
}

fn kind(error: &AgentError) -> RefusalKind {
    match error {
        AgentError::Refused { kind, .. } => *kind,
        other => panic!("{other:?}"),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn workdir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // Other users may pass through it.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Acting as another user needs a root to come from.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn what_is_written_is_read_whole_and_in_ranges() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let (client, path) = (agent.unix(), dir.path().join("new/dir/file"));
        let content: Vec<u8> = (0..400_000_u32).map(|it| it as u8).collect();
        let mode = Some(FileMode::new(0o640).unwrap());
        let options = WriteOptions { mode, make_parents: true, ..WriteOptions::default() };
        put(&client, &path, &content, options).await;
        assert_eq!(names(path.parent().unwrap()), ["file"]);
        let reader = client.files().read(&path, ByteRange::default()).await.unwrap();
        assert_eq!((reader.info().size, reader.info().mode.bits()), (400_000, 0o640));
        assert!(all(reader).await == content);
        let range = ByteRange { offset: 200_000, length: Some(5) };
        let reader = client.files().read(&path, range).await.unwrap();
        assert_eq!(all(reader).await, content[200_000..200_005]);
        let beyond = ByteRange { offset: 1 << 40, length: None };
        assert!(all(client.files().read(&path, beyond).await.unwrap()).await.is_empty());
    });
}

#[test]
fn bytes_written_at_an_offset_leave_the_others_alone() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let path = dir.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        let options = WriteOptions { placement: Placement::At(4), ..WriteOptions::default() };
        put(&agent.unix(), &path, b"xy", options).await;
        assert_eq!(std::fs::read(&path).unwrap(), b"0123xy6789");
    });
}

#[test]
fn a_replaced_file_keeps_its_mode_and_a_link_to_it_stays_a_link() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        put(&agent.unix(), &link, b"new", WriteOptions::default()).await;
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o751);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    });
}

#[test]
fn a_broken_upload_leaves_the_old_file_and_nothing_beside_it() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let path = dir.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let client = agent.unix();
        let mut writer = client.files().write(&path, WriteOptions::default()).await.unwrap();
        writer.write(Bytes::from(vec![7; 300_000])).await.unwrap();
        eventually(|| (names(dir.path()).len() == 2).then_some(())).await;
        drop(writer);
        eventually(|| (names(dir.path()) == ["file"]).then_some(())).await;
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    });
}

#[test]
fn a_connection_that_is_cut_leaves_nothing_half_written() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let path = dir.path().join("file");
        let client = agent.unix();
        let mut writer = client.files().write(&path, WriteOptions::default()).await.unwrap();
        writer.write(Bytes::from(vec![7; 300_000])).await.unwrap();
        eventually(|| (!names(dir.path()).is_empty()).then_some(())).await;
        client.close("the VM's owner went away");
        let error = writer.write(Bytes::from_static(b"more")).await.unwrap_err();
        assert_eq!(error.code(), "vm_ended");
        drop((client, writer));
        eventually(|| names(dir.path()).is_empty().then_some(())).await;
    });
}

#[test]
fn a_full_disk_is_told_as_such_and_nothing_half_written_stays() {
    let agent = Agent::start_as_machine();
    story(async {
        let client = agent.unix();
        let path = Path::new("/run/small/file");
        let mut writer = client.files().write(path, WriteOptions::default()).await.unwrap();
        let error = loop {
            if let Err(error) = writer.write(Bytes::from(vec![1; 256 * 1024])).await {
                break error;
            }
        };
        assert_eq!(kind(&error), RefusalKind::NoSpace, "{error}");
        assert!(error.to_string().contains("`/run/small/file`"), "{error}");
        let mut listing = client.files().list("/run/small", 1).await.unwrap();
        assert_eq!(listing.next().await.unwrap(), Some(vec![]));
        put(&client, path, b"small enough", WriteOptions::default()).await;
    });
}

#[test]
fn every_refusal_has_its_code_and_names_its_path() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let files = agent.unix().files();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        std::fs::create_dir_all(dir.path().join("full/sub")).unwrap();
        let (none, below) = (dir.path().join("none"), file.join("below"));
        let read = |path: PathBuf| {
            let files = files.clone();
            async move {
                let Err(error) = files.read(&path, ByteRange::default()).await else {
                    panic!("{path:?} was read")
                };
                let shown = path.display().to_string();
                assert!(error.to_string().contains(&shown), "{error}");
                kind(&error)
            }
        };
        assert_eq!(read(none).await, RefusalKind::NotFound);
        assert_eq!(read(below).await, RefusalKind::NotADirectory);
        assert_eq!(read(dir.path().to_owned()).await, RefusalKind::IsADirectory);
        assert_eq!(read(dir.path().join("loop")).await, RefusalKind::LinkLoop);
        assert_eq!(read("/dev/zero".into()).await, RefusalKind::NotAFile);
        assert_eq!(read("relative".into()).await, RefusalKind::InvalidRequest);
        assert_eq!(read(dir.path().join("x".repeat(300))).await, RefusalKind::NameTooLong);
        let removed = files.remove(dir.path().join("full"), Reach::Itself).await;
        assert_eq!(kind(&removed.unwrap_err()), RefusalKind::NotEmpty);
        let made = files.make_dir(&file, None).await;
        assert_eq!(kind(&made.unwrap_err()), RefusalKind::AlreadyExists);
        let stranger = files.as_user("no-such-user").stat(&file).await;
        assert_eq!(kind(&stranger.unwrap_err()), RefusalKind::UnknownUser);
    });
}

#[test]
fn names_are_made_moved_linked_and_removed() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let files = agent.unix().files();
        let at = |name: &str| dir.path().join(name);
        assert!(files.make_dir(at("a/b/c"), Some(FileMode::new(0o700).unwrap())).await.unwrap());
        assert!(!files.make_dir(at("a/b/c"), None).await.unwrap());
        std::fs::write(at("a/b/c/file"), "x").unwrap();
        files.rename(at("a/b"), at("z")).await.unwrap();
        files.symlink("z/c/file", at("link")).await.unwrap();
        let link = files.stat(at("link")).await.unwrap();
        assert_eq!((link.kind, link.link_target), (FileKind::Symlink, Some("z/c/file".into())));
        std::fs::create_dir(at("precious")).unwrap();
        std::fs::write(at("precious/file"), "x").unwrap();
        files.symlink(at("precious"), at("z/escape")).await.unwrap();
        files.remove(at("z"), Reach::Recursive).await.unwrap();
        assert_eq!(names(dir.path()), ["a", "link", "precious"]);
        assert_eq!(names(&at("precious")), ["file"]);
        let wish =
            Attributes { mode: Some(FileMode::new(0o600).unwrap()), ..Attributes::default() };
        let info = files.set_attributes(at("precious/file"), wish).await.unwrap();
        assert_eq!(info.mode.bits(), 0o600);
    });
}

#[test]
fn a_huge_directory_is_listed_in_batches_and_a_deep_one_to_the_depth_asked_for() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        for index in 0..3_000 {
            std::fs::write(dir.path().join(format!("file-{index}")), "").unwrap();
        }
        std::fs::create_dir_all(dir.path().join("one/two/three")).unwrap();
        let list = async |depth: u32| {
            let mut listing = agent.unix().files().list(dir.path(), depth).await.unwrap();
            let (mut found, mut batches) = (Vec::new(), 0);
            while let Some(batch) = listing.next().await.unwrap() {
                batches += 1;
                found.extend(batch.into_iter().map(|it| it.path));
            }
            (found, batches)
        };
        let (found, batches) = list(1).await;
        assert_eq!(found.len(), 3_001);
        assert!(batches > 10, "{batches} batches");
        let (found, _) = list(2).await;
        assert!(found.contains(&dir.path().join("one/two")));
        assert!(!found.contains(&dir.path().join("one/two/three")));
    });
}

#[test]
fn a_user_gets_its_own_rights_and_no_others() {
    if !is_root() {
        return;
    }
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let (secret, shared) = (dir.path().join("secret"), dir.path().join("shared"));
        std::fs::write(&secret, "for root").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
        let (client, nobody) = (agent.unix(), agent.unix().files().as_user(NOBODY));
        let Err(error) = nobody.read(&secret, ByteRange::default()).await else {
            panic!("nobody read root's file")
        };
        assert_eq!(kind(&error), RefusalKind::PermissionDenied);
        let denied = nobody.make_dir(dir.path().join("new"), None).await.unwrap_err();
        assert_eq!(kind(&denied), RefusalKind::PermissionDenied);
        // A root whose capabilities were kept could give the file away.
        let theft = Ownership { user: Some(NOBODY.into()), group: None };
        let wish = Attributes { ownership: theft, ..Attributes::default() };
        let denied = nobody.set_attributes(&secret, wish).await.unwrap_err();
        assert_eq!(kind(&denied), RefusalKind::PermissionDenied);
        let mut writer = nobody.write(shared.join("mine"), WriteOptions::default()).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        let mine = writer.commit().await.unwrap();
        assert_eq!(mine.user.as_deref(), Some(NOBODY));
        // The agent itself is still root.
        assert_eq!(client.files().stat(&secret).await.unwrap().uid, 0);
        put(&client, &secret, b"still", WriteOptions::default()).await;
    });
}

/// The agent must hold a few chunks of a file and no more, whatever its size.
#[test]
fn two_gibibytes_go_through_without_growing_memory() {
    const SIZE: u64 = 2 << 30;
    let (agent, dir) = (Agent::start(), workdir());
    long_story(PATIENCE * 9, async {
        let (client, sparse) = (agent.unix(), dir.path().join("sparse"));
        std::fs::File::create(&sparse).unwrap().set_len(SIZE).unwrap();
        let mut reader = client.files().read(&sparse, ByteRange::default()).await.unwrap();
        let mut read = 0;
        while let Some(data) = reader.next().await.unwrap() {
            read += data.len() as u64;
        }
        assert_eq!(read, SIZE);
        let peak = agent.peak_rss_kib();
        assert!(peak < 16 * 1024, "{peak} KiB");
    });
}

#[test]
fn a_reader_that_stalls_holds_a_bounded_part_and_slows_nobody() {
    let (agent, dir) = (Agent::start(), workdir());
    story(async {
        let (client, sparse) = (agent.unix(), dir.path().join("sparse"));
        std::fs::File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
        let mut stalled = client.files().read(&sparse, ByteRange::default()).await.unwrap();
        stalled.next().await.unwrap();
        let began = Instant::now();
        for _ in 0..100 {
            client.files().stat(&sparse).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(agent.peak_rss_kib() < 16 * 1024, "{} KiB", agent.peak_rss_kib());
    });
}
