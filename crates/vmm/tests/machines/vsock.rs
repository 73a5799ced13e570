//! The virtio socket: had when its helper is there, and never missed when it is not.

use crate::{
    failures::program,
    guest::{Host, PATIENCE, tcp, vsock_helper},
};
use aetherium_vmm::{AgentAddress, Footprint, Role, Vmm, VsockChoice};
use std::{
    io::{ErrorKind, Write},
    os::unix::net::UnixStream,
};

fn vsock(footprint: &Footprint) -> Option<&AgentAddress> {
    footprint.agent.iter().find(|it| matches!(it, AgentAddress::Vsock { .. }))
}

#[tokio::test]
async fn without_a_helper_a_vm_has_tcp_alone() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    assert_eq!(vsock(machine.footprint()), None);
    tcp(machine.footprint());
    machine.kill(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_helper_that_fails_costs_the_vsock_and_not_the_vm() {
    let mut host = Host::new();
    host.config.vsock_helper = Some(program(&host, "helper", "echo cannot >&2; exit 7"));
    let machine = host.launch("mute").await;
    assert_eq!(vsock(machine.footprint()), None);
    assert_eq!(machine.footprint().processes.len(), 1);
    let log = std::fs::read_to_string(&machine.footprint().vmm_log).unwrap();
    assert!(log.contains("cannot"), "{log}");
    machine.kill(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn with_its_helper_a_vm_has_a_vsock_first_and_both_end_together() {
    let mut host = Host::new();
    host.config.vsock_helper = Some(vsock_helper());
    let mut spec = host.spec("mute");
    let machine = host.qemu().launch(&spec).await.unwrap();
    let footprint = machine.footprint().clone();
    let roles: Vec<Role> = footprint.processes.iter().map(|it| it.role).collect();
    assert_eq!(roles, [Role::Vmm, Role::VsockHelper]);
    let AgentAddress::Vsock { uds, port } = &footprint.agent[0] else {
        panic!("the vsock comes first: {:?}", footprint.agent)
    };
    // No agent listens in this guest, so that the connection is taken and then closed.
    let mut stream = UnixStream::connect(uds).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.write_all(format!("CONNECT {port}\n").as_bytes()) {
        Ok(()) => {}
        // It may be closed before it has said what it wants.
        Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe),
    }
    drop(stream);

    let adopted = host.qemu().adopt(footprint.clone()).await.unwrap().unwrap();
    assert_eq!(*adopted.footprint(), footprint);
    adopted.kill(PATIENCE).await.unwrap();
    assert_eq!(host.marked(), []);
    assert!(footprint.sockets.iter().all(|socket| !socket.exists()));

    spec.vsock = VsockChoice::Off;
    let without = host.qemu().launch(&spec).await.unwrap();
    assert_eq!(vsock(without.footprint()), None);
    without.kill(PATIENCE).await.unwrap();
}
