//! Whole builds from files made here: no network, no root, no mounts.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

#[path = "templates/container.rs"]
mod container;
#[path = "templates/images.rs"]
mod images;
#[path = "templates/pulls.rs"]
mod pulls;
#[path = "templates/registry.rs"]
mod registry;
#[path = "templates/transfers.rs"]
mod transfers;

use aetherium_image::{
    BuildRequest, Check, ImageError, KernelSource, Progress, RootfsSource, Silent, TemplateStore,
    build,
};
use aetherium_model::{
    Name,
    finding::{Finding, Verdict},
    kernel::{KernelOption, Setting},
    resources::Resources,
    template::KernelFormat,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

const RELEASE: &str = "6.1.0-9-test";
const ELF: &[u8] = b"\x7fELF and so on";

/// Everything a build takes, in one directory.
struct Parts {
    dir: tempfile::TempDir,
    store: TemplateStore,
}

impl Parts {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = TemplateStore::open(dir.path().join("templates")).unwrap();
        let parts = Self { dir, store };
        parts.write_kernel();
        parts.write_modules();
        parts.write_rootfs();
        parts.write_agent();
        parts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bzImage: its boot header, and as payload an ELF image that is not packed. Its
    /// configuration lies beside it.
    fn write_kernel(&self) {
        let mut bytes = vec![0; 0x400];
        bytes[0x1f1] = 3; // sectors of setup code behind the first
        bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        bytes[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
        bytes[0x24c..0x250].copy_from_slice(&u32::try_from(ELF.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(format!("{RELEASE} (t@t) #1\0").as_bytes());
        bytes.resize(4 * 512, 0);
        bytes.extend_from_slice(ELF);
        fs::write(self.path("vmlinuz"), bytes).unwrap();
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=m\n";
        fs::write(self.path(&format!("config-{RELEASE}")), config).unwrap();
    }

    fn write_modules(&self) {
        let dir = self.path("modules");
        fs::create_dir_all(dir.join("kernel")).unwrap();
        let built_in = ["virtio_pci", "virtio_net", "vmw_vsock_virtio_transport", "ext4"];
        let built_in = built_in.map(|name| format!("kernel/{name}.ko\n")).concat();
        fs::write(dir.join("modules.builtin"), built_in).unwrap();
        for (name, depends) in [("virtio_blk", ""), ("overlay", "exportfs"), ("exportfs", "")] {
            let source = format!(
                "__attribute__((section(\".modinfo\"), used)) static const char info[] = \
                 \"depends={depends}\\0vermagic={RELEASE} SMP \";"
            );
            compile(&source, &["-c"], &dir.join(format!("kernel/{name}.ko")));
        }
    }

    fn write_rootfs(&self) {
        fs::create_dir_all(self.path("rootfs/bin")).unwrap();
        fs::create_dir_all(self.path("rootfs/etc")).unwrap();
        fs::write(self.path("rootfs/bin/sh"), "#!\n").unwrap();
        fs::write(self.path("rootfs/etc/hostname"), "guest\n").unwrap();
    }

    /// A static program that prints its version, without a C library.
    fn write_agent(&self) {
        let source = r#"
            static long call(long n, long a, long b, long c) {
                long r;
                __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c)
                                 : "rcx", "r11", "memory");
                return r;
            }
            void _start(void) { call(1, 1, (long)"fc-agent 1.2.3\n", 15); call(60, 0, 0, 0); }
        "#;
        compile(source, &["-static", "-nostdlib", "-ffreestanding"], &self.path("fc-agent"));
    }

    fn request(&self) -> BuildRequest {
        BuildRequest {
            name: name(),
            kernel: KernelSource::Files {
                kernel: self.path("vmlinuz"),
                modules: Some(self.path("modules")),
            },
            rootfs: RootfsSource::Directory(self.path("rootfs")),
            agent: self.path("fc-agent"),
            defaults: Resources::default(),
            tuning: Default::default(),
            kernel_args: vec!["quiet".into()],
            cpu_template: None,
            transport: None,
            snapshots: None,
            replace: false,
        }
    }

    /// The names in the store, and what builds have left there.
    fn in_store(&self) -> Vec<String> {
        let entries = self.store.entries().unwrap().into_iter();
        let mut names: Vec<_> =
            entries.filter(|it| it.tag.is_some()).map(|it| it.template.name.to_string()).collect();
        let left = fs::read_dir(self.store.dir()).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.extend(left.filter(|name| name.contains(".staging-")));
        names
    }
}

fn name() -> Name {
    "test".parse().unwrap()
}

fn compile(source: &str, args: &[&str], out: &Path) {
    let file = out.with_extension("c");
    fs::write(&file, source).unwrap();
    let status = Command::new("cc").args(args).arg("-o").arg(out).arg(&file).status().unwrap();
    assert!(status.success(), "cc {}", out.display());
    fs::remove_file(file).unwrap();
}

/// What `debugfs` says about an image; it reads without mounting.
fn debugfs(image: &Path, request: &str) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let debugfs =
        Command::new("debugfs").env("PATH", path).args(["-R", request]).arg(image).output();
    String::from_utf8(debugfs.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn a_template_is_built_from_files_and_holds_what_it_was_given() {
    let parts = Parts::new();
    let template = build(&parts.store, parts.request(), &Silent).await.unwrap();

    let manifest = &template.manifest;
    assert_eq!(manifest.kernel.release, RELEASE);
    assert_eq!(manifest.kernel.format, KernelFormat::BzImage);
    assert_eq!(manifest.kernel.extra_args, ["quiet"]);
    assert_eq!(manifest.initramfs.modules, ["virtio_blk", "exportfs", "overlay"]);
    assert_eq!(manifest.initramfs.agent_version, "1.2.3");
    assert_eq!(fs::read(template.kernel()).unwrap(), fs::read(parts.path("vmlinuz")).unwrap());
    assert_eq!(fs::read(template.kernel_elf().unwrap()).unwrap(), ELF);
    let facts = manifest.kernel.facts();
    assert_eq!(facts.setting(KernelOption::VirtioBlk), Some(Setting::Module));
    let findings = template.verify(Check::Full);
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    assert_eq!(findings.len(), 4, "{findings:?}");
    assert_eq!(debugfs(&template.rootfs(), "cat /etc/hostname"), "guest\n");
    let superblock = debugfs(&template.rootfs(), "show_super_stats -h");
    assert!(superblock.contains(&manifest.rootfs.uuid), "{superblock}");
    assert!(!superblock.contains("has_journal"), "{superblock}");
    assert_eq!(parts.in_store(), ["test"]);
    assert_eq!(parts.store.list().unwrap(), std::slice::from_ref(manifest));
}

#[tokio::test]
async fn a_template_whose_modules_are_another_kernels_is_told_of() {
    let parts = Parts::new();
    let template = build(&parts.store, parts.request(), &Silent).await.unwrap();
    let verdicts = || template.verify_kernel().iter().map(|it| it.verdict).collect::<Vec<_>>();
    assert_eq!(verdicts(), [Verdict::Ok, Verdict::Ok]);
    let mut archive = fs::read(template.initramfs()).unwrap();
    archive.extend_from_slice(b"vermagic=5.10.0 SMP ");
    fs::write(template.initramfs(), archive).unwrap();
    assert_eq!(verdicts(), [Verdict::Ok, Verdict::Fail]);
    let found = template.verify_kernel().remove(1).found;
    assert!(found.contains("5.10.0") && found.contains(RELEASE), "{found}");
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_unless_the_template_is_to_be_replaced() {
    let parts = Parts::new();
    let first = build(&parts.store, parts.request(), &Silent).await.unwrap();
    let error = build(&parts.store, parts.request(), &Silent).await.unwrap_err();
    assert!(matches!(&error, ImageError::AlreadyExists { name } if name.as_str() == "test"));

    let rootfs = RootfsSource::Ext4Image(parts.path("image"));
    fs::copy(first.rootfs(), parts.path("image")).unwrap();
    let request = BuildRequest { replace: true, rootfs, ..parts.request() };
    let second = build(&parts.store, request, &Silent).await.unwrap();
    assert_eq!(second.manifest.rootfs.uuid, first.manifest.rootfs.uuid);
    assert_eq!(second.manifest.digest, first.manifest.digest);
    assert_eq!(parts.in_store(), ["test"]);
}

#[tokio::test]
async fn of_two_builds_of_one_name_at_once_one_is_told_that_the_name_is_taken() {
    let parts = Parts::new();
    let (one, other) = tokio::join!(
        build(&parts.store, parts.request(), &Silent),
        build(&parts.store, parts.request(), &Silent),
    );
    let (built, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    built.unwrap();
    assert!(matches!(refused, Err(ImageError::AlreadyExists { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_build_that_fails_leaves_the_template_that_was_there() {
    let parts = Parts::new();
    let first = build(&parts.store, parts.request(), &Silent).await.unwrap();
    fs::remove_file(parts.path("modules/kernel/overlay.ko")).unwrap();
    let request = BuildRequest { replace: true, ..parts.request() };
    let error = build(&parts.store, request, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("has no overlay"), "{error}");
    assert_eq!(parts.store.get(&name()).unwrap(), first);
    assert_eq!(parts.in_store(), ["test"]);
}

/// Cancels a build when it comes to its root filesystem, which is the longest step.
#[tokio::test]
async fn a_cancelled_build_leaves_nothing_in_the_way() {
    struct Reached(Mutex<bool>);
    impl Progress for Reached {
        fn step(&self, label: &str) {
            *self.0.lock().unwrap() |= label.contains("root filesystem");
        }
        fn total(&self, _: &str, _: Option<u64>) {}
        fn advance(&self, _: u64) {}
        fn done(&self) {}
        fn warn(&self, _: &Finding) {}
    }
    let parts = Parts::new();
    let progress = Reached(Mutex::new(false));
    {
        let building = build(&parts.store, parts.request(), &progress);
        tokio::pin!(building);
        while !*progress.0.lock().unwrap() {
            let ended = tokio::time::timeout(Duration::from_millis(1), &mut building).await;
            assert!(ended.is_err(), "it ended before it could be cancelled: {ended:?}");
        }
    }
    assert_eq!(parts.in_store(), [""; 0]);
    build(&parts.store, parts.request(), &Silent).await.unwrap();
}

#[tokio::test]
async fn a_killed_build_leaves_nothing_that_the_next_does_not_remove() {
    let parts = Parts::new();
    // What is left when nobody could clean up: the directory, and a lock that nobody holds.
    let left = parts.store.dir().join(".test.staging-dead");
    fs::create_dir_all(left.join("work/rootfs")).unwrap();
    fs::write(left.join("rootfs.ext4"), "half").unwrap();
    fs::write(parts.store.dir().join(".test.lock"), "").unwrap();
    build(&parts.store, parts.request(), &Silent).await.unwrap();
    assert_eq!(parts.in_store(), ["test"]);
}
