//! Templates from one store to another: as a file, and through a registry. What is damaged or means
//! harm is refused, and leaves the store as it was.

use crate::{
    Parts,
    container::{Container, Layer, digest},
    images::access,
    registry::{Fault, Registry},
};
use aetherium_image::{
    Check, Credentials, ImageError, ImageReference, InstalledTemplate, Packing, Placement,
    RegistryAccess, Silent, TemplateStore, build, export_to, import, pull, push,
};
use aetherium_model::{Name, TemplateRef, finding::Verdict};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use tar::EntryType;

fn template() -> TemplateRef {
    TemplateRef::latest("test".parse::<Name>().unwrap())
}

fn elsewhere(parts: &Parts) -> TemplateStore {
    TemplateStore::open(parts.path("elsewhere")).unwrap()
}

fn as_name(name: &str) -> Placement {
    Placement { name: Some(name.parse().unwrap()), replace: false }
}

fn is_whole(template: &InstalledTemplate) -> bool {
    template.verify(Check::Full).iter().all(|finding| finding.verdict == Verdict::Ok)
}

/// Whether nothing of what was refused is in the store, beside it, or under way.
fn is_empty(store: &TemplateStore) -> bool {
    let blobs = fs::read_dir(store.dir().join("blobs")).unwrap().count();
    let names = fs::read_dir(store.dir()).unwrap().map(|it| it.unwrap().file_name());
    let left = names.filter(|it| it.to_str().unwrap().contains("staging")).count();
    (blobs, left, store.entries().unwrap().len()) == (0, 0, 0)
}

async fn exported(parts: &Parts) -> (InstalledTemplate, PathBuf) {
    let built = build(&parts.store, parts.request(), &Silent).await.unwrap();
    let file = parts.path("test.tar");
    export_to(&parts.store, &template(), Packing::Gzip, &file, &Silent).await.unwrap();
    (built, file)
}

/// The first bytes of what is packed with zstd (RFC 8878, section 3.1.1).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The files of an archive that `export` wrote, in order.
fn unpacked(file: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(fs::File::open(file).unwrap());
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
    });
    files.collect()
}

/// An exported template as documents and blobs, to be changed and written again.
struct Forged {
    manifest: Value,
    config: Value,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Forged {
    fn from(file: &Path) -> Self {
        let files: BTreeMap<_, _> = unpacked(file).into_iter().collect();
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let blob = |named: &Value| {
            let digest = named["digest"].as_str().unwrap().to_owned();
            (digest.clone(), files[&format!("blobs/{}", digest.replace(':', "/"))].clone())
        };
        let manifest = json(&blob(&json(&files["index.json"])["manifests"][0]).1);
        let config = json(&blob(&manifest["config"]).1);
        let blobs = manifest["layers"].as_array().unwrap().iter().map(blob).collect();
        Self { manifest, config, blobs }
    }

    /// Puts another layer in the place of the one with this file.
    fn layer(&mut self, file: &str, bytes: Vec<u8>) {
        let layers = self.manifest["layers"].as_array_mut().unwrap();
        let title = "org.opencontainers.image.title";
        let place = layers.iter_mut().find(|it| it["annotations"][title] == file).unwrap();
        place["digest"] = json!(digest(&bytes));
        place["size"] = json!(bytes.len());
        self.blobs.insert(digest(&bytes), bytes);
    }

    fn write(mut self, file: &Path) {
        let config = self.config.to_string().into_bytes();
        self.manifest["config"]["digest"] = json!(digest(&config));
        self.manifest["config"]["size"] = json!(config.len());
        let manifest = self.manifest.to_string().into_bytes();
        let media_type = self.manifest["mediaType"].clone();
        let named =
            json!({ "mediaType": media_type, "digest": digest(&manifest), "size": manifest.len() });
        let index = json!({ "schemaVersion": 2, "manifests": [named] }).to_string();
        let mut archive = Layer::new().file("index.json", &index);
        for bytes in self.blobs.into_values().chain([config, manifest]) {
            let path = format!("blobs/{}", digest(&bytes).replace(':', "/"));
            archive = archive.entry(EntryType::Regular, &path, "", &bytes);
        }
        fs::write(file, archive.bytes()).unwrap();
    }
}

#[tokio::test]
async fn a_template_comes_out_of_a_file_as_it_went_in() {
    let parts = Parts::new();
    let (built, file) = exported(&parts).await;
    let names: Vec<_> = unpacked(&file).into_iter().map(|(name, _)| name).take(2).collect();
    assert_eq!(names, ["oci-layout", "index.json"]);
    let used = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    assert!(fs::metadata(&file).unwrap().len() < used(&built.rootfs()), "holes were packed");

    let store = elsewhere(&parts);
    let came = import(&store, &file, &Placement::default(), &Silent).await.unwrap();
    assert_eq!(came.manifest, built.manifest);
    assert!(is_whole(&came));
    assert!(used(&came.rootfs()) <= used(&built.rootfs()) + 4096, "holes were filled");
    assert!(store.entries().unwrap()[0].verified_at.is_some());

    let again = parts.path("again.tar");
    export_to(&store, &template(), Packing::Gzip, &again, &Silent).await.unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap(), "the same, byte for byte");

    export_to(&store, &template(), Packing::Zstd, &again, &Silent).await.unwrap();
    let layers = unpacked(&again).into_iter().filter(|(_, bytes)| bytes.starts_with(ZSTD));
    assert_eq!(layers.count(), built.manifest.files().count());
    let third = TemplateStore::open(parts.path("third")).unwrap();
    let came = import(&third, &again, &Placement::default(), &Silent).await.unwrap();
    assert!(came.manifest == built.manifest && is_whole(&came));
}

#[tokio::test]
async fn an_import_takes_the_name_it_is_given_and_no_other_templates() {
    let parts = Parts::new();
    let (built, file) = exported(&parts).await;
    let store = elsewhere(&parts);
    let came = import(&store, &file, &as_name("mine:v1"), &Silent).await.unwrap();
    assert_eq!(came.manifest.digest, built.manifest.digest);
    assert_eq!(store.get("mine:v1".parse::<TemplateRef>().unwrap()).unwrap(), came);
    import(&store, &file, &as_name("mine:v1"), &Silent).await.unwrap();

    let name: Name = "taken".parse().unwrap();
    store.derive(&came, &name, |template| template.kernel.extra_args.clear()).unwrap();
    let taken = import(&store, &file, &as_name("taken"), &Silent).await.unwrap_err();
    assert!(matches!(taken, ImageError::AlreadyExists { .. }), "{taken}");
    let replacing = Placement { replace: true, ..as_name("taken") };
    let came = import(&store, &file, &replacing, &Silent).await.unwrap();
    assert_eq!(came.manifest.digest, built.manifest.digest);
}

#[tokio::test]
async fn a_damaged_or_hostile_archive_is_refused_and_nothing_of_it_is_kept() {
    let parts = Parts::new();
    let (_, file) = exported(&parts).await;
    let store = elsewhere(&parts);
    let refused = async |what: &str, change: &dyn Fn(&mut Forged)| {
        let forged_file = parts.path("forged.tar");
        let mut forged = Forged::from(&file);
        change(&mut forged);
        forged.write(&forged_file);
        let error = import(&store, &forged_file, &as_name("x"), &Silent).await.unwrap_err();
        assert!(is_empty(&store), "{what}");
        error.to_string()
    };
    // What is written as it was comes in: the changes below are what is refused.
    let same = parts.path("same.tar");
    Forged::from(&file).write(&same);
    import(&store, &same, &as_name("x"), &Silent).await.unwrap();
    store.remove(&"x".parse::<Name>().unwrap()).unwrap();
    let keep = aetherium_image::Keep { last: 0, derived: std::time::Duration::ZERO };
    store.collect(keep, aetherium_image::Removal::Real).unwrap();

    let one = |layer: Layer| layer.bytes();
    let size = usize::try_from(Forged::from(&file).config["kernel"]["size"].as_u64().unwrap());
    let evil = "x".repeat(size.unwrap());
    let other = || one(Layer::new().file("kernel", &evil));
    let error = refused("another content", &|f| f.layer("kernel", other())).await;
    assert!(error.contains("what came as blob"), "{error}");
    let link = || one(Layer::new().symlink("rootfs.ext4", "/etc/passwd"));
    let error = refused("a link", &|f| f.layer("rootfs.ext4", link())).await;
    assert!(error.contains("rootfs.ext4 is no file"), "{error}");
    let climbing = || one(Layer::new().file("../../rootfs.ext4", "x"));
    let error = refused("a way out", &|f| f.layer("rootfs.ext4", climbing())).await;
    assert!(error.contains(".."), "{error}");
    let error = refused("a path for a name", &|f| {
        f.config["rootfs"]["file"] = json!("../../../x");
    });
    assert!(error.await.contains("not a file name"));
    let error = refused("a path for a digest", &|f| {
        f.config["rootfs"]["sha256"] = json!("../../../x");
    });
    assert!(error.await.contains("no sha256 digest"));
    let error = refused("one name for two files", &|f| {
        f.config["rootfs"]["file"] = json!("kernel");
    });
    assert!(error.await.contains("two of its files"));
    let error = refused("a layer too few", &|f| {
        f.manifest["layers"].as_array_mut().unwrap().pop();
    });
    assert!(error.await.contains("no layer with"));
    let error = refused("an image", &|f| {
        f.manifest.as_object_mut().unwrap().remove("artifactType");
    });
    assert!(error.await.contains("an image and no template"));
    let error = refused("another version", &|f| f.config["format"] = json!(99)).await;
    assert!(error.contains("format 99"), "{error}");

    let whole = fs::read(&file).unwrap();
    for (what, bytes) in [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("changed", {
            let mut bytes = whole.clone();
            let at = bytes.len() - 4096;
            bytes[at] ^= 1;
            bytes
        }),
    ] {
        let damaged = parts.path("damaged.tar");
        fs::write(&damaged, bytes).unwrap();
        let error = import(&store, &damaged, &as_name("x"), &Silent).await.unwrap_err();
        assert!(is_empty(&store), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_template_comes_out_of_a_registry_as_it_went_in_and_is_sent_and_fetched_once() {
    let parts = Parts::new();
    let built = build(&parts.store, parts.request(), &Silent).await.unwrap();
    let registry = Registry::empty().await;
    let image: ImageReference = registry.image().parse().unwrap();
    let pushed = push(&parts.store, &template(), &image, &access(&parts), &Silent).await.unwrap();
    assert_eq!(pushed.template.hex(), built.manifest.digest);
    assert_eq!((registry.sent().len(), pushed.there_bytes), (5, 0), "four files and the manifest");
    let again = push(&parts.store, &template(), &image, &access(&parts), &Silent).await.unwrap();
    assert_eq!((registry.sent(), again.sent_bytes), (Vec::<String>::new(), 0));
    assert_eq!((again.manifest, again.there_bytes), (pushed.manifest, pushed.sent_bytes));

    let store = elsewhere(&parts);
    let place = Placement::default();
    let came = pull(&store, &image, &access(&parts), &place, &Silent).await.unwrap();
    assert_eq!(came.manifest, built.manifest);
    assert!(is_whole(&came));
    assert_eq!(registry.asked().len(), 5);
    pull(&store, &image, &access(&parts), &as_name("other"), &Silent).await.unwrap();
    assert_eq!(registry.asked(), [], "it comes from the cache");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_taken_up_and_one_that_is_given_up_by_the_next_push() {
    let parts = Parts::new();
    build(&parts.store, parts.request(), &Silent).await.unwrap();
    let registry = Registry::empty().await;
    let image: ImageReference = registry.image().parse().unwrap();
    // The registry sees to it that each piece begins where the half of the last one ended.
    registry.fail_with(Some(Fault::BreakUploads(3)));
    push(&parts.store, &template(), &image, &access(&parts), &Silent).await.unwrap();
    assert_eq!(registry.sent().len(), 5);

    let registry = Registry::empty().await;
    let image: ImageReference = registry.image().parse().unwrap();
    registry.fail_with(Some(Fault::RefuseUploads));
    let broken = push(&parts.store, &template(), &image, &access(&parts), &Silent).await;
    assert!(matches!(broken, Err(ImageError::RegistryFailed { .. })), "{broken:?}");
    let store = elsewhere(&parts);
    let none = pull(&store, &image, &access(&parts), &Placement::default(), &Silent).await;
    assert!(matches!(none, Err(ImageError::ImageMissing { .. })), "{none:?}");
    registry.fail_with(None);
    push(&parts.store, &template(), &image, &access(&parts), &Silent).await.unwrap();
    pull(&store, &image, &access(&parts), &Placement::default(), &Silent).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_lies_about_a_template_is_found_out() {
    let parts = Parts::new();
    build(&parts.store, parts.request(), &Silent).await.unwrap();
    let registry = Registry::empty().await;
    let image: ImageReference = registry.image().parse().unwrap();
    push(&parts.store, &template(), &image, &access(&parts), &Silent).await.unwrap();
    let largest = registry.sent().remove(3);
    registry.tamper(&largest, |bytes| bytes[100] ^= 1);
    let store = elsewhere(&parts);
    let error = pull(&store, &image, &access(&parts), &Placement::default(), &Silent).await;
    assert!(matches!(error, Err(ImageError::BlobWrong { .. })), "{error:?}");
    assert!(is_empty(&store));
}

#[tokio::test]
async fn an_image_is_no_template_and_a_login_is_needed_where_it_is_asked_for() {
    let parts = Parts::new();
    let registry = Registry::with(Container::new([Layer::new().file("a", "b")])).await;
    let image: ImageReference = registry.image().parse().unwrap();
    let store = elsewhere(&parts);
    let error = pull(&store, &image, &access(&parts), &Placement::default(), &Silent).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("no template"), "{error}");

    build(&parts.store, parts.request(), &Silent).await.unwrap();
    registry.ask_for("bWU6c2VjcmV0"); // me:secret
    let denied = push(&parts.store, &template(), &image, &access(&parts), &Silent).await;
    assert!(matches!(denied, Err(ImageError::RegistryDenied { .. })), "{denied:?}");
    let given = Credentials { username: "me".into(), password: "secret".into() };
    let given = RegistryAccess { credentials: Some(given), ..access(&parts) };
    push(&parts.store, &template(), &image, &given, &Silent).await.unwrap();
    pull(&store, &image, &given, &Placement::default(), &Silent).await.unwrap();
}
