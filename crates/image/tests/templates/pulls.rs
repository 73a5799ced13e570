//! Images from a registry: what is downloaded, what is not, and what is never used.

use crate::{
    Parts,
    container::{Container, Layer},
    debugfs,
    images::{Warnings, access, request},
    name,
    registry::{Fault, Registry},
};
use aetherium_image::{Credentials, ImageError, InstalledTemplate, RegistryAccess, Result, build};
use serde_json::json;
use std::fs;

/// Bytes that do not pack, so that a layer is as large as it looks.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + u8::try_from(state % 75).unwrap())
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn image() -> Container {
    let layers = [
        Layer::new().file("etc/hostname", "pulled\n").file("a", &noise(300_000)),
        Layer::new().file("b", &noise(200_000)),
    ];
    Container::new(layers).run(json!({ "Cmd": ["run"], "Env": ["A=1"] }))
}

async fn pull(parts: &Parts, image: &str, access: RegistryAccess) -> Result<InstalledTemplate> {
    let built = build(&parts.store, request(parts, image, access), &Warnings::default()).await;
    if built.is_ok() {
        parts.store.remove(&name()).unwrap();
    }
    built
}

#[tokio::test]
async fn an_image_is_pulled_once_and_comes_from_the_cache_after_that() {
    let parts = Parts::new();
    let registry = Registry::with(image()).await;
    let request = request(&parts, &registry.image(), access(&parts));
    let template = build(&parts.store, request.clone(), &Warnings::default()).await.unwrap();
    assert_eq!(debugfs(&template.rootfs(), "cat /etc/hostname"), "pulled\n");
    assert_eq!(template.manifest.rootfs.origin, registry.image());
    assert_eq!(template.manifest.image.unwrap().env["A"], "1");
    assert_eq!(registry.asked().len(), 3, "two layers and the configuration");

    parts.store.remove(&name()).unwrap();
    build(&parts.store, request, &Warnings::default()).await.unwrap();
    assert_eq!(registry.asked(), []);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let parts = Parts::new();
    let image = image();
    let layers = image.layers.clone();
    let registry = Registry::with(image).await;
    registry.fail_with(Some(Fault::BreakOffAt(50_000)));
    pull(&parts, &registry.image(), access(&parts)).await.unwrap();
    let asked = registry.asked();
    for layer in layers {
        let offsets: Vec<_> =
            asked.iter().filter(|(it, _)| *it == layer).map(|(_, offset)| *offset).collect();
        assert_eq!(offsets, [0, 50_000]);
    }
}

#[tokio::test]
async fn a_download_goes_on_at_a_registry_without_ranges_too() {
    let parts = Parts::new();
    let registry = Registry::with(image()).await;
    registry.fail_with(Some(Fault::BreakOffWithoutRanges(50_000)));
    pull(&parts, &registry.image(), access(&parts)).await.unwrap();
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_taken_up_by_the_next() {
    let parts = Parts::new();
    let image = image();
    let layer = image.layers[0].clone();
    let registry = Registry::with(image).await;
    let access = access(&parts);
    let part = parts.path("blobs/sha256").join(format!("{}.part", &layer["sha256:".len()..]));
    {
        // Some bytes of a layer come; then whoever pulls is no more.
        registry.fail_with(Some(Fault::BreakOffAt(50_000)));
        let name = registry.image();
        let pulling = pull(&parts, &name, access.clone());
        tokio::pin!(pulling);
        while fs::metadata(&part).map_or(0, |found| found.len()) == 0 {
            let poll = std::time::Duration::from_millis(1);
            assert!(tokio::time::timeout(poll, &mut pulling).await.is_err(), "it is over already");
        }
    }
    let came = usize::try_from(fs::metadata(&part).unwrap().len()).unwrap();
    registry.asked();
    registry.fail_with(None);
    pull(&parts, &registry.image(), access).await.unwrap();
    let offset = registry.asked().iter().find(|(it, _)| *it == layer).map(|(_, offset)| *offset);
    assert_eq!(offset, Some(came));
}

#[tokio::test]
async fn a_registry_that_lies_is_found_out_and_nothing_of_it_is_kept() {
    let parts = Parts::new();
    let registry = Registry::with(image()).await;
    for fault in [Fault::Lie, Fault::Endless] {
        registry.fail_with(Some(fault));
        let error = pull(&parts, &registry.image(), access(&parts)).await.unwrap_err();
        let told = match fault {
            Fault::Lie => matches!(error, ImageError::BlobWrong { .. }),
            _ => matches!(error, ImageError::ImageUnusable { .. } | ImageError::BlobWrong { .. }),
        };
        assert!(told, "{fault:?}: {error}");
        assert_eq!(parts.in_store(), [""; 0]);
    }
    registry.fail_with(None);
    pull(&parts, &registry.image(), access(&parts)).await.unwrap();
}

#[tokio::test]
async fn a_manifest_without_end_or_of_another_digest_is_refused_and_nothing_is_downloaded() {
    let parts = Parts::new();
    let registry = Registry::with(image()).await;
    for (fault, told) in [
        (Fault::EndlessManifest, "larger than 4194304 bytes"),
        (Fault::OtherManifest, "was asked for"),
    ] {
        registry.fail_with(Some(fault));
        let error = pull(&parts, &registry.image(), access(&parts)).await.unwrap_err();
        assert!(matches!(error, ImageError::ImageUnusable { .. }), "{fault:?}: {error}");
        assert!(error.to_string().contains(told), "{fault:?}: {error}");
        assert_eq!((parts.in_store(), registry.asked()), (vec![], vec![]));
    }
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password_gets_the_one_that_docker_login_wrote() {
    let parts = Parts::new();
    let registry = Registry::with(image()).await;
    registry.ask_for("bWU6c2VjcmV0"); // me:secret
    let denied = pull(&parts, &registry.image(), access(&parts)).await.unwrap_err();
    assert!(matches!(denied, ImageError::RegistryDenied { .. }), "{denied}");
    assert!(denied.remedy().contains("docker login"), "{}", denied.remedy());

    let config = json!({ "auths": { registry.host(): { "auth": "bWU6c2VjcmV0" } } });
    fs::write(parts.path("config.json"), config.to_string()).unwrap();
    let stored =
        RegistryAccess { docker_config: Some(parts.path("config.json")), ..access(&parts) };
    pull(&parts, &registry.image(), stored).await.unwrap();

    let given = Credentials { username: "me".into(), password: "secret".into() };
    let given = RegistryAccess { credentials: Some(given), ..access(&parts) };
    pull(&parts, &registry.image(), given).await.unwrap();
}

#[tokio::test]
async fn an_image_that_a_registry_does_not_have_is_told_as_such() {
    let parts = Parts::new();
    let registry = Registry::with(image()).await;
    let name = format!("{}/test/image:v2", registry.host());
    let missing = pull(&parts, &name, access(&parts)).await.unwrap_err();
    assert!(matches!(missing, ImageError::ImageMissing { .. }), "{missing}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    let parts = Parts::new();
    let (registry, mirror) = (Registry::with(image()).await, Registry::with(image()).await);
    let through = |host: &str| RegistryAccess {
        mirrors: vec![format!("{}={host}", registry.host()).parse().unwrap()],
        ..access(&parts)
    };
    pull(&parts, &registry.image(), through(mirror.host())).await.unwrap();
    assert_eq!((registry.asked().len(), mirror.asked().len()), (0, 3));

    fs::remove_dir_all(parts.path("blobs")).unwrap();
    let empty = Registry::empty().await;
    pull(&parts, &registry.image(), through(empty.host())).await.unwrap();
    assert_eq!(registry.asked().len(), 3);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_named_with_the_reason() {
    let parts = Parts::new();
    let gone = Registry::empty().await.image();
    let error = pull(&parts, &gone, access(&parts)).await.unwrap_err();
    assert!(matches!(error, ImageError::RegistryFailed { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}
