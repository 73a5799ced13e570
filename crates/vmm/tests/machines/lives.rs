//! VMs that boot, run and end.

use crate::guest::{Host, PATIENCE, QEMU, end_of, exists, tcp};
use aetherium_vmm::{Accelerator, Machine, Vmm, VmmExit};
use std::{fs, net::TcpStream, sync::Arc};

#[tokio::test]
async fn a_guest_boots_prints_on_its_console_and_ends_its_vmm() {
    let host = Host::new();
    let machine = host.launch("probe").await;
    let footprint = machine.footprint().clone();
    assert_eq!((footprint.driver, footprint.accelerator), (QEMU, Accelerator::Tcg));
    assert_eq!(end_of(&*machine).await, VmmExit::Code(0));
    let console = fs::read_to_string(&footprint.console).unwrap();
    assert!(console.contains("aetherium-init: probe"), "{console}");
    machine.kill(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn many_may_wait_and_all_get_the_same_answer() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let machine: Arc<dyn Machine> = Arc::clone(&machine);
            tokio::spawn(async move { machine.wait().await })
        })
        .collect();
    waiters[0].abort();
    tokio::task::yield_now().await;
    machine.kill(PATIENCE).await.unwrap();
    for waiter in waiters.into_iter().skip(1) {
        assert_eq!(waiter.await.unwrap(), VmmExit::Signal(9));
    }
    assert_eq!(machine.wait().await, VmmExit::Signal(9));
}

#[tokio::test]
async fn a_killed_machine_leaves_no_process_no_zombie_no_socket_and_no_descriptor() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let footprint = machine.footprint().clone();
    let pid = footprint.processes[0].pid;
    assert!(exists(pid) && !footprint.sockets.is_empty());
    assert!(footprint.sockets.iter().all(|socket| socket.exists()), "{:?}", footprint.sockets);

    machine.kill(PATIENCE).await.unwrap();
    assert!(!exists(pid), "process {pid} is still there, if only as a zombie");
    assert!(footprint.sockets.iter().all(|socket| !socket.exists()), "{:?}", footprint.sockets);
    assert!(footprint.console.exists() && footprint.vmm_log.exists(), "the logs stay");
    machine.kill(PATIENCE).await.expect("killing twice is harmless");

    drop(machine);
    assert_eq!(sockets_named(&footprint.sockets[0]), 0, "the monitor's descriptor is still open");
}

#[tokio::test]
async fn two_guests_see_the_same_address_behind_ports_of_their_own() {
    let host = Host::new();
    let (one, other) = tokio::join!(host.launch("mute"), host.launch("mute"));
    let (here, there) = (tcp(one.footprint()), tcp(other.footprint()));
    assert_ne!(here, there);
    for address in [here, there] {
        assert!(address.ip().is_loopback() && address.port() != 0);
        TcpStream::connect(address).expect("the VMM listens on the forwarded port");
    }
    one.kill(PATIENCE).await.unwrap();
    assert!(TcpStream::connect(here).is_err(), "the port outlives its VM");
    TcpStream::connect(there).expect("the other VM's port is its own");
    other.kill(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_abandoned_launch_leaves_no_process() {
    let host = Host::new();
    let spec = host.spec("mute");
    let qemu = host.qemu();
    qemu.preflight().await;
    let launch = qemu.launch(&spec);
    let until_spawned = async {
        while host.marked().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = until_spawned => {}
        _ = launch => panic!("the launch was over before its process was seen"),
    }
    assert_eq!(host.marked(), []);
}

/// How many of this process's descriptors are the socket bound at `path`.
fn sockets_named(path: &std::path::Path) -> usize {
    let table = fs::read_to_string("/proc/self/net/unix").unwrap();
    table.lines().filter(|line| line.ends_with(&*path.to_string_lossy())).count()
}
