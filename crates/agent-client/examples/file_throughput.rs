//! How fast a file goes into a guest and out of it, beside a bare copy through the same kind of
//! socket with the same file at its end.
//!
//!     cargo run --release -p aetherium-agent-client --example file_throughput -- AGENT DIR [MIB]
//!
//! AGENT is a built `fc-agent`; DIR is where its files lie, best a tmpfs, so that no disk is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is run by hand")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aetherium_agent_client::{AgentClient, Deadlines, Endpoint};
use aetherium_agent_proto::files::{ByteRange, WriteOptions};
use bytes::Bytes;

const CHUNK: usize = 128 * 1024;
const ROUNDS: usize = 5;

/// A running agent, killed when dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    fn start(program: &str, socket: &Path) -> Self {
        let mut command = Command::new(program);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("AGENT starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening"), "{line}");
        Self(child)
    }

    fn peak_kib(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().to_owned()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(program), Some(dir)) = (args.next(), args.next()) else {
        panic!("usage: file_throughput AGENT DIR [MIB]");
    };
    let total = args.next().map_or(1024, |it| it.parse::<usize>().expect("MIB is a number")) << 20;
    let dir = tempfile::tempdir_in(dir).unwrap();
    let (socket, path) = (dir.path().join("agent.sock"), dir.path().join("file"));
    let agent = Agent::start(&program, &socket);
    let client = AgentClient::new(vec![Endpoint::Unix { path: socket }], Deadlines::default());
    client.wait_ready(Duration::from_secs(5)).await.unwrap();
    for round in 1..=ROUNDS {
        let floor = bare_write(&path, total);
        std::fs::remove_file(&path).unwrap();
        report(round, "write", write(&client, &path, total).await, floor, total);
        let floor = bare_read(&path);
        report(round, "read ", read(&client, &path).await, floor, total);
        std::fs::remove_file(&path).unwrap();
    }
    println!("the agent's peak memory: {}", agent.peak_kib());
}

fn report(round: usize, what: &str, took: Duration, floor: Duration, total: usize) {
    let gib_per_s = |time: Duration| total as f64 / time.as_secs_f64() / f64::from(1 << 30);
    println!(
        "{round} {what}  agent {:.2} GiB/s  bare {:.2} GiB/s  share {:.2}",
        gib_per_s(took),
        gib_per_s(floor),
        floor.as_secs_f64() / took.as_secs_f64()
    );
}

async fn write(client: &AgentClient, path: &Path, total: usize) -> Duration {
    let began = Instant::now();
    let mut writer = client.files().write(path, WriteOptions::default()).await.unwrap();
    for _ in 0..total / CHUNK {
        writer.write(Bytes::from(vec![7; CHUNK])).await.unwrap();
    }
    writer.commit().await.unwrap();
    began.elapsed()
}

async fn read(client: &AgentClient, path: &Path) -> Duration {
    let began = Instant::now();
    let mut reader = client.files().read(path, ByteRange::default()).await.unwrap();
    while reader.next().await.unwrap().is_some() {}
    began.elapsed()
}

/// A thread writes one buffer again and again; this one takes it off the socket into a file.
fn bare_write(path: &Path, total: usize) -> Duration {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        let chunk = vec![7; CHUNK];
        (0..total / CHUNK).for_each(|_| theirs.write_all(&chunk).unwrap());
    });
    let (mut file, mut chunk) = (File::create(path).unwrap(), vec![0; CHUNK]);
    loop {
        match ours.read(&mut chunk).unwrap() {
            0 => break,
            read => file.write_all(&chunk[..read]).unwrap(),
        }
    }
    file.sync_all().unwrap();
    sender.join().unwrap();
    began.elapsed()
}

/// A thread sends a file; this one takes it off the socket.
fn bare_read(path: &Path) -> Duration {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let path: PathBuf = path.to_owned();
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        let (mut file, mut chunk) = (File::open(path).unwrap(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk).unwrap() {
                0 => break,
                read => theirs.write_all(&chunk[..read]).unwrap(),
            }
        }
    });
    let mut chunk = vec![0; CHUNK];
    while ours.read(&mut chunk).unwrap() > 0 {}
    sender.join().unwrap();
    began.elapsed()
}
