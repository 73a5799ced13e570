//! Many connections, ended VMs, ended agents.

use std::time::{Duration, Instant};

use aetherium_agent_client::{AgentError, ExecSpec, ProcessEvent};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::harness::{Agent, TOKEN, client, eventually, lives, story};

#[test]
fn ten_thousand_quick_connects_leave_the_agent_small_and_answering() {
    let agent = Agent::start();
    story(async {
        let mut open = std::collections::VecDeque::new();
        for _ in 0..10_000 {
            open.push_back(TcpStream::connect(agent.tcp).await.unwrap());
            if open.len() > 400 {
                open.pop_front();
            }
        }
        // With the silent ones still there, the host gets in.
        let began = Instant::now();
        client(vec![agent.tcp_endpoint(TOKEN)]).hello().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(agent.rss_kib() < 24 * 1024, "{} KiB", agent.rss_kib());
        let fds = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
        assert!(fds < 300, "{fds} descriptors");
    });
}

#[test]
fn a_silent_caller_is_hung_up_on() {
    let agent = Agent::start();
    story(async {
        let mut silent = TcpStream::connect(agent.tcp).await.unwrap();
        let mut nothing = [0; 1];
        assert_eq!(silent.read(&mut nothing).await.unwrap_or(0), 0);
    });
}

#[test]
fn the_end_of_a_vm_ends_every_call_with_its_reason() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(ExecSpec::new(["sleep", "600"])).await.unwrap();
        let closing = async {
            tokio::task::yield_now().await;
            client.close("the VMM was killed");
            client.close("a later reason");
        };
        let (event, ()) = tokio::join!(process.next(), closing);
        for error in [event.unwrap_err(), client.hello().await.unwrap_err()] {
            assert!(error.to_string().contains("the VMM was killed"), "{error}");
            assert_eq!(error.code(), "vm_ended");
        }
    });
}

#[test]
fn a_frozen_agent_is_noticed_within_five_seconds() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(ExecSpec::new(["sleep", "600"])).await.unwrap();
        let signal = |name: &str| {
            let pid = agent.pid().to_string();
            std::process::Command::new("kill").args([name, &pid]).status().unwrap();
        };
        signal("-STOP");
        let began = Instant::now();
        let error = process.next().await.unwrap_err();
        signal("-CONT");
        assert!(matches!(error, AgentError::ConnectionLost { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
}

#[test]
fn shutdown_ends_every_process_and_tells_how() {
    let mut agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(ExecSpec::new(["sleep", "600"])).await.unwrap();
        client.shutdown().await.unwrap();
        let pid = process.pid();
        match process.next().await.unwrap() {
            Some(ProcessEvent::Exited(report)) => assert_eq!(report.status.shell_code(), 143),
            other => panic!("{other:?}"),
        }
        assert_eq!(agent.wait().await, 0);
        assert!(!lives(pid));
    });
}

#[test]
fn a_term_signal_ends_the_agent_and_what_it_runs() {
    let mut agent = Agent::start();
    story(async {
        let process = agent.unix().exec(ExecSpec::new(["sleep", "600"])).await.unwrap();
        let pid = agent.pid().to_string();
        std::process::Command::new("kill").arg(&pid).status().unwrap();
        assert_eq!(agent.wait().await, 0);
        eventually(|| (!lives(process.pid())).then_some(())).await;
    });
}
