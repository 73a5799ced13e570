//! Who is PID 1, and what becomes of the agent then.

use aetherium_agent_client::ExecSpec;
use aetherium_agent_proto::GuestConfig;
use aetherium_agent_proto::config::{FirstProcess, OnFatal};
use aetherium_agent_proto::files::ByteRange;
use aetherium_vmm::VmmExit;

use crate::vm::{Guest, config};

async fn read(guest: &Guest, path: &str) -> String {
    let mut reader = guest.client.files().read(path, ByteRange::default()).await.unwrap();
    let mut content = Vec::new();
    while let Some(data) = reader.next().await.unwrap() {
        content.extend_from_slice(&data);
    }
    String::from_utf8(content).unwrap()
}

fn handed_over_to(program: &str) -> FirstProcess {
    FirstProcess::Image { program: program.into() }
}

#[tokio::test]
async fn an_images_own_init_becomes_the_first_process_and_the_agent_serves_on() {
    let config = GuestConfig { first_process: handed_over_to("/sbin/init"), ..config() };
    let guest = Guest::start(&config).await;
    let hello = guest.client.hello().await.unwrap();
    assert!(!hello.is_init);
    assert_eq!(read(&guest, "/proc/1/cmdline").await, "/sbin/init\0");
    assert_eq!(read(&guest, "/proc/self/cgroup").await, "0::/aetherium-agent\n");
    // What the agent runs lives; what it asks of the machine is still done.
    let process = guest.client.exec(ExecSpec::new(["/sbin/init", "sleep"])).await.unwrap();
    assert_eq!(guest.client.list().await.unwrap()[0].pid, process.pid());
    guest.client.system().reseed(&[7; 64]).await.unwrap();
    guest.client.shutdown().await.unwrap();
    assert_eq!(guest.end().await, VmmExit::Code(0), "{}", guest.console());
    assert!(guest.console().contains("the image's init runs"), "{}", guest.console());
    guest.kill().await;
}

#[tokio::test]
async fn an_init_that_is_not_there_is_named_and_the_guest_ends() {
    let config = GuestConfig { first_process: handed_over_to("/sbin/none"), ..config() };
    let guest = Guest::boot(&config).await;
    assert_eq!(guest.end().await, VmmExit::Code(0));
    let console = guest.console();
    assert!(console.contains("fatal code=hand_over_failed"), "{console}");
    assert!(console.contains("`/sbin/none` is not there"), "{console}");
    guest.kill().await;
}

#[tokio::test]
async fn a_boot_that_cannot_go_on_is_held_when_that_is_wanted() {
    let config =
        GuestConfig { first_process: handed_over_to("/etc"), on_fatal: OnFatal::Hold, ..config() };
    let guest = Guest::boot(&config).await;
    let said = async {
        while !guest.console().contains("fatal code=hand_over_failed") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::vm::PATIENCE, said).await.expect("the guest says why");
    // Alive: an ended guest has ended its VMM, and a panicked kernel says so.
    assert!(!guest.console().contains("Kernel panic"), "{}", guest.console());
    let ends = tokio::time::timeout(std::time::Duration::from_secs(1), guest.end());
    assert!(ends.await.is_err(), "it was to be held");
    guest.kill().await;
}
