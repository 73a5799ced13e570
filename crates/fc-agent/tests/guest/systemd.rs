//! A distribution's own systemd as the first process, and the agent beside it.
//!
//! Its root is installed from Debian packages, which takes minutes and root's rights, so this is run by
//! hand: `cargo test -p fc-agent --test guest -- --ignored systemd`. With `AETHERIUM_TEST_SYSTEMD_ROOT`
//! it takes an archive that was made before, as [`install`] makes it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aetherium_agent_client::{ExecSpec, WriteOptions, collect};
use aetherium_agent_proto::GuestConfig;
use aetherium_agent_proto::config::{Disk, DiskSelector, FirstProcess};
use aetherium_vmm::VmmExit;

use crate::vm::{Guest, OVERLAY_SERIAL, config, succeed};

/// Ample for systemd to start everything in an emulated guest.
const BOOT: Duration = Duration::from_secs(300);
/// A unit that says on the console when it is stopped.
const UNIT: &str = "[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'echo the unit was stopped > /dev/console'
";

#[tokio::test]
#[ignore = "installs a Debian with systemd first, which takes minutes"]
async fn systemd_runs_beside_the_agent_and_stops_its_units_before_the_machine_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (root, overlay) = disks(dir.path());
    let config = GuestConfig {
        first_process: FirstProcess::Image { program: "/sbin/init".into() },
        overlay: Some(Disk::ext4(DiskSelector::Serial(OVERLAY_SERIAL.into()))),
        ..config()
    };
    let guest = Guest::boot_from(dir, &config, root, Some(overlay)).await;
    guest.answers().await;
    // What is degraded is up, with a unit that this small root has no use for.
    let up = "until [ -S /run/systemd/private ]; do sleep 0.2; done; \
              systemctl is-system-running --wait; cat /proc/1/comm";
    let up = run(&guest, up).await;
    assert!(["running\nsystemd\n", "degraded\nsystemd\n"].contains(&up.as_str()), "{up}");
    assert_eq!(run(&guest, "cat /proc/$PPID/cgroup").await, "0::/aetherium-agent\n");

    let options = WriteOptions { make_parents: true, ..WriteOptions::default() };
    let path = "/etc/systemd/system/witness.service";
    let mut unit = guest.client.files().write(path, options).await.unwrap();
    unit.write(UNIT.into()).await.unwrap();
    unit.commit().await.unwrap();
    run(&guest, "systemctl daemon-reload && systemctl start witness.service").await;
    // An init that begins anew does not take the agent, or what it runs, with it.
    let kept = guest.client.exec(ExecSpec::new(["sleep", "600"])).await.unwrap();
    run(&guest, "systemctl daemon-reexec").await;
    assert_eq!(run(&guest, "systemctl is-active witness.service").await, "active\n");
    let listed = guest.client.list().await.unwrap();
    assert!(listed.iter().any(|it| it.pid == kept.pid()), "{listed:?}");

    guest.client.shutdown().await.unwrap();
    assert_eq!(guest.end().await, VmmExit::Code(0), "{}", guest.console());
    let console = guest.console();
    let at = |what| console.find(what).unwrap_or_else(|| panic!("no `{what}` in\n{console}"));
    assert!(at("the unit was stopped") < at("Power down"), "{console}");
    assert!(!console.contains("Kernel panic"), "{console}");
    guest.kill().await;
}

/// What a shell line in the guest prints.
async fn run(guest: &Guest, line: &str) -> String {
    let process = guest.client.exec(ExecSpec::new(["sh", "-c", line])).await.unwrap();
    let Ok(output) = tokio::time::timeout(BOOT, collect(process, 64 * 1024)).await else {
        panic!("`{line}` hangs\n{}", guest.console());
    };
    let output = output.unwrap();
    assert!(output.exit.status.success(), "`{line}`: {output:?}\n{}", guest.console());
    String::from_utf8(output.stdout.to_vec()).unwrap()
}

/// The root with systemd, and an empty overlay.
fn disks(dir: &Path) -> (PathBuf, PathBuf) {
    let archive = env::var_os("AETHERIUM_TEST_SYSTEMD_ROOT")
        .map_or_else(|| install(&dir.join("root.tar")), PathBuf::from);
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--numeric-owner", "--exclude=./dev/*", "--file"]).arg(&archive);
    succeed(unpack.arg("--directory").arg(&tree));
    let (root, overlay) = (dir.join("root.ext4"), dir.join("overlay.ext4"));
    succeed(Command::new("mkfs.ext4").args(["-q", "-d"]).args([&tree, &root]).arg("512M"));
    succeed(Command::new("mkfs.ext4").arg("-q").arg(&overlay).arg("256M"));
    (root, overlay)
}

/// Installs the host's distribution with systemd.
fn install(archive: &Path) -> PathBuf {
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--variant=minbase", "--include=systemd-sysv"]);
    succeed(bootstrap.arg(suite.expect("a distribution with a codename")).arg(archive));
    archive.to_owned()
}
