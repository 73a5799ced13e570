use super::*;
use aetherium_model::{
    Timestamp,
    finding::Verdict,
    resources::Resources,
    template::{Initramfs, Kernel, KernelFormat, RootFilesystem},
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Puts a template with small files in place, changed by `change` before its manifest is written.
fn put(store: &TemplateStore, template: &str, change: impl FnOnce(&mut Template)) {
    let dir = store.path(&name(template));
    fs::create_dir_all(&dir).unwrap();
    let file = |file: &str| {
        fs::write(dir.join(file), file).unwrap();
        digest::template_file(&dir, file).unwrap()
    };
    let mut manifest = Template {
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
            origin: String::new(),
        },
        defaults: Resources::default(),
        tuning: Default::default(),
        image: None,
        created_at: Timestamp::from_millis(0),
    };
    change(&mut manifest);
    fs::write(dir.join(MANIFEST_FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn open() -> (tempfile::TempDir, TemplateStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = TemplateStore::open(dir.path().join("templates")).unwrap();
    (dir, store)
}

#[test]
fn templates_are_listed_by_name_and_a_broken_one_does_not_hide_the_others() {
    let (_dir, store) = open();
    for template in ["b", "a"] {
        put(&store, template, |_| {});
    }
    fs::create_dir(store.path(&name("broken"))).unwrap();
    fs::write(store.dir().join(".c.lock"), "").unwrap();
    let names: Vec<_> = store.list().unwrap().into_iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(matches!(store.get(&name("broken")), Err(ImageError::Broken { .. })));
    assert!(matches!(store.get(&name("none")), Err(ImageError::NotFound { .. })));
}

#[test]
fn a_manifest_that_leaves_its_directory_or_is_of_another_kind_is_refused() {
    let refused = |change: fn(&mut Template)| {
        let (_dir, store) = open();
        put(&store, "t", change);
        match store.get(&name("t")) {
            Err(ImageError::Broken { detail, .. }) => detail,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(|t| t.rootfs.image.file = "../../etc/passwd".into()).contains("passwd"));
    assert!(refused(|t| t.kernel.image.file = "/etc/passwd".into()).contains("passwd"));
    assert!(refused(|t| t.initramfs.image.file = "..".into()).contains("not a file name"));
    assert!(refused(|t| t.format = 99).contains("99"));
    assert!(refused(|t| t.name = name("other")).contains("other"));
}

#[test]
fn a_changed_file_is_found_by_its_size_at_once_and_by_its_content_in_full() {
    let (_dir, store) = open();
    put(&store, "t", |_| {});
    let template = store.get(&name("t")).unwrap();
    let failed = |check| -> Vec<String> {
        let findings = template.verify(check);
        assert_eq!(findings.len(), 3);
        findings.into_iter().filter(|f| f.verdict == Verdict::Fail).map(|f| f.check).collect()
    };
    assert_eq!(failed(Check::Full), [""; 0]);

    fs::write(template.kernel(), "KERNEL").unwrap();
    assert_eq!(failed(Check::Quick), [""; 0]);
    assert_eq!(failed(Check::Full), ["template.kernel"]);

    fs::write(template.initramfs(), "cut").unwrap();
    fs::remove_file(template.rootfs()).unwrap();
    assert_eq!(failed(Check::Quick), ["template.initramfs", "template.rootfs"]);
}

#[test]
fn a_removed_template_is_gone_and_cannot_be_removed_twice() {
    let (_dir, store) = open();
    put(&store, "t", |_| {});
    store.remove(&name("t")).unwrap();
    assert!(matches!(store.get(&name("t")), Err(ImageError::NotFound { .. })));
    assert!(matches!(store.remove(&name("t")), Err(ImageError::NotFound { .. })));
    let left: Vec<_> = fs::read_dir(store.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".t.lock"]);
}

#[test]
fn a_template_that_is_being_built_is_not_removed() {
    let (_dir, store) = open();
    put(&store, "t", |_| {});
    let lock = staging::NameLock::try_acquire(store.dir(), &name("t")).unwrap().unwrap();
    assert!(matches!(store.remove(&name("t")), Err(ImageError::Busy { .. })));
    drop(lock);
    store.remove(&name("t")).unwrap();
}
