//! Terminals: their size, their session, their viewers.

use std::time::{Duration, Instant};

use aetherium_agent_client::{ExecSpec, ExitStatus, Process, ProcessEvent, Role, TerminalSize};
use bytes::Bytes;

use crate::harness::{Agent, finish, story};

fn terminal(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script]).on_terminal(24, 80, "xterm-256color")
}

/// Reads what is printed until it holds `end`.
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
fn a_terminal_has_its_size_its_kind_and_its_session() {
    let agent = Agent::start();
    story(async {
        let script = "stty size; echo $TERM; tty -s && echo terminal; echo err >&2; \
                      ps -o tpgid= -p $$ | tr -d ' '; echo $$";
        let output = finish(agent.unix().exec(terminal(script)).await.unwrap()).await;
        let text = String::from_utf8(output.stdout.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[..4], ["24 80", "xterm-256color", "terminal", "err"], "{text}");
        assert_eq!(lines[4], lines[5], "its group is the one in front");
        assert_eq!(output.exit.status, ExitStatus::Code(0));
    });
}

#[test]
fn a_resize_is_told_to_the_process() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done";
        let mut process = client.exec(terminal(script)).await.unwrap();
        read_until(&mut process, "ready").await;
        let size = TerminalSize { rows: 50, cols: 132 };
        process.signaller().resize(size).await.unwrap();
        read_until(&mut process, "50 132").await;
        let pid = process.pid();
        assert_eq!(finish(process).await.exit.status, ExitStatus::Code(0));
        assert!(client.resize(pid, size).await.is_err(), "it has ended");
        let pipes = client.exec(ExecSpec::new(["sleep", "600"])).await.unwrap();
        let error = client.resize(pipes.pid(), size).await.unwrap_err();
        assert!(error.to_string().contains("no terminal"), "{error}");
    });
}

#[test]
fn what_is_typed_is_read_and_control_c_interrupts() {
    let agent = Agent::start();
    story(async {
        let mut process = agent.unix().exec(terminal("cat")).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from_static(b"hello\r")).await.unwrap();
        read_until(&mut process, "hello\r\nhello\r\n").await;
        stdin.write(Bytes::from_static(b"\x03")).await.unwrap();
        assert_eq!(finish(process).await.exit.status, ExitStatus::Signal(2));
    });
}

#[test]
fn several_look_at_one_terminal_and_several_type() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        let mut process = client.exec(terminal("stty -echo; echo ready; cat")).await.unwrap();
        read_until(&mut process, "ready\r\n").await;
        let other = agent.unix();
        let mut viewer = other.attach(process.pid(), None, Role::Viewer).await.unwrap();
        read_until(&mut viewer, "ready\r\n").await;
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from_static(b"one\n")).await.unwrap();
        for side in [&mut process, &mut viewer] {
            read_until(side, "one\r\n").await;
        }
        let mut theirs = viewer.stdin().unwrap();
        theirs.write(Bytes::from_static(b"two\n")).await.unwrap();
        drop(theirs);
        for side in [&mut process, &mut viewer] {
            read_until(side, "two\r\n").await;
        }
        stdin.write(Bytes::from_static(b"\x04")).await.unwrap();
        assert_eq!(finish(viewer).await.exit.status, ExitStatus::Code(0));
        assert_eq!(finish(process).await.exit.status, ExitStatus::Code(0));
    });
}

#[test]
fn a_thousand_idle_terminals_cost_little_and_are_all_given_back() {
    let agent = Agent::start();
    story(async {
        let client = agent.unix();
        client.hello().await.unwrap();
        let before = agent.descriptors();
        let mut terminals = Vec::new();
        for _ in 0..1_000 {
            let spec = ExecSpec::new(["sleep", "600"]).on_terminal(24, 80, "xterm");
            terminals.push(client.exec(spec).await.unwrap());
        }
        assert!(agent.rss_kib() < 24 * 1024, "{} KiB", agent.rss_kib());
        let began = Instant::now();
        client.hello().await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        let pids: Vec<u32> = terminals.iter().map(Process::pid).collect();
        drop(terminals);
        for pid in pids {
            client.wait(pid).await.ok();
        }
        while agent.descriptors() > before {
            client.hello().await.unwrap();
        }
        assert_eq!(client.list().await.unwrap(), []);
    });
}
