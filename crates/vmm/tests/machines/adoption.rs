//! A later life of the host process finds its VMs again, and never mistakes another process for one.

use crate::guest::{Host, PATIENCE, exists, from_journal};
use aetherium_model::VmId;
use aetherium_vmm::{Footprint, ProcessRef, Role, Vmm, VmmExit, strays};
use std::process::{Child, Command};

#[tokio::test]
async fn a_vm_whose_machine_was_dropped_lives_on_and_is_adopted() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let footprint = from_journal(machine.footprint());
    drop(machine);
    assert!(exists(footprint.processes[0].pid), "dropping a machine ended its VMM");

    let adopted = host.qemu().adopt(footprint.clone()).await.unwrap().expect("it lives");
    assert_eq!(*adopted.footprint(), footprint);
    adopted.kill(PATIENCE).await.unwrap();
    assert_eq!(adopted.wait().await, VmmExit::Signal(9));
    assert!(!exists(footprint.processes[0].pid));
    assert!(host.qemu().adopt(footprint).await.unwrap().is_none(), "it is gone");
}

#[tokio::test]
async fn adopting_a_vm_that_has_ended_removes_what_it_left() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let footprint = from_journal(machine.footprint());
    let pid = rustix::process::Pid::from_raw(footprint.processes[0].pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    machine.wait().await;
    drop(machine);
    assert!(footprint.sockets.iter().any(|socket| socket.exists()));
    assert!(host.qemu().adopt(footprint.clone()).await.unwrap().is_none());
    assert!(footprint.sockets.iter().all(|socket| !socket.exists()));
}

#[tokio::test]
async fn a_process_that_got_a_recycled_number_is_neither_adopted_nor_killed() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let real = from_journal(machine.footprint());
    machine.kill(PATIENCE).await.unwrap();

    let bystander = Bystander::start(&[]);
    let later_start = ProcessRef { start_ticks: 1, ..bystander.process() };
    for process in [later_start, bystander.process()] {
        let footprint = Footprint { processes: vec![process], ..real.clone() };
        assert!(host.qemu().adopt(footprint).await.unwrap().is_none(), "{process:?}");
        assert!(bystander.lives(), "a bystander was killed for {process:?}");
    }
}

#[tokio::test]
async fn a_process_of_another_vm_is_not_adopted() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let other = VmId::new().to_string();
    let bystander = Bystander::start(&[("AETHERIUM_VM", &other)]);
    let footprint =
        Footprint { processes: vec![bystander.process()], ..from_journal(machine.footprint()) };
    machine.kill(PATIENCE).await.unwrap();
    assert!(host.qemu().adopt(footprint).await.unwrap().is_none());
    assert!(bystander.lives());
}

#[tokio::test]
async fn strays_are_found_by_their_marks_and_killed() {
    let host = Host::new();
    let machine = host.launch("mute").await;
    let footprint = machine.footprint().clone();
    assert_eq!(strays(&host.path().join("elsewhere")).unwrap(), []);

    let found = strays(host.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].vm_id, footprint.vm_id);
    assert_eq!(found[0].processes, footprint.processes);
    // Somebody must reap the VMM, as the init of a host does for a stray.
    let (killed, _) = tokio::join!(found[0].kill(PATIENCE), machine.wait());
    killed.unwrap();
    assert_eq!(strays(host.path()).unwrap(), []);
}

/// A process that is none of ours.
struct Bystander(std::sync::Mutex<Child>);

impl Bystander {
    fn start(env: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").envs(env.iter().copied());
        Self(std::sync::Mutex::new(command.spawn().unwrap()))
    }

    fn process(&self) -> ProcessRef {
        let pid = self.0.lock().unwrap().id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
        ProcessRef { role: Role::Vmm, pid, start_ticks: start_ticks.parse().unwrap() }
    }

    fn lives(&self) -> bool {
        self.0.lock().unwrap().try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let child = self.0.get_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
