//! Directories as archives: what goes out comes back, and nothing gets out of its directory.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use aetherium_agent_client::{AgentClient, AgentError, RefusalKind};
use aetherium_agent_proto::files::{LinkPolicy, Unpacked};
use bytes::Bytes;
use tar::{Builder, EntryType, Header};

use crate::harness::{Agent, story};

async fn pack(client: &AgentClient, dir: &Path) -> Vec<u8> {
    let mut reader = client.files().read_tar(dir).await.unwrap();
    let mut archive = Vec::new();
    while let Some(data) = reader.next().await.unwrap() {
        archive.extend_from_slice(&data);
    }
    archive
}

async fn unpack(
    client: &AgentClient,
    dir: &Path,
    archive: Vec<u8>,
    links: LinkPolicy,
) -> Result<Unpacked, AgentError> {
    let mut writer = client.files().write_tar(dir, links).await?;
    writer.write(Bytes::from(archive)).await?;
    writer.commit().await
}

/// An archive of one entry, named as no well-meaning program would name it.
fn rogue(kind: EntryType, name: &str, target: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(if kind == EntryType::Regular { 5 } else { 0 });
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    let mut archive = Builder::new(Vec::new());
    let content: &[u8] = if kind == EntryType::Regular { b"rogue" } else { b"" };
    archive.append(&header, content).unwrap();
    archive.into_inner().unwrap()
}

fn kind(outcome: Result<Unpacked, AgentError>) -> RefusalKind {
    match outcome {
        Err(AgentError::Refused { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_goes_out_and_comes_back_as_it_was() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let deep = "long-directory-name/".repeat(12);
        std::fs::create_dir_all(from.join(&deep)).unwrap();
        std::fs::write(from.join(&deep).join("deep"), "far down").unwrap();
        std::fs::write(from.join("program"), vec![7; 300_000]).unwrap();
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(from.join("program"), mode(0o751)).unwrap();
        std::fs::hard_link(from.join("program"), from.join("second-name")).unwrap();
        std::os::unix::fs::symlink("program", from.join("link")).unwrap();
        std::fs::create_dir(from.join("closed")).unwrap();
        let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        std::fs::File::open(from.join("program")).unwrap().set_modified(past).unwrap();
        std::fs::File::open(from.join("closed")).unwrap().set_modified(past).unwrap();
        std::fs::set_permissions(from.join("closed"), mode(0o500)).unwrap();

        let client = agent.unix();
        let archive = pack(&client, &from).await;
        let unpacked = unpack(&client, &to, archive, LinkPolicy::Inside).await.unwrap();
        assert_eq!(unpacked.bytes, 300_000 + 8);
        assert_eq!(std::fs::read(to.join(&deep).join("deep")).unwrap(), b"far down");
        let found = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        let program = found("program");
        assert_eq!((program.mode() & 0o7777, program.mtime()), (0o751, 1_000_000_000));
        assert_eq!(program.ino(), found("second-name").ino());
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("program"));
        let closed = found("closed");
        assert_eq!((closed.mode() & 0o7777, closed.mtime()), (0o500, 1_000_000_000));
    });
}

#[test]
fn nothing_is_made_outside_the_directory() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let (client, to) = (agent.unix(), dir.path().join("to"));
        std::fs::create_dir(&to).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("way-out")).unwrap();
        let absolute = format!("{}/rogue", outside.display());
        for (entry, name, target) in [
            (EntryType::Regular, "../rogue", ""),
            (EntryType::Regular, "a/../../rogue", ""),
            (EntryType::Regular, absolute.as_str(), ""),
            (EntryType::Regular, "way-out/rogue", ""),
            (EntryType::Directory, "way-out/rogue", ""),
            (EntryType::Symlink, "rogue", "/etc/passwd"),
            (EntryType::Symlink, "a/rogue", "../../outside"),
            (EntryType::Link, "rogue", "../outside/file"),
            (EntryType::Link, "rogue", "way-out/file"),
        ] {
            let outcome =
                unpack(&client, &to, rogue(entry, name, target), LinkPolicy::Inside).await;
            assert_eq!(kind(outcome), RefusalKind::OutsideDirectory, "{entry:?} {name} {target}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let device = unpack(&client, &to, rogue(EntryType::Char, "null", ""), LinkPolicy::Any);
        assert_eq!(kind(device.await), RefusalKind::BadArchive);
    });
}

#[test]
fn outward_links_are_made_when_they_are_meant_and_never_followed() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let (client, to) = (agent.unix(), dir.path().join("to"));
        let link = rogue(EntryType::Symlink, "out", "../");
        unpack(&client, &to, link, LinkPolicy::Any).await.unwrap();
        assert_eq!(std::fs::read_link(to.join("out")).unwrap(), Path::new("../"));
        let through = rogue(EntryType::Regular, "out/rogue", "");
        let outcome = unpack(&client, &to, through, LinkPolicy::Any).await;
        assert_eq!(kind(outcome), RefusalKind::OutsideDirectory);
        // The link gives way to a file of its name; what it led to is untouched.
        let over = rogue(EntryType::Regular, "out", "");
        unpack(&client, &to, over, LinkPolicy::Inside).await.unwrap();
        assert_eq!(std::fs::read(to.join("out")).unwrap(), b"rogue");
    });
}

#[test]
fn what_is_no_archive_and_what_is_cut_off_is_told() {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    story(async {
        let client = agent.unix();
        let noise = unpack(&client, dir.path(), vec![0xa5; 4096], LinkPolicy::Inside).await;
        assert_eq!(kind(noise), RefusalKind::BadArchive);
        let mut cut = rogue(EntryType::Regular, "file", "");
        cut.truncate(514);
        let cut = unpack(&client, dir.path(), cut, LinkPolicy::Inside).await;
        assert_eq!(kind(cut), RefusalKind::BadArchive);
    });
}
