//! Templates from images on this host: layouts, archives, tarballs, directories.

use crate::{
    Parts,
    container::{Container, Layer},
    debugfs, name,
};
use aetherium_image::{
    BlobCache, BuildRequest, Check, ImageError, ImageOrigin, InstalledTemplate, Progress,
    RegistryAccess, RootfsSource, build,
};
use aetherium_model::finding::{Finding, Verdict};
use serde_json::json;
use std::{fs, path::Path, process::Command, sync::Mutex};
use tar::EntryType;

/// Keeps what it was warned of.
#[derive(Default)]
pub(crate) struct Warnings(pub(crate) Mutex<Vec<String>>);

impl Progress for Warnings {
    fn step(&self, _: &str) {}
    fn total(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn done(&self) {}
    fn warn(&self, finding: &Finding) {
        self.0.lock().unwrap().push(finding.check.to_string());
    }
}

impl Warnings {
    pub(crate) fn has(&self, check: &str) -> bool {
        self.0.lock().unwrap().iter().any(|it| it == check)
    }
}

pub(crate) fn access(parts: &Parts) -> RegistryAccess {
    RegistryAccess {
        cache: BlobCache::new(parts.path("blobs"), 1 << 30),
        mirrors: Vec::new(),
        credentials: None,
        docker_config: None,
    }
}

pub(crate) fn request(parts: &Parts, origin: &str, registry: RegistryAccess) -> BuildRequest {
    let origin: ImageOrigin = origin.parse().unwrap();
    BuildRequest {
        rootfs: RootfsSource::Image { origin, registry: Box::new(registry) },
        ..parts.request()
    }
}

async fn built(parts: &Parts, origin: &str) -> InstalledTemplate {
    let warnings = Warnings::default();
    build(&parts.store, request(parts, origin, access(parts)), &warnings).await.unwrap()
}

async fn refused(parts: &Parts, origin: &str) -> ImageError {
    let request = request(parts, origin, access(parts));
    let error = build(&parts.store, request, &Warnings::default()).await.unwrap_err();
    assert_eq!(parts.in_store(), [""; 0], "a refused image leaves nothing");
    error
}

fn layout(parts: &Parts, image: Container) -> String {
    image.write_layout(&parts.path("image"));
    format!("oci:{}", parts.path("image").display())
}

/// Packs a directory as `tar` does.
fn pack(dir: &Path, file: &Path) {
    let packed = Command::new("tar").arg("-cf").arg(file).arg("-C").arg(dir).arg(".").status();
    assert!(packed.unwrap().success());
}

#[tokio::test]
async fn an_image_of_nothing_but_one_static_program_becomes_a_template() {
    let parts = Parts::new();
    let program = fs::read(parts.path("fc-agent")).unwrap();
    let run = json!({ "Entrypoint": ["/hello"], "Cmd": ["there"], "Env": ["GREETING=hi"],
                      "User": "1000", "WorkingDir": "/data" });
    let image = Container::new([Layer::new().program("hello", &program)]).run(run);
    let origin = layout(&parts, image);
    let warnings = Warnings::default();
    let template =
        build(&parts.store, request(&parts, &origin, access(&parts)), &warnings).await.unwrap();

    let findings = template.verify(Check::Full);
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    let stat = debugfs(&template.rootfs(), "stat /hello");
    assert!(
        stat.contains("Mode:  0755") && stat.contains(&format!("Size: {}", program.len())),
        "{stat}"
    );
    assert_eq!(template.manifest.rootfs.origin, origin);
    let image = template.manifest.image.unwrap();
    assert_eq!(
        (image.entrypoint, image.cmd),
        (vec!["/hello".to_owned()], vec!["there".to_owned()])
    );
    assert_eq!(image.env["GREETING"], "hi");
    assert_eq!((image.user.as_deref(), image.workdir.as_deref()), (Some("1000"), Some("/data")));
    assert!(warnings.has("template.rootfs.shell"), "it has no shell, and nobody said so");
}

#[tokio::test]
async fn layers_of_a_system_end_as_one_tree_with_its_owners() {
    let parts = Parts::new();
    let base = Layer::new()
        .dir("usr/")
        .dir("usr/bin/")
        .symlink("bin", "usr/bin")
        .program("bin/sh", b"shell")
        .file("etc/removed", "x")
        .entry(EntryType::Char, "dev/mem", "", b"");
    let above = Layer::new()
        .file("etc/.wh.removed", "")
        .file("etc/passwd", "app:x:1000:1000::/home/app:/bin/sh\n")
        .owned(EntryType::Directory, "home/app/", "", b"", 0o700, 1000)
        .owned(EntryType::Regular, "home/app/.profile", "", b"x", 0o4711, 70_000);
    let image = Container::new([base, above]).run(json!({ "User": "app" }));
    let origin = layout(&parts, image);
    let warnings = Warnings::default();
    let template =
        build(&parts.store, request(&parts, &origin, access(&parts)), &warnings).await.unwrap();

    let see = |path: &str| debugfs(&template.rootfs(), &format!("stat {path}"));
    assert!(see("/usr/bin/sh").contains("Mode:  0755"));
    assert!(see("/bin").contains("Type: symlink"));
    let home = see("/home/app");
    assert!(home.contains("User:  1000   Group:  1000") && home.contains("Mode:  0700"), "{home}");
    let profile = see("/home/app/.profile");
    assert!(profile.contains("User: 70000") && profile.contains("Mode:  04711"), "{profile}");
    assert!(profile.contains("mtime: 0x6553f100"), "{profile}");
    for gone in ["/etc/removed", "/etc/.wh.removed", "/dev/mem"] {
        assert!(!see(gone).contains("Inode"), "{gone} is there");
    }
    assert!(warnings.has("template.image.devices") && !warnings.has("template.rootfs.shell"));
}

#[tokio::test]
async fn an_image_of_five_hundred_layers_becomes_a_template() {
    let parts = Parts::new();
    let layers =
        (0..500).map(|n| Layer::new().file("last", &n.to_string()).file(&format!("d/{n}"), ""));
    let origin = layout(&parts, Container::new(layers));
    let template = built(&parts, &origin).await;
    assert_eq!(debugfs(&template.rootfs(), "cat /last"), "499");
    assert!(debugfs(&template.rootfs(), "ls /d").contains("499"));
}

#[tokio::test]
async fn every_form_of_the_same_image_gives_the_same_root() {
    let parts = Parts::new();
    let image = || {
        let base = Layer::new().file("etc/hostname", "old\n").file("etc/gone", "");
        Container::new([
            base,
            Layer::new().file("etc/hostname", "image\n").file("etc/.wh.gone", ""),
        ])
        .run(json!({ "Cmd": ["run"] }))
    };
    let origin = layout(&parts, image());
    pack(&parts.path("image"), &parts.path("layout.tar"));
    image().write_docker_archive(&parts.path("docker.tar"));
    let root = parts.path("plain");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hostname"), "image\n").unwrap();
    pack(&root, &parts.path("root.tar"));
    let path = |file: &str| parts.path(file).display().to_string();
    let forms = [
        (origin.clone(), true),
        (format!("{origin}:v1"), true),
        (format!("oci-archive:{}", path("layout.tar")), true),
        (format!("docker-archive:{}", path("docker.tar")), true),
        (format!("docker-archive:{}:test:1", path("docker.tar")), true),
        (format!("tar:{}", path("root.tar")), false),
        (format!("dir:{}", path("plain")), false),
    ];
    for (origin, has_configuration) in forms {
        let template = built(&parts, &origin).await;
        assert_eq!(debugfs(&template.rootfs(), "cat /etc/hostname"), "image\n", "{origin}");
        assert!(!debugfs(&template.rootfs(), "stat /etc/gone").contains("Inode"), "{origin}");
        let cmd = template.manifest.image.map(|image| image.cmd);
        assert_eq!(cmd, has_configuration.then(|| vec!["run".to_owned()]), "{origin}");
        parts.store.remove(&name()).unwrap();
    }
}

#[tokio::test]
async fn an_image_that_is_not_there_or_not_one_is_refused_with_what_was_looked_for() {
    let parts = Parts::new();
    layout(&parts, Container::new([Layer::new().file("a", "")]));
    pack(&parts.path("rootfs"), &parts.path("root.tar"));
    let path = |file: &str| parts.path(file).display().to_string();
    let cases = [
        (format!("oci:{}", path("none")), "index.json"),
        (format!("oci:{}:v9", path("image")), "v1"),
        (format!("oci-archive:{}", path("root.tar")), "tar:FILE"),
        (format!("tar:{}", path("none")), "none"),
        (format!("tar:{}", path("vmlinuz")), "no tar archive"),
    ];
    for (origin, told) in cases {
        let error = refused(&parts, &origin).await.to_string();
        assert!(error.contains(told), "{origin}: {error}");
    }
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused() {
    let parts = Parts::new();
    let image = Container::new([Layer::new().file("a", "")]).architecture("s390x");
    let origin = layout(&parts, image);
    let error = refused(&parts, &origin).await;
    assert!(matches!(error, ImageError::PlatformMissing { .. }), "{error}");
}

#[tokio::test]
async fn a_blob_that_was_changed_is_refused() {
    let parts = Parts::new();
    let image = Container::new([Layer::new().file("a", "good")]);
    let blob = image.layers[0].replace(':', "/");
    let origin = layout(&parts, image);
    let blob = parts.path("image/blobs").join(blob);
    fs::write(&blob, crate::container::gzip(&Layer::new().file("a", "evil").bytes())).unwrap();
    let error = refused(&parts, &origin).await;
    let ImageError::LayerRefused { problem, .. } = &error else { panic!("{error}") };
    assert!(problem.to_string().contains("digest"), "{error}");
}

#[tokio::test]
async fn a_hostile_layer_is_refused_by_its_digest_and_entry() {
    let parts = Parts::new();
    let hostile = Layer::new().file("../../escaped", "x");
    let image = Container::new([Layer::new().file("a", ""), hostile]);
    let digest = image.layers[1].clone();
    let origin = layout(&parts, image);
    let error = refused(&parts, &origin).await.to_string();
    assert!(error.contains("layer 2 of 2") && error.contains(&digest), "{error}");
    assert!(error.contains("\"../../escaped\"") && error.contains(".."), "{error}");
    assert!(!parts.path("escaped").exists());
}
