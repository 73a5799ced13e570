//! Commands: their streams, their end, their failures.

use std::time::{Duration, Instant};

use aetherium_agent_client::{
    AgentError, ExecSpec, ExitStatus, Process, ProcessEvent, SpawnErrorKind,
};
use bytes::Bytes;

use crate::harness::{Agent, eventually, finish, lives, story};

fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

/// Reads stdout up to its first newline.
async fn first_line(process: &mut Process) -> String {
    let mut text = Vec::new();
    while !text.contains(&b'\n') {
        match process.next().await.unwrap() {
            Some(ProcessEvent::Stdout(data)) => text.extend_from_slice(&data),
            other => panic!("{other:?} before a line"),
        }
    }
    String::from_utf8(text).unwrap().trim().to_owned()
}

#[test]
fn stdout_and_stderr_arrive_apart_and_in_order() {
    let agent = Agent::start();
    story(async {
        let script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done";
        let output = finish(agent.unix().exec(sh(script)).await.unwrap()).await;
        assert_eq!(output.stdout, "out1\nout2\nout3\n");
        assert_eq!(output.stderr, "err1\nerr2\nerr3\n");
        assert_eq!(output.exit.status, ExitStatus::Code(0));
    });
}

#[test]
fn stdin_closes_while_the_output_goes_on() {
    let agent = Agent::start();
    story(async {
        let spec = sh("cat; echo end-of-input").with_stdin();
        let mut process = agent.unix().exec(spec).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        assert!(process.stdin().is_none(), "there is one stdin");
        stdin.write(Bytes::from_static(b"hello ")).await.unwrap();
        stdin.write(Bytes::from_static(b"world\n")).await.unwrap();
        stdin.close().await.unwrap();
        assert_eq!(finish(process).await.stdout, "hello world\nend-of-input\n");
    });
}

#[test]
fn a_megabyte_of_input_comes_back_unchanged() {
    let agent = Agent::start();
    story(async {
        let sent: Bytes = (0..1_000_003_u32).map(|it| (it % 251) as u8).collect();
        let mut process = agent.unix().exec(ExecSpec::new(["cat"]).with_stdin()).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        let input = sent.clone();
        let (written, output) = tokio::join!(
            async move {
                stdin.write(input).await.unwrap();
                stdin.close().await
            },
            finish(process),
        );
        written.unwrap();
        assert!(output.stdout == sent, "{} of {} bytes", output.stdout.len(), sent.len());
    });
}

#[test]
fn dropping_stdin_unused_lets_the_process_end() {
    let agent = Agent::start();
    story(async {
        let mut process = agent.unix().exec(ExecSpec::new(["cat"]).with_stdin()).await.unwrap();
        drop(process.stdin());
        assert_eq!(finish(process).await.exit.status, ExitStatus::Code(0));
    });
}

#[test]
fn writing_to_a_process_that_does_not_read_is_an_error() {
    let agent = Agent::start();
    story(async {
        let spec = sh("exec <&-; echo closed; sleep 600").with_stdin();
        let mut process = agent.unix().exec(spec).await.unwrap();
        assert_eq!(first_line(&mut process).await, "closed");
        let mut stdin = process.stdin().unwrap();
        let first = stdin.write(Bytes::from_static(b"x")).await;
        let error = match first {
            Err(error) => error,
            // The first piece may be on its way when the pipe turns out closed.
            Ok(()) => stdin.close().await.unwrap_err(),
        };
        assert_eq!(error.code(), "stdin_closed", "{error}");
    });
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let code = finish(client.exec(sh("exit 7")).await.unwrap()).await;
        assert_eq!(code.exit.status, ExitStatus::Code(7));
        let signal = finish(client.exec(sh("kill -9 $$")).await.unwrap()).await;
        assert_eq!(signal.exit.status, ExitStatus::Signal(9));
        assert!(signal.exit.max_rss_kib > 100, "{:?}", signal.exit);
    });
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let agent = Agent::start();
    story(async {
        let script = "sleep 600 & echo $!; wait";
        let mut process = agent.unix().exec(sh(script)).await.unwrap();
        let child: u32 = first_line(&mut process).await.parse().unwrap();
        process.signaller().signal(15).await.unwrap();
        assert_eq!(finish(process).await.exit.status, ExitStatus::Signal(15));
        eventually(|| (!lives(child)).then_some(())).await;
    });
}

#[test]
fn signalling_an_ended_process_says_that_it_is_gone() {
    let agent = Agent::start();
    story(async {
        let process = agent.unix().exec(ExecSpec::new(["true"])).await.unwrap();
        let signaller = process.signaller();
        finish(process).await;
        assert_eq!(signaller.signal(15).await.unwrap_err().code(), "no_such_process");
        assert_eq!(signaller.signal(0).await.unwrap_err().code(), "agent_protocol_error");
    });
}

#[test]
fn the_time_limit_ends_the_whole_group() {
    let agent = Agent::start();
    story(async {
        // The shell ignores TERM and so does its child: only KILL ends them.
        let script = "trap '' TERM; sleep 600 & echo $!; wait";
        let spec =
            sh(script).timeout(Duration::from_millis(100)).kill_grace(Duration::from_millis(100));
        let began = Instant::now();
        let mut process = agent.unix().exec(spec).await.unwrap();
        let child: u32 = first_line(&mut process).await.parse().unwrap();
        let output = finish(process).await;
        assert_eq!(output.exit.status, ExitStatus::Timeout);
        assert!(output.exit.wall_ms >= 200, "{:?}", output.exit);
        assert!(began.elapsed() < Duration::from_secs(2));
        eventually(|| (!lives(child)).then_some(())).await;
    });
}

#[test]
fn a_polite_process_gets_to_say_goodbye_at_its_time_limit() {
    let agent = Agent::start();
    story(async {
        let script = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done";
        let spec = sh(script).timeout(Duration::from_millis(100));
        let output = finish(agent.unix().exec(spec).await.unwrap()).await;
        assert_eq!((output.exit.status, &output.stdout[..]), (ExitStatus::Timeout, &b"bye\n"[..]));
    });
}

#[test]
fn directory_environment_and_user_are_as_asked() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec = sh("pwd; echo $GREETING; id -un; echo $HOME; env | wc -l")
            .cwd("/usr")
            .env("GREETING", "hello there");
        let output = finish(client.exec(spec).await.unwrap()).await;
        let text = String::from_utf8(output.stdout.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[..2], ["/usr", "hello there"]);
        // GREETING, five defaults, and what the shell adds: nothing of the agent's own.
        assert!(lines[4].trim().parse::<u32>().unwrap() <= 10, "{text}");
        if lines[2] == "root" {
            let spec = sh("id -un; id -gn; echo $HOME $USER").user("nobody");
            let output = finish(client.exec(spec).await.unwrap()).await;
            assert_eq!(output.stdout, "nobody\nnogroup\n/nonexistent nobody\n");
            let output = finish(client.exec(sh("id -u; id -g").user("4242")).await.unwrap()).await;
            assert_eq!(output.stdout, "4242\n4242\n");
        }
    });
}

#[test]
fn what_cannot_be_started_says_why_and_with_which_value() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let cases = [
            (ExecSpec::new(["no-such-program"]), SpawnErrorKind::NotFound, "`no-such-program`"),
            (ExecSpec::new(["/etc/passwd"]), SpawnErrorKind::PermissionDenied, "`/etc/passwd`"),
            (sh("true").cwd("/no/such/dir"), SpawnErrorKind::BadCwd, "`/no/such/dir`"),
            (sh("true").user("nobody-here"), SpawnErrorKind::UnknownUser, "`nobody-here`"),
            (ExecSpec::new(Vec::<String>::new()), SpawnErrorKind::InvalidRequest, "argv"),
            (sh("true").env("X", "y".repeat(200_000)), SpawnErrorKind::TooLong, "`sh`"),
        ];
        for (spec, expected, value) in cases {
            match client.exec(spec).await.err() {
                Some(AgentError::Spawn { kind, detail }) => {
                    assert_eq!(kind, expected, "{detail}");
                    assert!(detail.contains(value), "{detail}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    });
}

#[test]
fn a_background_process_does_not_hold_up_the_end() {
    let agent = Agent::start();
    story(async {
        let began = Instant::now();
        let mut process = agent.unix().exec(sh("sleep 600 & echo $!")).await.unwrap();
        let child: u32 = first_line(&mut process).await.parse().unwrap();
        assert_eq!(finish(process).await.exit.status, ExitStatus::Code(0));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(lives(child), "it was not asked to end");
        std::process::Command::new("kill").arg(child.to_string()).status().unwrap();
    });
}

#[test]
fn a_background_process_that_keeps_writing_does_not_hold_up_the_end() {
    let agent = Agent::start();
    story(async {
        let began = Instant::now();
        let mut process = agent.unix().exec(sh("yes & echo $! >&2")).await.unwrap();
        let child: u32 = loop {
            match process.next().await.unwrap() {
                Some(ProcessEvent::Stderr(data)) => {
                    break String::from_utf8_lossy(&data).trim().parse().unwrap();
                }
                Some(ProcessEvent::Stdout(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        finish(process).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        // Its pipe is gone, which ends it as it would anywhere.
        eventually(|| (!lives(child)).then_some(())).await;
    });
}

#[test]
fn dropping_a_process_kills_its_group() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(sh("sleep 600 & echo $!; wait")).await.unwrap();
        let (shell, child) = (process.pid(), first_line(&mut process).await.parse().unwrap());
        drop(process);
        client.wait(shell).await.unwrap();
        eventually(|| (!lives(shell) && !lives(child)).then_some(())).await;
        assert_eq!(client.list().await.unwrap(), []);
    });
}

#[test]
fn losing_the_connection_kills_the_group_even_while_it_ignores_term() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let spec = sh("trap '' TERM; echo ready; while :; do sleep 0.05; done")
            .kill_grace(Duration::from_millis(50));
        let mut process = client.exec(spec).await.unwrap();
        let shell = process.pid();
        first_line(&mut process).await;
        drop((process, client));
        eventually(|| (!lives(shell)).then_some(())).await;
    });
}

#[test]
fn running_processes_are_listed_with_their_tags() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut spec = ExecSpec::new(["sleep", "600"]).cwd("/");
        spec.tag = Some("nap".into());
        let process = client.exec(spec).await.unwrap();
        let list = client.list().await.unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].pid, list[0].tag.as_deref()), (process.pid(), Some("nap")));
        assert_eq!(list[0].argv, ["sleep", "600"]);
    });
}

#[test]
fn a_stalled_reader_slows_nobody_and_fills_no_memory() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut process = client.exec(sh("exec cat /dev/zero")).await.unwrap();
            assert!(matches!(process.next().await.unwrap(), Some(ProcessEvent::Stdout(_))));
            stalled.push(process);
        }
        // Beside them everything works, in bulk and in small.
        let spec = ExecSpec::new(["head", "-c", "200000000", "/dev/zero"]);
        let mut busy = client.exec(spec).await.unwrap();
        let mut total = 0;
        while let Some(event) = busy.next().await.unwrap() {
            if let ProcessEvent::Stdout(data) = event {
                total += data.len();
            }
        }
        assert_eq!(total, 200_000_000);
        let began = Instant::now();
        client.hello().await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        assert!(agent.rss_kib() < 48 * 1024, "{} KiB", agent.rss_kib());
    });
}
