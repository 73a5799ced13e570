//! What breaks: agents killed, connections cut, forks refused, readers that never read.

use std::time::{Duration, Instant};

use aetherium_agent_client::{
    AgentError, ExecSpec, ExitStatus, Process, ProcessEvent, Role, SpawnErrorKind,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::harness::{Agent, Proxy, TOKEN, client, eventually, finish, lives, story};

fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

/// Waits until the agent has given back all it took for callers that are gone.
async fn all_is_given_back(agent: &Agent, descriptors: usize) {
    eventually(|| (agent.descriptors() <= descriptors).then_some(())).await;
    assert_eq!(agent.unix().list().await.unwrap(), []);
}

#[test]
fn an_agent_killed_mid_exec_ends_every_waiting_call_at_once() {
    let mut agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(sh("exec sleep 600").with_stdin()).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        let mut viewer = client.attach(process.pid(), None, Role::Viewer).await.unwrap();
        let waiting = client.wait(process.pid());
        let writing = async {
            loop {
                stdin.write(Bytes::from(vec![0; 100_000])).await?;
            }
        };
        let began = Instant::now();
        let killing = async {
            client.hello().await.unwrap();
            agent.kill();
        };
        let (event, seen, waited, written, ()) =
            tokio::join!(process.next(), viewer.next(), waiting, writing, killing);
        let written: Result<(), AgentError> = written;
        for error in [event.unwrap_err(), seen.unwrap_err(), waited.unwrap_err()] {
            let code = error.code();
            assert!(code == "agent_connection_lost" || code == "agent_unreachable", "{error}");
        }
        written.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // Nobody is left to end it.
        let group = format!("-{}", process.pid());
        std::process::Command::new("kill").args(["-9", "--", &group]).status().unwrap();
    });
}

#[test]
fn a_connection_cut_anywhere_ends_in_an_answer_and_leaves_nothing_behind() {
    let agent = Agent::start();
    story(async {
        let session = async |proxy: &Proxy| -> Result<ExitStatus, AgentError> {
            let mut process = proxy.client().exec(sh("cat; exit 3").with_stdin()).await?;
            let mut stdin = process.stdin().unwrap();
            stdin.write(Bytes::from_static(b"hello")).await?;
            stdin.close().await?;
            loop {
                match process.next().await? {
                    Some(ProcessEvent::Exited(report)) => return Ok(report.status),
                    Some(_) => {}
                    None => panic!("an end without an exit"),
                }
            }
        };
        agent.unix().hello().await.unwrap();
        let descriptors = agent.descriptors();
        let whole = Proxy::start(&agent);
        assert_eq!(Box::pin(session(&whole)).await.unwrap(), ExitStatus::Code(3));
        let bytes = whole.passed();
        assert!((200..5_000).contains(&bytes), "{bytes}");
        let (mut answered, mut failed) = (0, 0);
        for cut_after in 1..bytes {
            let proxy = Proxy::cut_after(&agent, cut_after);
            match tokio::time::timeout(Duration::from_secs(5), Box::pin(session(&proxy))).await {
                Ok(Ok(status)) => {
                    assert_eq!(status, ExitStatus::Code(3), "after {cut_after} bytes");
                    answered += 1;
                }
                Ok(Err(_)) => failed += 1,
                Err(_) => panic!("cut after {cut_after} bytes it hung"),
            }
        }
        assert!(failed > answered, "{failed} failed, {answered} came through");
        all_is_given_back(&agent, descriptors).await;
    });
}

#[test]
fn half_open_and_half_closed_connections_are_let_go() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        client.hello().await.unwrap();
        let descriptors = agent.descriptors();
        let mut callers = Vec::new();
        for start in [
            &b""[..],
            b"PRI * HT",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"{\"cmd\":",
            b"\x16\x03\x01",
        ] {
            let mut caller = UnixStream::connect(agent.socket()).await.unwrap();
            caller.write_all(start).await.unwrap();
            callers.push(caller);
        }
        // The agent hangs up by itself on whoever does not say what it wants.
        for caller in &mut callers {
            let mut rest = Vec::new();
            let _ = caller.read_to_end(&mut rest).await;
        }
        all_is_given_back(&agent, descriptors + 1).await;
    });
}

#[test]
fn a_thousand_callers_that_come_and_go_leave_no_descriptor() {
    let agent = Agent::start();
    story(async {
        client(vec![agent.tcp_endpoint(TOKEN)]).hello().await.unwrap();
        let descriptors = agent.descriptors();
        for _ in 0..1_000 {
            drop(TcpStream::connect(agent.tcp).await.unwrap());
        }
        all_is_given_back(&agent, descriptors).await;
    });
}

#[test]
fn callers_that_never_read_hold_no_more_than_their_bounds() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        client.hello().await.unwrap();
        let descriptors = agent.descriptors();
        let mut stalled = Vec::new();
        for _ in 0..20 {
            stalled.push(client.exec(sh("exec yes")).await.unwrap());
        }
        let began = Instant::now();
        let output = finish(client.exec(ExecSpec::new(["echo", "hi"])).await.unwrap()).await;
        assert_eq!(output.stdout, "hi\n");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(agent.rss_kib() < 48 * 1024, "{} KiB", agent.rss_kib());
        let pids: Vec<u32> = stalled.iter().map(Process::pid).collect();
        drop(stalled);
        eventually(|| pids.iter().all(|pid| !lives(*pid)).then_some(())).await;
        all_is_given_back(&agent, descriptors).await;
    });
}

#[test]
fn a_fork_that_is_refused_says_so_and_costs_nothing() {
    // An unprivileged agent that may have no process beside itself. Root has no such limit.
    let agent = Agent::start_with(&[
        "setpriv",
        "--reuid",
        "54321",
        "--clear-groups",
        "prlimit",
        "--nproc=1",
    ]);
    story(async {
        let client = agent.unix();
        client.hello().await.unwrap();
        let descriptors = agent.descriptors();
        for _ in 0..20 {
            match client.exec(sh("true")).await.err() {
                Some(AgentError::Spawn { kind, detail }) => {
                    assert_eq!(kind, SpawnErrorKind::ResourceLimit, "{detail}");
                    assert!(detail.contains("no resources"), "{detail}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(agent.descriptors(), descriptors);
    });
}

#[test]
fn a_call_that_is_dropped_is_over_in_the_guest_too() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let process = client.exec(sh("sleep 600")).await.unwrap();
        let descriptors = agent.descriptors();
        for _ in 0..50 {
            let waiting = client.wait(process.pid());
            let _ = tokio::time::timeout(Duration::from_millis(1), waiting).await;
        }
        for _ in 0..50 {
            drop(client.attach(process.pid(), None, Role::Viewer).await.unwrap());
        }
        drop(process);
        eventually(|| (agent.descriptors() < descriptors).then_some(())).await;
        assert_eq!(client.list().await.unwrap(), []);
    });
}
