//! Which calls are taken when, and what is said of the others.

use crate::harness::{PATIENCE, Place, agent_at};
use http::Method;
use serde_json::{Value, json};

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const AFTER: &str = "The requested operation is not supported after starting the microVM.";

#[tokio::test]
async fn an_instance_tells_who_it_is_and_how_it_stands() {
    let place = Place::new();
    let fake = place.fake("fc", &[], json!({"version": "1.14.2"})).await;
    let expected = json!({
        "app_name": "Firecracker", "id": "fc", "state": "Not started", "vmm_version": "1.14.2",
    });
    assert_eq!(fake.get("/").await, expected);
    assert_eq!(fake.get("/version").await, json!({"firecracker_version": "1.14.2"}));
    fake.configure(&place, "quiet").await;
    fake.start().await;
    assert_eq!(fake.state().await, "Running");
    fake.set_state("Paused").await;
    assert_eq!(fake.state().await, "Paused");
    // What is so already is answered alike.
    for _ in 0..2 {
        fake.set_state("Resumed").await;
        assert_eq!(fake.state().await, "Running");
    }
}

#[tokio::test]
async fn what_needs_a_running_guest_is_refused_before_it_runs() {
    let place = Place::new();
    let fake = place.plain().await;
    for (method, path, body) in [
        (Method::PATCH, "/vm", json!({"state": "Paused"})),
        (Method::PUT, "/actions", json!({"action_type": "SendCtrlAltDel"})),
        (Method::PATCH, "/balloon", json!({"amount_mib": 1})),
        (Method::PATCH, "/drives/root", json!({"drive_id": "root"})),
        (Method::PUT, "/snapshot/create", json!({"mem_file_path": "m", "snapshot_path": "s"})),
    ] {
        assert_eq!(fake.refused(method, path, body).await, BEFORE, "{path}");
    }
    let no_kernel =
        fake.refused(Method::PUT, "/actions", json!({"action_type": "InstanceStart"})).await;
    let expected = "Start microvm error: Cannot start microvm without kernel configuration.";
    assert_eq!(no_kernel, expected);
}

#[tokio::test]
async fn what_configures_a_guest_is_refused_once_it_runs() {
    let place = Place::new();
    let fake = place.plain().await;
    fake.configure(&place, "quiet").await;
    fake.start().await;
    for (path, body) in [
        ("/actions", json!({"action_type": "InstanceStart"})),
        ("/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 128})),
        ("/boot-source", json!({"kernel_image_path": "k"})),
        ("/vsock", json!({"guest_cid": 3, "uds_path": "v"})),
        ("/logger", json!({})),
        ("/snapshot/load", json!({"mem_file_path": "m", "snapshot_path": "s"})),
    ] {
        assert_eq!(fake.refused(Method::PUT, path, body).await, AFTER, "{path}");
    }
}

#[tokio::test]
async fn devices_are_plugged_in_later_since_1_16_and_only_into_pci() {
    let place = Place::new();
    let drive = json!({
        "drive_id": "more", "is_root_device": false, "is_read_only": true,
        "path_on_host": place.path("disk"),
    });
    for (name, version, args, expected) in [
        ("a", "1.15.1", &["--enable-pci"][..], Some(AFTER)),
        ("b", "1.16.1", &[][..], Some("PCI is not enabled")),
        ("c", "1.16.1", &["--enable-pci"][..], None),
    ] {
        let fake = place.fake(name, args, json!({ "version": version })).await;
        fake.configure(&place, "quiet").await;
        fake.start().await;
        let (_, answer) = fake.call(Method::PUT, "/drives/more", Some(drive.clone())).await;
        assert_eq!(answer["fault_message"].as_str(), expected, "{version} {args:?}");
    }
}

#[tokio::test]
async fn files_that_are_not_there_are_named_by_the_call_that_gave_them() {
    let place = Place::new();
    let fake = place.plain().await;
    let gone = place.path("gone");
    let said = fake.refused(Method::PUT, "/boot-source", json!({"kernel_image_path": gone})).await;
    let expected = "Boot source error: The kernel file cannot be opened: \
                    No such file or directory (os error 2)";
    assert_eq!(said, expected);
    let drive = json!({
        "drive_id": "d", "is_root_device": false, "is_read_only": false, "path_on_host": gone,
    });
    let said = fake.refused(Method::PUT, "/drives/d", drive).await;
    assert!(said.starts_with("Drive config error: ") && said.contains("/gone"), "{said}");
    std::fs::write(fake.vsock(), "").unwrap();
    let vsock = json!({"guest_cid": 3, "uds_path": fake.vsock()});
    let said = fake.refused(Method::PUT, "/vsock", vsock).await;
    assert!(
        said.ends_with("Unix socket: Address in use (os error 98)")
            || said.ends_with("Address already in use (os error 98)"),
        "{said}"
    );
}

#[tokio::test]
async fn a_second_root_and_impossible_sizes_are_refused() {
    let place = Place::new();
    let fake = place.plain().await;
    fake.configure(&place, "quiet").await;
    let second = json!({
        "drive_id": "second", "is_root_device": true, "is_read_only": true,
        "path_on_host": place.path("disk"),
    });
    let said = fake.refused(Method::PUT, "/drives/second", second).await;
    assert_eq!(said, "Drive config error: A root block device already exists!");
    for machine in [
        json!({"vcpu_count": 0, "mem_size_mib": 128}),
        json!({"vcpu_count": 33, "mem_size_mib": 128}),
        json!({"vcpu_count": 3, "mem_size_mib": 128, "smt": true}),
        json!({"vcpu_count": 1, "mem_size_mib": 0}),
        json!({"vcpu_count": 1, "mem_size_mib": 129, "huge_pages": "2M"}),
    ] {
        let said = fake.refused(Method::PUT, "/machine-config", machine.clone()).await;
        assert!(said.starts_with("Machine config error: The "), "{machine}: {said}");
    }
    fake.put("/machine-config", json!({"vcpu_count": 2, "mem_size_mib": 256})).await;
    fake.patch("/machine-config", json!({"mem_size_mib": 512})).await;
    let machine = fake.get("/machine-config").await;
    assert_eq!((&machine["vcpu_count"], &machine["mem_size_mib"]), (&json!(2), &json!(512)));
}

#[tokio::test]
async fn a_bzimage_is_no_kernel_up_to_1_16_1() {
    let place = Place::new();
    for (name, version, starts) in [("old", "1.16.1", false), ("new", "1.17.0", true)] {
        let fake = place.fake(name, &[], json!({ "version": version })).await;
        let kernel = json!({"kernel_image_path": place.path("bzImage"), "boot_args": "quiet"});
        fake.put("/boot-source", kernel).await;
        let start = json!({"action_type": "InstanceStart"});
        let (status, said) = fake.call(Method::PUT, "/actions", Some(start)).await;
        assert_eq!(status == 204, starts, "{version}: {said}");
    }
}

#[tokio::test]
async fn unknown_paths_methods_and_fields_are_answered_400() {
    let place = Place::new();
    let fake = place.plain().await;
    let said = fake.refused(Method::PUT, "/nonsense/at/all", json!({})).await;
    assert_eq!(said, "Invalid request method and/or path: PUT nonsense.");
    let said = fake.refused(Method::PUT, "/vsock", json!({"guest_cid": 3, "uds": "v"})).await;
    assert!(said.contains("unknown field `uds`"), "{said}");
    let said = fake.refused(Method::PUT, "/actions", json!({"action_type": "Halt"})).await;
    assert!(said.contains("unknown variant `Halt`"), "{said}");
    assert_eq!(
        fake.call(Method::PUT, "/vsock", None).await.1["fault_message"],
        "Empty PUT request."
    );
}

#[tokio::test]
async fn the_command_line_is_firecrackers() {
    let place = Place::new();
    let output = place.program("fc", json!({"version": "1.9.1"})).arg("--version").output().await;
    let printed = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(printed.starts_with("Firecracker v1.9.1\n\n"), "{printed}");
    assert!(printed.ends_with("Firecracker exiting successfully. exit_code=0\n"), "{printed}");
    for (args, code, says) in [
        (&["--enable-pci"][..], 153, "UnexpectedArgument"),
        // Until 1.14 the log must be there beforehand.
        (&["--log-path", "missing.log"][..], 1, "LoggerInitialization"),
        (&["--api-sock", "taken"][..], 1, "FailedToBindSocket"),
    ] {
        std::fs::write(place.path("taken"), "").unwrap();
        let output =
            place.program("fc", json!({"version": "1.9.1"})).args(args).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let fake = place.fake("new", &["--log-path", "made.log"], json!({})).await;
    let log = std::fs::read_to_string(place.path("made.log")).unwrap();
    assert!(log.contains("Running Firecracker v1.16.1"), "{log}");
    drop(fake);
}

#[tokio::test]
async fn balloons_are_updated_within_what_they_were_made_with() {
    let place = Place::new();
    let fake = place.plain().await;
    fake.configure(&place, "quiet").await;
    fake.put("/balloon", json!({"amount_mib": 0, "deflate_on_oom": true})).await;
    fake.start().await;
    agent_at(fake.vsock()).wait_ready(PATIENCE).await.unwrap();
    fake.patch("/balloon", json!({"amount_mib": 64})).await;
    assert_eq!(fake.get("/balloon").await["amount_mib"], 64);
    let said = fake.refused(Method::PATCH, "/balloon", json!({"amount_mib": 1000})).await;
    assert_eq!(said, "Balloon update error: Balloon: Requested memory should be less than 128MiB");
    let (status, said) = fake.call(Method::GET, "/balloon/statistics", None).await;
    assert_eq!(status, 400, "{said}");
    let stats = json!({"stats_polling_interval_s": 1});
    let said = fake.refused(Method::PATCH, "/balloon/statistics", stats).await;
    assert!(said.contains("Statistics cannot be enabled/disabled"), "{said}");
    assert_eq!(fake.get("/vm/config").await["boot-source"]["boot_args"], Value::from("quiet"));
}

#[tokio::test]
async fn metrics_are_written_when_they_are_asked_for() {
    let place = Place::new();
    let fake = place.fake("fc", &["--metrics-path", "metrics"], json!({})).await;
    let said = fake.refused(Method::PUT, "/metrics", json!({"metrics_path": "metrics"})).await;
    assert!(said.contains("Reinitialization of metrics not allowed"), "{said}");
    fake.configure(&place, "quiet").await;
    fake.start().await;
    fake.put("/actions", json!({"action_type": "FlushMetrics"})).await;
    let text = std::fs::read_to_string(place.path("metrics")).unwrap();
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert!(line["utc_timestamp_ms"].is_u64(), "{line}");
}
