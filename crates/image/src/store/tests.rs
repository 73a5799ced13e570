use super::*;
use crate::{
    digest,
    staging::{NameLock, Staging},
};
use aetherium_model::{
    Timestamp, VmId, WorkspaceId,
    finding::Verdict,
    resources::Resources,
    template::{Initramfs, Kernel, KernelFormat, MANIFEST_FORMAT, RootFilesystem},
};
use std::{os::unix::fs::symlink, time::SystemTime};

pub(super) mod crash;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn reference(text: &str) -> TemplateRef {
    text.parse().unwrap()
}

/// Writes small files, and returns the manifest that tells of them.
fn files_in(dir: &Path, template: &str, content: &str) -> Template {
    let file = |file: &str| {
        fs::write(dir.join(file), format!("{file} of {content}")).unwrap();
        digest::template_file(dir, file).unwrap()
    };
    Template {
        format: MANIFEST_FORMAT,
        name: name(template),
        digest: String::new(),
        kernel: Kernel {
            image: file(KERNEL_FILE),
            release: "6.1".into(),
            format: KernelFormat::BzImage,
            extra_args: vec![],
            cpu_template: None,
            transport: None,
            elf: None,
            needs_bytes: None,
            config: None,
        },
        initramfs: Initramfs {
            image: file(INITRAMFS_FILE),
            modules: vec![],
            agent_version: "1".into(),
            agent_sha256: String::new(),
        },
        rootfs: RootFilesystem {
            image: file(ROOTFS_FILE),
            uuid: String::new(),
            fstype: "ext4".into(),
            origin: "a test".into(),
        },
        defaults: Resources::default(),
        tuning: Default::default(),
        snapshots: None,
        image: None,
        start: None,
        ready: None,
        init: None,
        created_at: Timestamp::from(SystemTime::now()),
    }
}

/// Makes a template of this content and puts it in its place.
fn put(store: &TemplateStore, place: &str, content: &str) -> InstalledTemplate {
    put_changed(store, place, content, |_| {})
}

fn put_changed(
    store: &TemplateStore,
    place: &str,
    content: &str,
    change: impl FnOnce(&mut Template),
) -> InstalledTemplate {
    let place = reference(place);
    let Version::Tag(tag) = place.version else { panic!("a digest is no place") };
    let lock = NameLock::try_acquire(store.dir(), &place.name).unwrap().unwrap();
    let staging = Staging::new(lock).unwrap();
    let mut template = files_in(staging.path(), place.name.as_str(), content);
    change(&mut template);
    store.commit(staging, &template, &tag).unwrap()
}

/// Lays a template down as the earlier layout had it.
fn put_earlier(dir: &Path, template: &str, content: &str) -> PathBuf {
    let place = dir.join(template);
    fs::create_dir_all(&place).unwrap();
    let manifest = files_in(&place, template, content);
    fs::write(place.join("template.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    place
}

fn open() -> (tempfile::TempDir, TemplateStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = TemplateStore::open(dir.path().join("templates")).unwrap();
    (dir, store)
}

fn blobs(store: &TemplateStore) -> usize {
    fs::read_dir(store.blobs()).unwrap().count()
}

fn is_whole(template: &InstalledTemplate) -> bool {
    template.verify(Check::Full).iter().all(|finding| finding.verdict == Verdict::Ok)
}

fn keep(last: usize) -> Keep {
    Keep { last, derived: Duration::from_secs(86_400) }
}

fn real(store: &TemplateStore) -> Collected {
    store.collect(keep(0), Removal::Real).unwrap()
}

#[test]
fn the_same_content_has_the_same_digest_whoever_makes_it_and_is_kept_once() {
    let (_dir, store) = open();
    let first = put(&store, "a", "x");
    let again = put_changed(&store, "b:v2", "x", |template| {
        template.rootfs.origin = "elsewhere".into();
        template.created_at = Timestamp::from_millis(7);
    });
    assert_eq!(first.manifest.digest, again.manifest.digest);
    assert_eq!((blobs(&store), store.digests().unwrap().len()), (3, 1));
    assert_eq!(again.manifest.created_at, first.manifest.created_at, "it was made once");
    let other = put_changed(&store, "a", "x", |template| template.kernel.release = "6.2".into());
    assert_ne!(first.manifest.digest, other.manifest.digest);
    assert_eq!(blobs(&store), 3);
}

#[test]
fn a_manifests_digest_does_not_change_between_versions_of_this_program() {
    let dir = tempfile::tempdir().unwrap();
    let document = Document::of(&files_in(dir.path(), "a", "x")).unwrap();
    let text = String::from_utf8(document.bytes).unwrap();
    assert!(text.starts_with(r#"{"defaults":{"#) && text.contains(r#""format":1,"initramfs":{"#));
    for absent in ["created_at", "origin", "\"name\"", "\"digest\""] {
        assert!(!text.contains(absent), "{text}");
    }
}

#[test]
fn a_name_means_its_latest_and_a_digest_means_one_for_good() {
    let (_dir, store) = open();
    let old = put(&store, "a", "old");
    store.tag(&reference("a"), &name("a"), &name("v1")).unwrap();
    let new = put(&store, "a", "new");
    assert_eq!(store.get(&name("a")).unwrap(), new);
    assert_eq!(store.get(reference("a:v1")).unwrap(), old);
    let pinned = TemplateRef::pinned(name("a"), old.digest().unwrap());
    assert_eq!(store.get(&pinned).unwrap(), old);
    for absent in ["a:v2", "b", &format!("a@sha256:{}", "0".repeat(64))] {
        let error = store.get(reference(absent)).unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }), "{absent}: {error}");
        assert!(error.to_string().contains(absent), "{error}");
    }
}

#[test]
fn templates_are_listed_by_name_and_a_broken_one_does_not_hide_the_others() {
    let (_dir, store) = open();
    put(&store, "b", "b");
    put(&store, "a", "a");
    put(&store, "c:other", "c");
    let broken = put(&store, "broken", "broken");
    let manifest = store.manifest_dir(&broken.digest().unwrap()).join("manifest.json");
    fs::write(manifest, "{}").unwrap();
    let names: Vec<_> = store.list().unwrap().into_iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    let error = store.get(&name("broken")).unwrap_err();
    assert!(matches!(&error, ImageError::Broken { detail, .. } if detail.contains("changed")));
    let entries = store.entries().unwrap();
    let all: Vec<_> = entries.iter().map(|it| it.reference().unwrap().to_string()).collect();
    assert_eq!(all, ["a", "b", "c:other"]);
    assert!(entries.iter().all(|it| it.verified_at.is_some() && it.boot_test.is_none()));
}

#[test]
fn a_manifest_that_leads_out_of_the_store_or_is_of_another_kind_is_refused() {
    let (dir, _store) = open();
    let refused = |change: fn(&mut Template)| {
        let mut template = files_in(dir.path(), "t", "x");
        change(&mut template);
        Document::of(&template).unwrap().template(&name("t")).unwrap_err()
    };
    assert!(refused(|t| t.rootfs.image.file = "../../etc/passwd".into()).contains("passwd"));
    assert!(refused(|t| t.kernel.image.file = "/etc/passwd".into()).contains("passwd"));
    assert!(refused(|t| t.initramfs.image.file = "..".into()).contains("not a file name"));
    assert!(refused(|t| t.rootfs.image.sha256 = "../../etc/shadow".into()).contains("shadow"));
    assert!(refused(|t| t.rootfs.image.file = "kernel".into()).contains("two of its files"));
    assert!(refused(|t| t.format = 99).contains("99"));
}

#[test]
fn a_changed_file_is_found_by_its_size_at_once_and_by_its_content_in_full_and_is_mended_by_a_build()
{
    let (_dir, store) = open();
    let template = put(&store, "t", "x");
    let failed = |check| -> Vec<String> {
        let findings = template.verify(check);
        assert_eq!(findings.len(), 3);
        findings.into_iter().filter(|f| f.verdict == Verdict::Fail).map(|f| f.check).collect()
    };
    assert_eq!(failed(Check::Full), [""; 0]);

    fs::write(template.kernel(), "KERNEL of x").unwrap();
    assert_eq!(failed(Check::Quick), [""; 0]);
    assert_eq!(failed(Check::Full), ["template.kernel"]);
    store.verify(&template).unwrap();
    assert_eq!(store.entries().unwrap()[0].verified_at, None);

    fs::write(template.initramfs(), "cut").unwrap();
    fs::remove_file(template.rootfs()).unwrap();
    assert_eq!(failed(Check::Quick), ["template.initramfs", "template.rootfs"]);

    put(&store, "t", "x");
    assert_eq!(failed(Check::Full), [""; 0]);
    assert!(store.entries().unwrap()[0].verified_at.is_some());
}

#[test]
fn a_removed_template_is_gone_and_cannot_be_removed_twice() {
    let (_dir, store) = open();
    put(&store, "t", "x");
    store.remove(&name("t")).unwrap();
    assert!(matches!(store.get(&name("t")), Err(ImageError::NotFound { .. })));
    assert!(matches!(store.remove(&name("t")), Err(ImageError::NotFound { .. })));
    let pinned = store.entries().unwrap()[0].reference().unwrap();
    assert!(matches!(store.remove(&pinned), Err(ImageError::NotATag { .. })));
    assert_eq!(real(&store).templates[0].template, pinned);
    assert_eq!((blobs(&store), store.entries().unwrap()), (0, vec![]));
    assert_eq!(fs::read_dir(store.names()).unwrap().count(), 0);
}

#[test]
fn a_template_that_is_being_built_is_not_removed() {
    let (_dir, store) = open();
    put(&store, "t", "x");
    let lock = NameLock::try_acquire(store.dir(), &name("t")).unwrap().unwrap();
    assert!(matches!(store.remove(&name("t")), Err(ImageError::Busy { .. })));
    drop(lock);
    store.remove(&name("t")).unwrap();
}

#[test]
fn what_a_vm_a_workspace_or_a_snapshot_holds_is_never_collected() {
    let holders = [
        Holder::Vm(VmId::new()),
        Holder::Workspace(WorkspaceId::new()),
        Holder::Snapshot(name("warm.1")),
    ];
    for holder in holders {
        let (_dir, store) = open();
        let held = put(&store, "t", "old");
        assert_eq!(store.hold(&holder, &name("t")).unwrap(), held);
        put(&store, "t", "new");
        put(&store, "t", "newest");
        let collected = real(&store);
        assert_eq!(collected.templates.len(), 1, "only what was between");
        assert_eq!(collected.files, 3);
        assert!(is_whole(&store.held(&holder).unwrap().unwrap()));
        let entry = store.entries().unwrap().pop().unwrap();
        assert_eq!((entry.tag, entry.used_by), (None, vec![holder.clone()]));

        store.release(&holder).unwrap();
        store.release(&holder).unwrap();
        assert_eq!(store.held(&holder).unwrap(), None);
        assert_eq!(real(&store).templates.len(), 1);
        assert!(is_whole(&store.get(&name("t")).unwrap()));
    }
}

#[test]
fn the_newest_of_each_name_are_kept_on_demand_and_a_dry_run_removes_nothing() {
    let (_dir, store) = open();
    for n in 0..4 {
        put_changed(&store, "t", &n.to_string(), |t| t.created_at = Timestamp::from_millis(n));
    }
    let would = store.collect(keep(2), Removal::Pretended).unwrap();
    assert_eq!((would.templates.len(), would.files), (2, 6));
    assert_eq!(store.digests().unwrap().len(), 4);
    assert_eq!(store.collect(keep(2), Removal::Real).unwrap(), would);
    assert!(would.bytes > 0);
    let left: Vec<_> =
        store.entries().unwrap().iter().map(|it| it.template.created_at.as_millis()).collect();
    assert_eq!(left, [3, 2]);
}

#[test]
fn what_was_made_for_tools_goes_with_its_name_once_it_is_old_and_nobody_holds_it() {
    let (_dir, store) = open();
    let day = Duration::from_secs(86_400);
    let now = SystemTime::now();
    let make = |name: &str, content: &str, age: Duration| {
        put_changed(&store, name, content, |it| it.created_at = Timestamp::from(now - age))
    };
    make("tools-00000000000a", "young", day / 2);
    make("tools-00000000000b", "old", day * 2);
    make("tools-00000000000c", "held", day * 2);
    make("tools-00000000000d", "named", day * 2);
    make("tools-mine", "own", day * 2);
    let holder = Holder::Workspace(WorkspaceId::new());
    store.hold(&holder, &name("tools-00000000000c")).unwrap();
    store.tag(&reference("tools-00000000000d"), &name("mine"), &name("latest")).unwrap();
    let gone = |keep| -> Vec<String> {
        let gone = store.collect(keep, Removal::Real).unwrap().templates;
        gone.iter().map(|it| it.template.name.to_string()).collect()
    };
    let keep = Keep { last: 5, derived: day };
    assert_eq!(gone(keep), ["tools-00000000000b"]);
    assert!(store.get(&name("tools-00000000000b")).is_err());
    store.release(&holder).unwrap();
    assert_eq!(gone(keep), ["tools-00000000000c"]);
    for left in ["tools-00000000000a", "tools-00000000000d", "mine", "tools-mine"] {
        assert!(is_whole(&store.get(&name(left)).unwrap()), "{left}");
    }
    assert_eq!(gone(Keep { derived: Duration::ZERO, ..keep }), ["tools-00000000000a"]);
}

#[test]
fn nothing_is_collected_while_it_is_not_known_what_is_needed() {
    let (_dir, store) = open();
    put(&store, "t", "x");
    store.remove(&name("t")).unwrap();
    let holder = store.uses_dir().join(VmId::new().to_string());
    fs::write(&holder, "half").unwrap();
    let error = store.collect(keep(0), Removal::Real).unwrap_err();
    assert!(matches!(&error, ImageError::StoreDamaged { path, .. } if *path == holder), "{error}");
    assert_eq!(blobs(&store), 3);
}

#[test]
fn a_collection_waits_for_who_adds_and_who_adds_waits_for_it() {
    let (_dir, store) = open();
    put(&store, "t", "x");
    store.remove(&name("t")).unwrap();
    let adding = StoreLock::shared(store.dir()).unwrap();
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| real(&store));
        // Whoever adds holds the lock with others; the collection has to wait for all of them.
        drop(StoreLock::shared(store.dir()).unwrap());
        assert!(StoreLock::try_alone(store.dir()).unwrap().is_none());
        assert_eq!(blobs(&store), 3);
        drop(adding);
        assert_eq!(collecting.join().unwrap().files, 3);
    });
}

#[test]
fn templates_of_the_earlier_layout_are_taken_over_by_moving_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("templates");
    // Names that the layout has for itself, and one whose files lie elsewhere.
    for earlier in ["default", "blobs", "names"] {
        put_earlier(&root, earlier, earlier);
    }
    let linked = put_earlier(&root, "linked", "linked");
    fs::rename(linked.join(ROOTFS_FILE), dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), linked.join(ROOTFS_FILE)).unwrap();
    fs::write(put_earlier(&root, "odd", "odd").join("template.json"), "{}").unwrap();

    let store = TemplateStore::open(&root).unwrap();
    let names: Vec<_> = store.list().unwrap().into_iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["blobs", "default", "linked", "names"]);
    for entry in store.entries().unwrap() {
        let template = store.get(entry.reference().unwrap()).unwrap();
        assert!(is_whole(&template), "{}", entry.template.name);
        assert_eq!(entry.verified_at, None);
        assert_eq!(template.manifest.rootfs.origin, "a test");
    }
    assert!(root.join(".odd.unreadable/rootfs.ext4").exists(), "it is left to its owner");
    assert_eq!(TemplateStore::open(&root).unwrap().list().unwrap(), store.list().unwrap());
}

#[test]
fn a_takeover_that_was_broken_off_is_finished_by_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let whole = put_earlier(dir.path(), "t", "x");
    // The kernel has been moved; then the process was killed.
    let digest = digest::of_file(&whole.join(KERNEL_FILE)).unwrap();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    fs::rename(&whole, dir.path().join(".t.older")).unwrap();
    let moved = dir.path().join(".t.older").join(KERNEL_FILE);
    fs::rename(moved, dir.path().join("blobs").join(digest)).unwrap();

    let store = TemplateStore::open(dir.path()).unwrap();
    assert!(is_whole(&store.get(&name("t")).unwrap()));
    assert!(!dir.path().join(".t.older").exists());
}
