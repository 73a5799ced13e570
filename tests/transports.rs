//! The agent is reached over vsock where it can be had, and over TCP where it cannot, at once.

use crate::world::{Place, Server, assets, id};
use aetherium_model::resources::DriverKind;
use serde_json::json;

fn helper_exists() -> bool {
    let helper = assets().join("tools/bin/vhost-device-vsock");
    assert!(helper.exists(), "{} is missing: run `make assets`", helper.display());
    true
}

#[tokio::test]
async fn with_vsock_in_the_guest_the_agent_is_reached_over_it() {
    assert!(helper_exists());
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let mut vm = server.vm(json!({})).await;
    // Both ways are tried, the vsock a little sooner: on a busy machine it can lose a race, but not all.
    for _ in 0..3 {
        if vm["agent_transport"] == "vsock" {
            break;
        }
        vm = server.vm(json!({})).await;
    }
    assert_eq!(vm["agent_transport"], "vsock", "{vm:#}\n{}", server.log());
    let ran =
        server.post(&format!("/vms/{}/execute", id(&vm)), json!({ "argv": ["echo", "hi"] })).await;
    assert_eq!(ran["stdout"], "hi\n");
    // QEMU cannot save what carries it.
    let (path, body) = (format!("/vms/{}/snapshot", id(&vm)), json!({ "name": "warm" }));
    let (status, problem) = server.call(reqwest::Method::POST, &path, Some(body)).await;
    assert_eq!(status, 409, "{problem:#}");
    assert!(problem.to_string().contains("snapshots `full`"), "{problem:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_guest_that_cannot_load_vsock_is_reached_over_tcp() {
    assert!(helper_exists());
    let place = Place::new();
    place.template("novsock", |manifest| {
        manifest["kernel"]["extra_args"] =
            json!(["module_blacklist=vsock,vmw_vsock_virtio_transport"]);
    });
    let server = Server::start(&place, DriverKind::Qemu).await;
    let vm = server.vm(json!({ "template": "novsock" })).await;
    assert_eq!(vm["agent_transport"], "tcp", "{vm:#}\n{}", server.log());
    let ran =
        server.post(&format!("/vms/{}/execute", id(&vm)), json!({ "argv": ["echo", "hi"] })).await;
    assert_eq!(ran["stdout"], "hi\n");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn without_the_helper_on_the_host_a_vm_does_with_tcp() {
    let place = Place::new();
    let server = Server::start_with(&place, DriverKind::Qemu, &["--no-vsock"]).await;
    let vm = server.vm(json!({})).await;
    assert_eq!(vm["agent_transport"], "tcp", "{vm:#}\n{}", server.log());
    server.stop().await;
    place.assert_no_vm_is_left();
}
