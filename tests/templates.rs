//! The store of templates as a person meets it, and what running VMs can rely on.

use crate::world::{BOOT, Place, Server, id, state, test_template};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Runs a verb of `aetherium template` and returns what it printed and its exit code.
fn template(place: &Place, args: &[&str]) -> (String, Option<i32>) {
    let output = place.aetherium().arg("--json").arg("template").args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let out = String::from_utf8(output.stdout).unwrap();
    (if out.is_empty() { errors } else { out }, output.status.code())
}

fn told(place: &Place, args: &[&str]) -> Value {
    let (out, code) = template(place, args);
    assert_eq!(code, Some(0), "{args:?}: {out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn a_template_is_tried_and_what_came_of_it_is_listed() {
    let place = Place::new();
    place.template("rootless", |manifest| {
        manifest["rootfs"]["uuid"] = json!("00000000-0000-4000-8000-000000000000");
    });
    let listed = |name: &str| {
        let all = told(&place, &["list"]);
        let found = all.as_array().unwrap().iter().find(|it| it["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {all:#}"))["boot_test"].clone()
    };
    assert_eq!(listed("default"), Value::Null);

    let test = told(&place, &["test", "default", "--driver", "qemu"]);
    let checks = test["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|it| it["check"].as_str().unwrap()).collect();
    assert_eq!(names, ["agent", "clock", "dns", "disk", "exec"]);
    assert!(checks.iter().all(|it| it["verdict"] == "ok"), "{test:#}");
    let versions = &test["versions"];
    assert_eq!(versions["kernel"], test_template().manifest.kernel.release.as_str(), "{test:#}");
    assert_eq!((&listed("default"), &test["driver"]), (&test, &json!("qemu")));

    let (_, code) = template(&place, &["test", "rootless", "--driver", "qemu"]);
    assert_eq!(code, Some(1));
    let failed = listed("rootless");
    assert_eq!(failed["checks"][0]["verdict"], "fail", "{failed:#}");
    let remedy = failed["checks"][0]["remedy"].as_str().unwrap_or_default();
    assert!(!remedy.is_empty(), "{failed:#}");
    // The verdict is no part of the template, and nobody holds it any more.
    let inspected = told(&place, &["inspect", "default"]);
    assert_eq!(inspected["used_by"], json!([]));
    assert!(!place.path().join(".boot").exists());
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn what_a_vm_or_a_workspaces_disk_is_made_over_outlives_its_name() {
    let place = Place::new();
    let digest = told(&place, &["tag", "default", "base:v1"])["digest"].clone();
    let pinned = json!(format!("sha256:{}", digest.as_str().unwrap()));
    let server = Server::start(&place, DriverKind::Qemu).await;
    let workspace = server.workspace("kept").await;
    assert_eq!(server.answer(&workspace, "echo mine > /etc/mine; echo done").await, "done\n");
    let vm = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    let tagged = server.vm(json!({ "template": "base:v1" })).await;
    for (made, template) in [(&tagged, "base:v1"), (&server.get(&workspace).await, "default")] {
        assert_eq!((&made["template"], &made["template_digest"]), (&json!(template), &pinned));
    }
    let (status, refused) =
        server.call(Method::POST, "/vms", Some(json!({ "template": "base:v9" }))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused:#}");
    let detail = refused["detail"].as_str().unwrap();
    assert_eq!(detail, "no worker holds the template base:v9; there is base:v1");
    server.delete("/templates/base:v1").await;
    let path = format!("/vms/{}", id(&tagged));
    server.delete(&path).await;
    server.until(&path, BOOT, |vm| state(vm) == "stopped").await;

    // The name comes to mean another template, and what it meant has no tag any more.
    place.template("default", |manifest| {
        manifest["rootfs"]["uuid"] = json!("00000000-0000-4000-8000-000000000000");
    });
    let users = || {
        let all = told(&place, &["list"]);
        let old = all.as_array().unwrap().iter().find(|it| it["digest"] == digest).cloned();
        old.map(|it| it["used_by"].clone())
    };
    let workspace_id = workspace.rsplit('/').next().unwrap();
    assert_eq!(users(), Some(json!([vm, workspace_id])));
    assert_eq!(told(&place, &["gc"])["templates"], json!([]));
    let body = json!({ "argv": ["cat", "/etc/mine"] });
    let ran = server.post(&format!("/vms/{vm}/execute"), body).await;
    assert_eq!(ran["stdout"], "mine\n", "the VM goes on");

    server.delete(&format!("/vms/{vm}")).await;
    let path = format!("/vms/{vm}");
    server.until(&path, BOOT, |vm| state(vm) == "stopped").await;
    assert_eq!(users(), Some(json!([workspace_id])));
    assert_eq!(told(&place, &["gc"])["templates"], json!([]));
    // The next VM of the workspace has the same root below its disk.
    assert_eq!(server.answer(&workspace, "cat /etc/mine").await, "mine\n");
    let next = server.get(&workspace).await["vm_id"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("/vms/{next}")).await["template_digest"], pinned);

    server.delete(&workspace).await;
    let deadline = Instant::now() + BOOT;
    while users() != Some(json!([])) {
        assert!(Instant::now() < deadline, "still used: {:?}", users());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let collected = told(&place, &["gc"]);
    assert_eq!(collected["templates"].as_array().unwrap().len(), 1, "{collected:#}");
    assert_eq!(users(), None);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[test]
fn names_tags_and_digests_are_given_taken_and_collected() {
    let place = Place::new();
    let digest = told(&place, &["tag", "default", "base:v1"])["digest"].clone();
    assert_eq!(told(&place, &["inspect", "base:v1"])["digest"], digest);
    let pinned = format!("base@sha256:{}", digest.as_str().unwrap());
    assert_eq!(told(&place, &["get", &pinned])["digest"], digest);
    for name in ["default", "base:v1"] {
        assert_eq!(told(&place, &["remove", name])["digest"], digest);
    }
    let (error, code) = template(&place, &["remove", "base:v1"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("no template base:v1")
            && error.contains("; there is ")
            && error.contains("what to do"),
        "{error}"
    );

    let would = told(&place, &["gc", "--dry-run"]);
    assert_eq!(would["templates"][0]["template"], json!(pinned.replace("base@", "default@")));
    assert_eq!(told(&place, &["gc", "--keep-last", "1"])["templates"], json!([]));
    assert_eq!(told(&place, &["gc"]), would);
    assert_eq!(told(&place, &["list"]), json!([]));
    assert_eq!(fs::read_dir(place.templates().dir().join("blobs")).unwrap().count(), 0);
    assert!(test_template().rootfs().exists(), "a link was followed");
}
