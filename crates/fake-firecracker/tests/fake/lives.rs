//! How guests boot, pause and end.

use crate::harness::{Fake, PATIENCE, Place, SILENCE, agent_at};
use aetherium_agent_client::ExecSpec;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::path::Path;
use tokio::time::timeout;

async fn up(place: &Place) -> (Fake, aetherium_agent_client::AgentClient) {
    let fake = place.plain().await;
    fake.configure(place, "quiet").await;
    fake.start().await;
    let agent = agent_at(fake.vsock());
    agent.wait_ready(PATIENCE).await.unwrap();
    (fake, agent)
}

async fn gone(pid: u32) {
    let end = async {
        while Path::new(&format!("/proc/{pid}")).exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, end).await.unwrap_or_else(|_| panic!("{pid} lives"));
}

/// All that runs below a process.
fn below(pid: u32) -> Vec<u32> {
    // One that has ended meanwhile has no children to tell of.
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().map(|it| it.parse().unwrap()).collect();
    children.iter().flat_map(|child| [vec![*child], below(*child)].concat()).collect()
}

#[tokio::test]
async fn a_killed_fake_takes_its_guest_and_all_that_ran_in_it_along() {
    let place = Place::new();
    let (mut fake, agent) = up(&place).await;
    // In a session of its own, so that it would outlive the shell.
    let daemon = ["sh", "-c", "setsid sleep 1000 & wait"];
    let _shell = agent.exec(ExecSpec::new(daemon)).await.unwrap();
    let own = fake.process.id().unwrap();
    let all = async {
        while below(own).len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all).await.expect("there is no agent, shell and sleep");
    let guest = below(own);
    fake.process.kill().await.unwrap();
    gone(guest[0]).await;
    // Process numbers of their own, and with them this, need root.
    if rustix::process::geteuid().is_root() {
        for process in guest {
            gone(process).await;
        }
    } else {
        eprintln!("SKIPPED: without root the commands of a killed fake outlive it");
        for process in guest.into_iter().skip(1) {
            let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

#[tokio::test]
async fn three_keys_end_the_guest_and_firecracker_with_it() {
    let place = Place::new();
    let (mut fake, _agent) = up(&place).await;
    fake.put("/actions", json!({"action_type": "SendCtrlAltDel"})).await;
    assert_eq!(fake.ended().await, Some(0));
    assert!(fake.console().contains("reboot: Restarting system"), "{}", fake.console());
}

#[tokio::test]
async fn an_agent_that_is_told_to_shut_down_ends_firecracker() {
    let place = Place::new();
    let (mut fake, agent) = up(&place).await;
    agent.shutdown().await.unwrap();
    assert_eq!(fake.ended().await, Some(0));
}

#[tokio::test]
async fn a_paused_guest_does_nothing_until_it_is_resumed() {
    let place = Place::new();
    let (fake, agent) = up(&place).await;
    fake.set_state("Paused").await;
    assert!(timeout(SILENCE, agent.hello()).await.is_err(), "a paused guest answers");
    let fresh = agent_at(fake.vsock());
    assert!(timeout(SILENCE, fresh.hello()).await.is_err(), "a paused guest accepts");
    fake.set_state("Resumed").await;
    timeout(PATIENCE, agent.hello()).await.unwrap().unwrap();
    timeout(PATIENCE, fresh.hello()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_guest_that_panics_ends_firecracker_with_code_0_or_hangs_as_its_arguments_say() {
    let place = Place::new();
    let mut fake = place.fake("now", &[], json!({"guest": "panics"})).await;
    fake.configure(&place, "console=ttyS0 panic=-1").await;
    fake.start().await;
    assert_eq!(fake.ended().await, Some(0));
    assert!(fake.console().contains("Kernel panic - not syncing: VFS"), "{}", fake.console());
    let mut fake = place.fake("never", &[], json!({"guest": "panics"})).await;
    fake.configure(&place, "console=ttyS0 panic=0").await;
    fake.start().await;
    assert!(timeout(SILENCE, fake.process.wait()).await.is_err());
}

#[tokio::test]
async fn pci_off_under_pci_is_a_guest_without_a_root() {
    let place = Place::new();
    let mut fake = place.fake("fc", &["--enable-pci"], json!({})).await;
    fake.configure(&place, "panic=-1 pci=off").await;
    fake.start().await;
    assert_eq!(fake.ended().await, Some(0));
    assert!(fake.console().contains("Unable to mount root fs"), "{}", fake.console());
}

#[tokio::test]
async fn a_guest_that_hangs_has_a_console_and_no_agent() {
    let place = Place::new();
    let fake = place.fake("fc", &["--enable-pci"], json!({"guest": "hangs"})).await;
    fake.configure(&place, "console=ttyS0").await;
    fake.start().await;
    assert!(fake.console().contains("[1af4:1042]"), "{}", fake.console());
    assert!(agent_at(fake.vsock()).wait_ready(SILENCE).await.is_err());
    assert_eq!(fake.state().await, "Running");
}

#[tokio::test]
async fn a_guest_that_is_up_can_lose_its_firecracker_or_stand_still() {
    let place = Place::new();
    let mut dies = place.fake("dies", &[], json!({"guest": "dies"})).await;
    dies.configure(&place, "quiet").await;
    dies.start().await;
    agent_at(dies.vsock()).wait_ready(PATIENCE).await.unwrap();
    assert_eq!(dies.ended().await, None, "by a signal");

    let fake = place.fake("freezes", &[], json!({"guest": "freezes"})).await;
    fake.configure(&place, "quiet").await;
    fake.start().await;
    let silent = async { while agent_at(fake.vsock()).wait_ready(SILENCE).await.is_ok() {} };
    timeout(PATIENCE, silent).await.expect("it still answers");
    assert_eq!(fake.state().await, "Running", "Firecracker itself goes on");
}
