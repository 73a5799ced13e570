//! Bounds on processes, by a kernel that keeps them.

use aetherium_agent_client::{
    AgentClient, ExecSpec, ExitReport, ExitStatus, ProcessLimits, collect,
};

use crate::vm::{Guest, config};

const MIB: u64 = 1024 * 1024;

async fn run(client: &AgentClient, what: &str, limits: ProcessLimits) -> ExitReport {
    let spec = ExecSpec::new(["/sbin/init", what]).limits(limits);
    let process = client.exec(spec).await.unwrap();
    collect(process, 0).await.unwrap().exit
}

#[tokio::test]
async fn a_process_past_its_limits_ends_alone_and_says_so() {
    let guest = Guest::start(&config()).await;
    let client = &guest.client;
    let memory = ProcessLimits { memory_bytes: Some(24 * MIB), ..ProcessLimits::default() };
    let exit = run(client, "eat", memory).await;
    assert_eq!(exit.status, ExitStatus::Oom, "{exit:?}");
    assert!((16 * 1024..=24 * 1024).contains(&exit.max_rss_kib), "{exit:?}");

    // The process itself is one of the four.
    let pids = ProcessLimits { pids: Some(4), ..ProcessLimits::default() };
    assert_eq!(run(client, "fork", pids).await.status, ExitStatus::Code(3));
    assert_eq!(run(client, "fork", ProcessLimits::default()).await.status, ExitStatus::Code(32));
    guest.kill().await;
}
