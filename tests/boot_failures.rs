//! A guest that does not boot says why: a code, the lines that decided it, and what to do.

use crate::world::{BOOT, Place, Server, id, state, test_template};
use aetherium_image::cpio::{Entry, segment};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::process::Command;

/// Starts a VM that cannot boot and returns how it ended.
async fn failure(server: &Server<'_>, body: Value) -> Value {
    let made = server.post("/vms", body).await;
    let path = format!("/vms/{}", id(&made));
    let vm = server
        .until(&path, BOOT, |vm| {
            assert_ne!(state(vm), "running", "it was not to boot");
            vm.get("termination").is_some() && state(vm) != "stopping"
        })
        .await;
    assert_eq!(state(&vm), "failed", "{vm:#}");
    let why = vm["termination"].clone();
    assert!(why["remedy"].as_str().is_some_and(|it| !it.is_empty()), "no remedy: {why:#}");
    println!("{}: {}", why["code"], why["detail"]);
    why
}

fn evidence(why: &Value) -> String {
    let lines = why["evidence"].as_array().cloned().unwrap_or_default();
    lines.iter().map(|line| line.as_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_root_that_no_disk_carries_is_named_with_the_disks_that_were_seen() {
    let place = Place::new();
    let wanted = "00000000-1111-2222-3333-444444444444";
    place.template("lost", |manifest| manifest["rootfs"]["uuid"] = json!(wanted));
    let server = Server::start(&place, DriverKind::Qemu).await;
    let why = failure(&server, json!({ "template": "lost" })).await;
    assert_eq!(why["code"], "root_not_found", "{why:#}");
    let detail = why["detail"].as_str().unwrap();
    assert!(
        detail.contains(wanted) && detail.contains("vda") && detail.contains("ext4"),
        "{detail}"
    );
    assert!(evidence(&why).contains("root_not_found"), "{why:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_guest_without_the_driver_of_its_disk_says_that_it_saw_none() {
    let place = Place::new();
    let initramfs = without(&test_initramfs(), |name| name.ends_with("/virtio_blk.ko"));
    place.template_with_initramfs("driverless", &initramfs);
    let server = Server::start(&place, DriverKind::Qemu).await;
    let why = failure(&server, json!({ "template": "driverless" })).await;
    assert_eq!(why["code"], "root_not_found", "{why:#}");
    assert!(why["detail"].as_str().unwrap().contains("no disk"), "{why:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn an_initramfs_without_init_is_told_from_a_missing_root() {
    let place = Place::new();
    place.template_with_initramfs("initless", &without(&test_initramfs(), |name| name == "init"));
    let server = Server::start(&place, DriverKind::Qemu).await;
    let why = failure(&server, json!({ "template": "initless" })).await;
    assert_eq!(why["code"], "init_missing", "{why:#}");
    assert!(evidence(&why).contains("Kernel panic"), "{why:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_guest_with_32_mib_of_memory_says_that_it_has_too_little() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let why = failure(&server, json!({ "memory_mib": 32 })).await;
    assert_eq!(why["code"], "guest_out_of_memory", "{why:#}");
    assert!(why["remedy"].as_str().unwrap().contains("memory"), "{why:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn an_agent_that_never_listens_is_given_up_with_what_the_console_shows() {
    let place = Place::new();
    let mut initramfs = without(&test_initramfs(), |name| name == "init");
    initramfs.extend(segment(&[Entry::file("init", 0o755, mute_init(&place))]));
    place.template_with_initramfs("mute", &initramfs);
    let server = Server::start_with(&place, DriverKind::Qemu, &["--boot-deadline", "25s"]).await;
    let why = failure(&server, json!({ "template": "mute" })).await;
    assert_eq!(why["code"], "agent_silent", "{why:#}");
    assert!(evidence(&why).contains("stage=start"), "{why:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_prompt_whose_vm_does_not_boot_fails_with_the_vms_reason() {
    let place = Place::new();
    place.template("lost", |manifest| manifest["rootfs"]["uuid"] = json!("0-0-0-0-0"));
    let server = Server::start(&place, DriverKind::Qemu).await;
    let body = json!({ "name": "w", "ai_assistant": "shell", "template": "lost" });
    let made = server.post("/workspaces", body).await;
    let prompt = server.prompt(&format!("/workspaces/{}", id(&made)), "echo never").await;
    let (end, output) = server.ended(&prompt).await;
    assert_eq!(
        (state(&end), &end["fault"]["code"]),
        ("failed", &json!("root_not_found")),
        "{end:#}"
    );
    assert_eq!(output, "");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_template_with_a_damaged_file_is_refused_before_anything_is_started() {
    let place = Place::new();
    place.template("short", |manifest| manifest["rootfs"]["size"] = json!(12345));
    let server = Server::start(&place, DriverKind::Qemu).await;
    let why = failure(&server, json!({ "template": "short" })).await;
    assert_eq!(why["code"], "template_broken", "{why:#}");
    assert!(why["detail"].as_str().unwrap().contains("rootfs.ext4"), "{why:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

fn test_initramfs() -> Vec<u8> {
    std::fs::read(test_template().initramfs()).unwrap()
}

/// A static program that says that it runs, and then does nothing for ever.
fn mute_init(place: &Place) -> Vec<u8> {
    let (source, program) = (place.path().join("mute.c"), place.path().join("mute"));
    let text = "#include <fcntl.h>\n#include <sys/stat.h>\n#include <sys/sysmacros.h>\n#include <unistd.h>\n\
        int main(void) { static const char line[] = \"aetherium-init: stage=start uptime_ms=1\\n\";\n\
        int out = open(\"/dev/console\", O_WRONLY); write(out, line, sizeof line - 1); for (;;) pause(); }\n";
    std::fs::write(&source, text).unwrap();
    let built =
        Command::new("cc").arg("-static").arg("-o").args([&program, &source]).status().unwrap();
    assert!(built.success());
    std::fs::read(program).unwrap()
}

/// A newc archive (Documentation/driver-api/early-userspace/buffer-format.rst) without some entries.
fn without(archive: &[u8], drop: impl Fn(&str) -> bool) -> Vec<u8> {
    const HEADER: usize = 110;
    let aligned = |n: usize| n.div_ceil(4) * 4;
    let mut kept = Vec::new();
    let mut at = 0;
    loop {
        let field = |n: usize| {
            let text = std::str::from_utf8(&archive[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let (size, name_size) = (field(6), field(11));
        let name = std::str::from_utf8(&archive[at + HEADER..at + HEADER + name_size - 1]).unwrap();
        let end = aligned(aligned(at + HEADER + name_size) + size);
        if !drop(name) {
            kept.extend_from_slice(&archive[at..end.min(archive.len())]);
        }
        if name == "TRAILER!!!" {
            kept.resize(kept.len().div_ceil(512) * 512, 0);
            return kept;
        }
        at = end;
    }
}
