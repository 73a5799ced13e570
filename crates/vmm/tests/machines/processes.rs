//! The process driver, with a shell script for an agent.

use crate::{
    failures::program,
    guest::{Host, PATIENCE, from_journal},
};
use aetherium_vmm::{AgentAddress, AgentProcess, Boot, LaunchSpec, Machine, Vmm, VmmExit};
use std::{fs, path::Path, sync::Arc};

fn spec(host: &Host, script: &str) -> LaunchSpec {
    let token_file = host.path().join("token");
    fs::write(&token_file, "0123456789abcdef").unwrap();
    host.spec_of(Boot::Agent { binary: program(host, "agent", script), token_file })
}

async fn console_says(machine: &Arc<dyn Machine>, text: &str) {
    let console = &machine.footprint().console;
    let said = async {
        while !fs::read_to_string(console).unwrap().contains(text) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap();
}

#[tokio::test]
async fn the_agent_is_told_its_socket_and_token_and_sees_no_other_environment() {
    let host = Host::new();
    let spec = spec(&host, "echo \"$@\"; env | cut -d= -f1 | sort | tr '\\n' ' '; exit 4");
    let machine = AgentProcess::new(&host.config).launch(&spec).await.unwrap();
    assert_eq!(machine.wait().await, VmmExit::Code(4));
    let console = fs::read_to_string(&machine.footprint().console).unwrap();
    let (run_dir, token) = (spec.run_dir.display(), host.path().join("token"));
    let args = format!("--listen unix:{run_dir}/agent.sock --token-file {}", token.display());
    assert!(console.contains(&args), "{console}");
    assert!(!console.contains("CARGO"), "{console}");
    let socket = spec.run_dir.join("agent.sock");
    assert_eq!(machine.footprint().agent, [AgentAddress::Unix { path: socket }]);
}

#[tokio::test]
async fn killing_it_ends_its_session_its_descendants_and_whatever_carries_its_mark() {
    let host = Host::new();
    // A child of the session, one in a session of its own, and one that hides its mark too.
    // The last is known by how long it sleeps, as nothing else ties it to its VM.
    let hidden = format!("/bin/sleep {}", 100_000 + std::process::id());
    let script = format!(
        "sleep 600 & setsid sleep 601 &
        setsid env -i /bin/sh -c 'echo hidden; exec {hidden}' & wait"
    );
    let machine = AgentProcess::new(&host.config).launch(&spec(&host, &script)).await.unwrap();
    console_says(&machine, "hidden").await;
    machine.kill(PATIENCE).await.unwrap();
    assert_eq!(host.marked(), []);
    assert_eq!(sleepers(machine.footprint().processes[0].pid, &hidden), Vec::<String>::new());
}

#[tokio::test]
async fn it_is_adopted_like_any_vm() {
    let host = Host::new();
    let driver = AgentProcess::new(&host.config);
    let machine = driver.launch(&spec(&host, "exec sleep 600")).await.unwrap();
    let footprint = from_journal(machine.footprint());
    drop(machine);
    let adopted = driver.adopt(footprint.clone()).await.unwrap().expect("it lives");
    assert!(host.qemu().adopt(footprint).await.is_err(), "a driver adopts only its own");
    adopted.kill(PATIENCE).await.unwrap();
    assert_eq!(host.marked(), []);
}

#[tokio::test]
async fn one_whose_machine_was_dropped_is_ended_as_a_stray_and_leaves_no_zombie() {
    let host = Host::new();
    let machine =
        AgentProcess::new(&host.config).launch(&spec(&host, "exec sleep 600")).await.unwrap();
    let pid = machine.footprint().processes[0].pid;
    drop(machine);
    let strays = aetherium_vmm::strays(host.path()).unwrap();
    assert_eq!(strays.len(), 1, "{strays:?}");
    strays[0].kill(PATIENCE).await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "nobody reaped it");
}

/// Command lines of the living processes of `leader`'s session, and of those that are `hidden`.
fn sleepers(leader: u32, hidden: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let ours = fields[3] == leader.to_string() || line.trim_end() == hidden;
        if ours && fields[0] != "Z" {
            found.push(line);
        }
    }
    found
}
