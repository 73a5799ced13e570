//! The agent's program replaced under everything it runs.

use std::time::Duration;

use aetherium_agent_client::{AgentClient, ExecSpec, ExitStatus, ProcessEvent, ProcessInfo, Role};
use bytes::Bytes;

use crate::harness::{Agent, PROGRAM, eventually, finish, lives, story};

fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

fn program() -> Bytes {
    Bytes::from(std::fs::read(PROGRAM).unwrap())
}

/// Replaces the agent by itself.
async fn upgrade(client: &AgentClient, generation: u32) {
    let hello = client.upgrade(program()).await.unwrap();
    assert_eq!((hello.generation, hello.upgrade_failure), (generation, None));
}

#[test]
fn a_counter_goes_on_without_a_lost_or_doubled_line_and_takes_input() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); \
                      [ $((i % 100)) = 0 ] && read line && echo \"$line\" >&2; done; exit 5";
        let mut process = client.exec(sh(script).with_stdin()).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        let pid = agent.pid();
        let feeding = async {
            for line in 0..30 {
                stdin.write(Bytes::from(format!("line {line}\n"))).await.unwrap();
            }
            stdin
        };
        let upgrading = async {
            for generation in 1..=2 {
                upgrade(&agent.unix(), generation).await;
            }
        };
        let (output, stdin, ()) = tokio::join!(finish(process), feeding, upgrading);
        let text = String::from_utf8(output.stdout.to_vec()).unwrap();
        assert!(text.lines().eq((0..3000).map(|it: i32| it.to_string())), "{text}");
        let text = String::from_utf8(output.stderr.to_vec()).unwrap();
        assert!(text.lines().eq((0..30).map(|it| format!("line {it}"))), "{text}");
        assert_eq!(output.exit.status, ExitStatus::Code(5));
        drop(stdin);
        assert_eq!(agent.pid(), pid);
        assert!(lives(pid), "it is the same process");
    });
}

#[test]
fn a_bulk_stream_and_bulk_input_come_through_whole() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let sent: Bytes = (0..20_000_003_u32).map(|it| (it % 251) as u8).collect();
        let mut process = client.exec(ExecSpec::new(["cat"]).with_stdin()).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        let input = sent.clone();
        let feeding = async move {
            stdin.write(input).await.unwrap();
            stdin.close().await.unwrap();
        };
        let following = async {
            let mut received = Vec::new();
            loop {
                match process.next().await.unwrap() {
                    Some(ProcessEvent::Stdout(data)) => received.extend_from_slice(&data),
                    Some(ProcessEvent::Exited(report)) => break (received, report),
                    other => panic!("{other:?}"),
                }
            }
        };
        let other = agent.unix();
        let (((received, report), ()), ()) =
            tokio::join!(async { tokio::join!(following, feeding) }, upgrade(&other, 1));
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert_eq!(report.status, ExitStatus::Code(0));
    });
}

#[test]
fn everything_known_about_processes_is_known_to_the_next_program() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let ended = finish(client.exec(sh("exit 3")).await.unwrap()).await;
        let spec = sh("echo kept; sleep 600").detached().tag("kept").cwd("/");
        let mut process = client.exec(spec).await.unwrap();
        assert!(matches!(process.next().await.unwrap(), Some(ProcessEvent::Stdout(_))));
        drop(process);
        let limited =
            sh("sleep 600").detached().timeout(Duration::from_millis(1_500)).tag("limited");
        drop(client.exec(limited).await.unwrap());
        let terminal = sh("stty -echo; while read x; do echo \"<$x>\"; done").tag("terminal");
        let mut terminal = client.exec(terminal.on_terminal(24, 80, "xterm")).await.unwrap();
        let before = client.list_all().await.unwrap();
        let descriptors = agent.descriptors();

        upgrade(&client, 1).await;

        // Beside them the agent remembers the trials of its new program.
        let mut after = client.list_all().await.unwrap();
        // Its time limit may have been reached meanwhile.
        let limited = |it: &&mut ProcessInfo| it.tag.as_deref() == Some("limited");
        after.iter_mut().filter(limited).for_each(|process| process.exited = None);
        assert!(before.iter().all(|process| after.contains(process)), "{before:#?}{after:#?}");
        assert!(before.iter().any(|it| it.exited == Some(ended.exit)));
        let mut viewer = client.attach("kept", None, Role::Viewer).await.unwrap();
        match viewer.next().await.unwrap() {
            Some(ProcessEvent::Stdout(data)) => assert_eq!(data, "kept\n"),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.wait("limited").await.unwrap().status, ExitStatus::Timeout);
        let mut typed = terminal.stdin().unwrap();
        typed.write(Bytes::from_static(b"hello\n")).await.unwrap();
        match terminal.next().await.unwrap() {
            Some(ProcessEvent::Stdout(data)) => assert_eq!(data, "<hello>\r\n"),
            other => panic!("{other:?}"),
        }
        drop(viewer);
        upgrade(&client, 2).await;
        eventually(|| (agent.descriptors() <= descriptors).then_some(())).await;
    });
}

#[test]
fn what_ends_during_the_change_is_reaped_and_told() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let other = agent.unix();
        let mut short = Vec::new();
        for _ in 0..20 {
            short.push(client.exec(sh("sleep 0.$(shuf -i 100-999 -n 1); exit 4")).await.unwrap());
        }
        upgrade(&other, 1).await;
        for process in short {
            assert_eq!(finish(process).await.exit.status, ExitStatus::Code(4));
        }
        assert_eq!(client.list().await.unwrap(), []);
    });
}

#[test]
fn a_program_that_is_none_is_refused_and_the_agent_goes_on() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let process = client.exec(sh("sleep 600")).await.unwrap();
        let echo = std::fs::read("/bin/echo").unwrap();
        for (program, why) in [
            (b"not a program".to_vec(), "--version"),
            (echo, "--version"),
            (b"#!/bin/sh\necho fc-agent 9.9.9\n".to_vec(), "takes over in another way"),
            (Vec::new(), "0 bytes"),
        ] {
            let error = client.upgrade(Bytes::from(program)).await.unwrap_err();
            assert_eq!(error.code(), "agent_upgrade_refused", "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(client.hello().await.unwrap().generation, 0);
        assert!(lives(process.pid()));
    });
}

#[test]
fn a_program_that_cannot_be_executed_after_all_costs_nothing() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(sh("cat").with_stdin()).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from_static(b"before\n")).await.unwrap();
        // It answers its trials as an agent does, and an exec by descriptor needs no interpreter of a
        // script that is closed by it.
        let script = "#!/bin/sh\ncase $1 in --version) echo fc-agent 9;; *) echo 1;; esac\n";
        let error = agent.unix().upgrade(Bytes::from(script)).await.unwrap_err();
        assert_eq!(error.code(), "agent_upgrade_refused", "{error}");
        assert!(error.to_string().contains("executed"), "{error}");
        stdin.write(Bytes::from_static(b"after\n")).await.unwrap();
        stdin.close().await.unwrap();
        assert_eq!(finish(process).await.stdout, "before\nafter\n");
    });
}

#[test]
fn a_reader_that_takes_nothing_is_waited_for_and_then_kept() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut stalled = client.exec(sh("head -c 3000000 /dev/zero; echo end >&2")).await.unwrap();
        assert!(matches!(stalled.next().await.unwrap(), Some(ProcessEvent::Stdout(_))));
        let error = agent.unix().upgrade(program()).await.unwrap_err();
        assert!(error.to_string().contains("had not taken"), "{error}");
        let output = finish(stalled).await;
        assert!(output.stdout_truncated && output.stderr == "end\n", "{:?}", output.stderr);
        // With the reader gone on, so does the upgrade.
        upgrade(&agent.unix(), 1).await;
    });
}

#[test]
fn the_first_process_of_a_machine_is_replaced_like_any_other() {
    // A process namespace has a PID 1 of its own; the kernel would end all of it with the agent.
    let agent = Agent::start_with(&["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    story(async {
        let client = agent.unix();
        let mut process =
            client.exec(sh("echo $PPID; read x; echo $x").with_stdin()).await.unwrap();
        assert_eq!(process.next().await.unwrap(), Some(ProcessEvent::Stdout("1\n".into())));
        upgrade(&agent.unix(), 1).await;
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from_static(b"still here\n")).await.unwrap();
        assert_eq!(finish(process).await.stdout, "still here\n");
    });
}
