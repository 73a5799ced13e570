//! A container image becomes a template, and the template a VM that runs the image's program.

use crate::world::{AETHERIUM, Place, assets};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Prints what it was given: its arguments, a variable, its user, its directory. Needs no library.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char cwd[4096];
    const char *greeting = getenv("GREETING");
    printf("%s %s %u %s\n", argc > 1 ? argv[1] : "-", greeting ? greeting : "-", getuid(),
           getcwd(cwd, sizeof cwd) ? cwd : "-");
    return 7;
}
"#;

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an image layout of one layer, which holds one static program and its directory.
fn write_image(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let root = dir.join("root");
    fs::create_dir_all(root.join("data")).unwrap();
    fs::write(dir.join("program.c"), PROGRAM).unwrap();
    let compiled = Command::new("cc")
        .args(["-static", "-Os", "-o"])
        .arg(root.join("program"))
        .arg(dir.join("program.c"))
        .status();
    assert!(compiled.unwrap().success());
    let packed = Command::new("tar")
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(dir.join("layer"))
        .arg("-C")
        .arg(&root)
        .args(["program", "data"])
        .status();
    assert!(packed.unwrap().success());

    let put = |bytes: &[u8]| {
        fs::write(blobs.join(digest(bytes)), bytes).unwrap();
        json!({ "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len() })
    };
    let layer = put(&fs::read(dir.join("layer")).unwrap());
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "os": "linux", "architecture": architecture,
        "config": { "User": "1234", "Env": ["GREETING=hello"], "WorkingDir": "/data",
                    "Entrypoint": ["/program"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = put(config.to_string().as_bytes());
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let manifest = put(manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

fn succeeded(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The kernel and modules come from the host's package, which `make test` has downloaded.
fn build(place: &Place, name: &str, image: &Path) -> String {
    let cache = place.path().join("cache");
    if !cache.exists() {
        std::os::unix::fs::symlink(assets().join("data/cache"), &cache).unwrap();
    }
    let output = place
        .aetherium()
        .args(["--json", "template", "build", name, "--from"])
        .arg(format!("oci:{}", image.display()))
        .output();
    succeeded(&output.unwrap())
}

#[test]
fn a_program_of_an_image_without_a_shell_runs_in_a_vm_as_the_image_says() {
    let place = Place::new();
    let image = place.path().join("image");
    write_image(&image);
    let manifest: serde_json::Value =
        serde_json::from_str(&build(&place, "hello", &image)).unwrap();
    assert_eq!(manifest["image"]["entrypoint"], json!(["/program"]));

    let run = |args: &[&str]| {
        let output = place
            .aetherium()
            .args(["run", "--driver", "qemu", "--template", "hello"])
            .args(args)
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (out, output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (out, code, err) = run(&["--", "/program", "there"]);
    assert_eq!((out.as_str(), code), ("there hello 1234 /data\n", Some(7)), "{err}");
    let own = ["--user", "0", "--cwd", "/", "--env", "GREETING=own", "--", "/program"];
    let (out, code, err) = run(&own);
    assert_eq!((out.as_str(), code), ("- own 0 /\n", Some(7)), "{err}");
    place.assert_no_vm_is_left();
}

#[test]
fn an_image_that_is_not_there_is_told_with_what_to_do() {
    let place = Place::new();
    let output = Command::new(AETHERIUM)
        .arg("--data-dir")
        .arg(place.path())
        .args(["template", "build", "x", "--from", "/srv/image"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("oci:DIR"), "{errors}");
}
