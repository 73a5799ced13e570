//! A process's life beside its calls: detached, found again, waited for.

use std::time::Duration;

use aetherium_agent_client::{
    AgentClient, AgentError, ExecSpec, ExitStatus, Process, ProcessEvent, ProcessSelector, Role,
    StreamOffsets,
};
use bytes::Bytes;

use crate::harness::{Agent, Proxy, finish, lives, story};

fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

/// Reads stdout until it holds `end`.
async fn read_until(process: &mut Process, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        match process.next().await.unwrap() {
            Some(ProcessEvent::Stdout(data)) => text.push_str(&String::from_utf8_lossy(&data)),
            other => panic!("{other:?} before {end:?}, after {text:?}"),
        }
    }
    text
}

#[test]
fn a_detached_process_outlives_its_caller_and_is_found_by_its_tag() {
    let agent = Agent::start();
    story(async {
        let spec = sh("echo one; read line; echo two $line").with_stdin().detached().tag("job");
        let mut process = agent.unix().exec(spec).await.unwrap();
        let pid = process.pid();
        read_until(&mut process, "one\n").await;
        drop(process);

        let client = agent.unix();
        let mut process = starter_again(&client, "job").await;
        assert_eq!((process.pid(), process.offsets()), (pid, StreamOffsets::default()));
        assert_eq!(read_until(&mut process, "one\n").await, "one\n");
        let mut stdin = client.stdin(pid).await.unwrap();
        stdin.write(Bytes::from_static(b"more\n")).await.unwrap();
        let output = finish(process).await;
        assert_eq!(
            (&output.stdout[..], output.exit.status),
            (&b"two more\n"[..], ExitStatus::Code(0))
        );
        assert_eq!(client.wait("job").await.unwrap().status, ExitStatus::Code(0));
    });
}

#[test]
fn a_late_reader_learns_at_which_offset_it_begins() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec = sh("head -c 300000 /dev/zero | tr '\\0' x; echo end").detached().tag("big");
        drop(client.exec(spec).await.unwrap());
        client.wait("big").await.unwrap();
        let process = client.attach("big", None, Role::Viewer).await.unwrap();
        let from = process.offsets().stdout;
        let text = finish(process).await.stdout;
        assert_eq!(from + text.len() as u64, 300_004, "what is missed and what is read is all");
        assert!(text.ends_with(b"xend\n") && text.len() >= 60_000, "{}", text.len());

        // From the middle of what is held, nothing before it comes again.
        let at = StreamOffsets { stdout: 300_001, stderr: 0 };
        let process = client.attach("big", Some(at), Role::Viewer).await.unwrap();
        assert_eq!(process.offsets(), at);
        assert_eq!(finish(process).await.stdout, "nd\n");
    });
}

#[test]
fn a_viewer_that_lags_is_told_how_much_and_slows_nobody() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec = sh("read go; head -c 50000000 /dev/zero; echo end >&2").with_stdin();
        let mut process = client.exec(spec).await.unwrap();
        let mut viewer = client.attach(process.pid(), None, Role::Viewer).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from_static(b"go\n")).await.unwrap();
        // The viewer does not read, and the starter gets all of it.
        let mut total = 0;
        while let Some(event) = process.next().await.unwrap() {
            match event {
                ProcessEvent::Stdout(data) => total += data.len(),
                ProcessEvent::Skipped(bytes) => panic!("the starter missed {bytes:?}"),
                ProcessEvent::Stderr(_) | ProcessEvent::Exited(_) => {}
            }
        }
        assert_eq!(total, 50_000_000);
        let (mut read, mut skipped) = (0, 0);
        loop {
            match viewer.next().await.unwrap() {
                Some(ProcessEvent::Stdout(data)) => read += data.len() as u64,
                Some(ProcessEvent::Skipped(bytes)) => skipped += bytes.stdout,
                Some(ProcessEvent::Stderr(data)) => assert_eq!(data, "end\n"),
                Some(ProcessEvent::Exited(_)) => break,
                None => panic!("no exit"),
            }
        }
        assert!(skipped > 0);
        assert_eq!(read + skipped, 50_000_000);
    });
}

#[test]
fn there_is_one_starters_place_and_it_ends_an_attached_process() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let process = client.exec(sh("sleep 600").tag("nap")).await.unwrap();
        let pid = process.pid();
        let viewer = client.attach(pid, None, Role::Viewer).await.unwrap();
        let error = client.attach(pid, None, Role::Starter).await.err().unwrap();
        assert_eq!(error.code(), "process_taken", "{error}");
        drop(viewer);
        client.hello().await.unwrap();
        assert!(lives(pid), "a viewer's leaving ends nothing");
        drop(process);
        assert_eq!(client.wait(pid).await.unwrap().status, ExitStatus::Signal(15));
    });
}

#[test]
fn a_free_place_can_be_taken_and_sets_the_pace() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec = sh("echo $$; while read n; do head -c $n /dev/zero; done");
        let mut process = client.exec(spec.with_stdin().detached()).await.unwrap();
        read_until(&mut process, "\n").await;
        let (pid, mut stdin) = (process.pid(), process.stdin().unwrap());
        drop(process);
        let mut process = starter_again(&client, pid).await;
        let from = process.offsets().stdout;
        stdin.write(Bytes::from_static(b"20000000\n")).await.unwrap();
        stdin.close().await.unwrap();
        let mut total = 0;
        while let Some(event) = process.next().await.unwrap() {
            match event {
                ProcessEvent::Stdout(data) => total += data.len() as u64,
                ProcessEvent::Exited(_) => break,
                other => panic!("{other:?}"),
            }
        }
        let first_line = pid.to_string().len() as u64 + 1;
        assert_eq!(from + total, first_line + 20_000_000);
    });
}

/// The place is free once the agent has noticed that its holder left.
async fn starter_again(client: &AgentClient, process: impl Into<ProcessSelector>) -> Process {
    let selector = process.into();
    loop {
        match client.attach(selector.clone(), None, Role::Starter).await {
            Ok(process) => return process,
            Err(AgentError::Taken { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn stdin_can_be_written_on_by_another_when_its_writer_is_gone() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(sh("cat").with_stdin().detached()).await.unwrap();
        let pid = process.pid();
        let proxy = Proxy::start(&agent);
        let mut stdin = proxy.client().stdin(pid).await.unwrap();
        stdin.write(Bytes::from_static(b"first ")).await.unwrap();
        read_until(&mut process, "first ").await;
        let error = client.stdin(pid).await.unwrap().close().await.unwrap_err();
        assert_eq!(error.code(), "process_taken", "{error}");
        // The connection breaks, which is no end of the input.
        proxy.cut();
        loop {
            let mut stdin = client.stdin(pid).await.unwrap();
            let written = stdin.write(Bytes::from_static(b"second")).await;
            match if written.is_ok() { stdin.close().await } else { written } {
                Ok(()) => break,
                Err(error) => assert_eq!(error.code(), "process_taken", "{error}"),
            }
        }
        assert_eq!(finish(process).await.stdout, "second");
    });
}

#[test]
fn the_end_of_a_process_is_known_for_a_while_and_to_many() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(sh("read x; exit 7").with_stdin()).await.unwrap();
        let pid = process.pid();
        let other = agent.unix();
        let release = async {
            process.stdin().unwrap().close().await.unwrap();
            finish(process).await
        };
        let (early, output) = tokio::join!(other.wait(pid), release);
        assert_eq!(early.unwrap(), output.exit);
        assert_eq!(client.wait(pid).await.unwrap(), output.exit);
        let ended = client.list_all().await.unwrap();
        assert_eq!((ended.len(), ended[0].exited), (1, Some(output.exit)));
        assert_eq!(client.list().await.unwrap(), []);
        let error = client.wait("never").await.unwrap_err();
        assert_eq!(error.code(), "no_such_process", "{error}");
    });
}

#[test]
fn a_detached_process_keeps_its_time_limit() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec = sh("sleep 600").detached().timeout(Duration::from_millis(100)).tag("late");
        drop(client.exec(spec).await.unwrap());
        assert_eq!(client.wait("late").await.unwrap().status, ExitStatus::Timeout);
    });
}

#[test]
fn limits_without_cgroups_are_refused_and_not_forgotten() {
    let agent = Agent::start();
    story(async {
        let limits = aetherium_agent_client::ProcessLimits {
            memory_bytes: Some(64 << 20),
            ..Default::default()
        };
        match agent.unix().exec(sh("true").limits(limits)).await {
            Ok(process) => assert_eq!(finish(process).await.exit.status, ExitStatus::Code(0)),
            Err(error) => assert_eq!(error.code(), "limits_unavailable", "{error}"),
        }
    });
}

#[test]
fn umask_priority_and_shell_are_as_asked() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec =
            ExecSpec { umask: Some(0o27), nice: 7, ..ExecSpec::shell("umask; nice; echo $0") };
        let output = finish(client.exec(spec).await.unwrap()).await;
        let text = String::from_utf8(output.stdout.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[..2], ["0027", "7"], "{text}");
        assert!(lines[2].ends_with("sh"), "{text}");
        // What the agent raised for itself is not passed on.
        let output = finish(client.exec(sh("ulimit -Sn; ulimit -Hn")).await.unwrap()).await;
        let mut own = own_limits();
        own.push('\n');
        assert_eq!(output.stdout, own);
    });
}

/// This process's own limits of open descriptors, which the agent was started with.
fn own_limits() -> String {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    format!("{}\n{}", fields[3], fields[4])
}
