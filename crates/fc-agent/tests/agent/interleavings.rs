//! Any order of input, output, resizes, signals, leaving and coming back, with the agent replaced in
//! the midst of some.

use aetherium_agent_client::{
    AgentClient, AgentError, ExecSpec, ExitStatus, Process, ProcessEvent, Role, Stdin,
    StreamOffsets, TerminalSize,
};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{Agent, PROGRAM, story};

/// How much of a stream an agent promises to keep for those who come late.
const PROMISED: u64 = 64 * 1024;
const SIGWINCH: i32 = 28;
const SIGTERM: i32 = 15;

#[derive(Debug, Clone)]
enum Act {
    Write(usize),
    Read,
    Resize(u16),
    Signal,
    Leave,
    ComeBack,
    Upgrade,
}

/// A story; one in four has an upgrade, which costs as much as all the rest of it.
fn acts() -> impl Strategy<Value = Vec<Act>> {
    let upgrade = prop::option::weighted(0.25, any::<prop::sample::Index>());
    (prop::collection::vec(act(), 1..60), upgrade).prop_map(|(mut acts, upgrade)| {
        if let Some(at) = upgrade {
            acts.insert(at.index(acts.len()), Act::Upgrade);
        }
        acts
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop_oneof![1..200_usize, 1..30_000_usize].prop_map(Act::Write),
        4 => Just(Act::Read),
        1 => (1..500_u16).prop_map(Act::Resize),
        1 => Just(Act::Signal),
        2 => Just(Act::Leave),
        3 => Just(Act::ComeBack),
    ]
}

/// Every byte tells its offset, so that a lost or doubled one shows.
fn bytes_at(from: u64, len: usize) -> Bytes {
    (from..from + len as u64).map(|at| (at * 7 % 251) as u8).collect()
}

/// A program that gives back what it gets, and what its follower knows of it.
struct Echo {
    client: AgentClient,
    pid: u32,
    stdin: Stdin,
    process: Option<Process>,
    /// What the program printed before it began.
    greeting: u64,
    sent: u64,
    read: u64,
}

impl Echo {
    async fn start(agent: &Agent, on_terminal: bool) -> Self {
        let client = agent.unix();
        let spec = ExecSpec::new(["sh", "-c", "stty raw -echo 2>/dev/null; echo go; exec cat"]);
        let spec = if on_terminal { spec.on_terminal(24, 80, "xterm") } else { spec.with_stdin() };
        let mut process = client.exec(spec.detached()).await.unwrap();
        let stdin = process.stdin().unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"go\n") && !text.ends_with(b"go\r\n") {
            match process.next().await.unwrap() {
                Some(ProcessEvent::Stdout(data)) => text.extend_from_slice(&data),
                other => panic!("{other:?}"),
            }
        }
        let (pid, greeting) = (process.pid(), text.len() as u64);
        Self { client, pid, stdin, process: Some(process), greeting, sent: 0, read: 0 }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Write(len) => {
                // With nobody there to read, no more than is promised to be kept is printed.
                let unread = self.sent - self.read;
                let len = len.min(usize::try_from(PROMISED - unread.min(PROMISED)).unwrap());
                self.stdin.write(bytes_at(self.sent, len)).await.unwrap();
                self.sent += len as u64;
            }
            Act::Read if self.read < self.sent => self.read_once().await,
            Act::Read => {}
            Act::Resize(cols) => {
                let size = TerminalSize { rows: 24, cols };
                // A program on pipes has no terminal, which is said and harmless.
                let _ = self.client.resize(self.pid, size).await;
            }
            Act::Signal => self.client.signal(self.pid, SIGWINCH).await.unwrap(),
            Act::Leave => self.process = None,
            Act::ComeBack => self.come_back().await,
            Act::Upgrade => {
                let program = std::fs::read(PROGRAM).unwrap();
                let hello = self.client.upgrade(program.into()).await.unwrap();
                assert_eq!(hello.upgrade_failure, None);
            }
        }
    }

    async fn read_once(&mut self) {
        let Some(process) = &mut self.process else { return };
        match process.next().await.unwrap() {
            Some(ProcessEvent::Stdout(data)) => {
                assert!(data == bytes_at(self.read, data.len()), "at {}", self.read);
                self.read += data.len() as u64;
            }
            other => panic!("{other:?}"),
        }
    }

    async fn come_back(&mut self) {
        if self.process.is_some() {
            return;
        }
        let from = StreamOffsets { stdout: self.greeting + self.read, stderr: 0 };
        let process = loop {
            match self.client.attach(self.pid, Some(from), Role::Starter).await {
                Ok(process) => break process,
                // The agent has not yet noticed that the place is free.
                Err(AgentError::Taken { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(process.offsets(), from, "what was promised is still there");
        self.process = Some(process);
    }

    async fn finish(mut self) {
        self.come_back().await;
        while self.read < self.sent {
            self.read_once().await;
        }
        self.client.signal(self.pid, SIGTERM).await.unwrap();
        let mut process = self.process.unwrap();
        match process.next().await.unwrap() {
            Some(ProcessEvent::Exited(report)) => {
                assert_eq!(report.status, ExitStatus::Signal(SIGTERM));
            }
            other => panic!("{other:?} after everything was read"),
        }
    }
}

#[test]
fn no_order_of_events_loses_doubles_or_swaps_a_byte() {
    let agent = Agent::start();
    let mut runner =
        TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let plan = (any::<bool>(), acts());
    let outcome = runner.run(&plan, |(on_terminal, acts)| {
        story(async {
            let mut echo = Echo::start(&agent, on_terminal).await;
            for act in acts {
                echo.act(act).await;
            }
            echo.finish().await;
        });
        Ok(())
    });
    outcome.unwrap();
}
