//! The fleet's processes: started, killed, stopped, and started again when they ended by themselves.

use crate::{args::Args, error::Error, network::Network};
use chaos::plan::{Node, Shape};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// Below each architecture's directory, where Debian and Ubuntu have the library that makes programs with
/// threads see another time.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
/// A process that was told to end has ended by then: the workers' grace, and some more on a busy machine.
const END: Duration = Duration::from_secs(90);
/// Files of templates above this size are linked and not copied.
const SMALL: u64 = 1 << 20;

/// What a gateway is asked with.
pub(crate) const API_KEY: &str = "what-only-this-chaos-knows";
const FLEET_KEY: &str = "a secret that only this fleet of a run knows";

/// A process of the fleet.
struct Member {
    node: Node,
    address: SocketAddr,
    /// Its data directory, with its log beside it.
    data: PathBuf,
    /// Nothing while it has been killed.
    child: Option<Child>,
}

/// All of them.
pub(crate) struct Fleet {
    dir: PathBuf,
    network: Network,
    program: PathBuf,
    agent: PathBuf,
    lease: Duration,
    database: String,
    redis: String,
    members: Vec<Member>,
}

/// What sets clocks wrong, where it is installed. Monotonic clocks it leaves alone.
pub(crate) fn faketime() -> Option<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    architectures.map(|it| it.path().join(FAKETIME)).find(|it| it.exists())
}

impl Fleet {
    /// Makes their places below `dir` and starts them.
    pub(crate) fn start(
        args: &Args,
        shape: &Shape,
        dir: &Path,
        network: Network,
        (database, redis): (String, String),
    ) -> Result<Self, Error> {
        let found = |path: &Path| {
            path.canonicalize()
                .map_err(Error::io("find", format!("{} (make assets)", path.display())))
        };
        let (program, assets) = (found(&args.aetherium)?, found(&args.assets)?);
        write(&dir.join("api-keys"), API_KEY)?;
        write(&dir.join("fleet-key"), FLEET_KEY)?;
        let agent = assets.join("fc-agent");
        let (dir, lease) = (dir.to_owned(), args.lease());
        let mut fleet =
            Self { dir, network, program, agent, lease, database, redis, members: Vec::new() };
        let nodes = (1..=shape.gateways).map(Node::Gateway);
        for node in nodes.chain((1..=shape.workers).map(Node::Worker)) {
            let address = network.add(node)?;
            let data = fleet.dir.join(node.to_string());
            let templates = data.join("templates");
            copy(&assets.join("data/templates"), &templates)
                .map_err(Error::io("copy the templates to", templates.display()))?;
            fleet.members.push(Member { node, address, data, child: None });
            fleet.skew(node, 0)?;
            fleet.start_member(node)?;
        }
        Ok(fleet)
    }

    /// The gateways' addresses.
    pub(crate) fn gateways(&self) -> Vec<SocketAddr> {
        let gateways = self.members.iter().filter(|it| matches!(it.node, Node::Gateway(_)));
        gateways.map(|it| it.address).collect()
    }

    /// Data directories of the workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &Path> {
        let workers = self.members.iter().filter(|it| matches!(it.node, Node::Worker(_)));
        workers.map(|it| it.data.as_path())
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.members.iter().map(|it| it.node).collect()
    }

    /// Starts one that was killed.
    pub(crate) fn start_member(&mut self, node: Node) -> Result<(), Error> {
        let member = self.member(node)?;
        let log_path = member.data.with_extension("log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(Error::io("open", log_path.display()))?;
        let mut command = self.network.program(node, &self.program);
        command.arg("--data-dir").arg(&member.data);
        match node {
            Node::Gateway(_) => {
                command.arg("gateway").arg("--api-keys-file").arg(self.dir.join("api-keys"));
            }
            Node::Worker(_) => {
                command.args(["worker", "--driver", "process", "--lease"]);
                command.arg(format!("{}s", self.lease.as_secs()));
            }
        }
        command.arg("--listen").arg(member.address.to_string());
        command.args(["--operations-listen", "127.0.0.1:0", "--redis", &self.redis]);
        command.args(["--database-url", &self.database, "--fleet-key-file"]);
        command.arg(self.dir.join("fleet-key")).env("AETHERIUM_AGENT", &self.agent);
        // Nothing in it is secret.
        command.env("AETHERIUM_DEV", "true");
        if let Some(library) = faketime() {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", clock(&member.data))
                .env("FAKETIME_CACHE_DURATION", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(Error::io("start", node))?;
        self.member_mut(node)?.child = Some(child);
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, node: Node) -> Result<(), Error> {
        let Some(mut child) = self.member_mut(node)?.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(drop).map_err(Error::io("kill", node))
    }

    /// Sends a signal to one that runs.
    pub(crate) fn signal(&self, node: Node, signal: Signal) -> Result<(), Error> {
        let Some(child) = &self.member(node)?.child else { return Ok(()) };
        match kill_process(Pid::from_child(child), signal) {
            // It has ended by itself, and will be started again.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::io("signal", node)(error.into())),
        }
    }

    /// Sets a wall clock wrong by so many seconds; the process sees it within a second.
    pub(crate) fn skew(&self, node: Node, seconds: i64) -> Result<(), Error> {
        let clock = clock(&self.member(node)?.data);
        let aside = clock.with_extension("new");
        write(&aside, &format!("{seconds:+}\n"))?;
        fs::rename(&aside, &clock).map_err(Error::io("rename", aside.display()))
    }

    /// Starts again what ended by itself, as a supervisor would, and returns which these were.
    pub(crate) fn tend(&mut self) -> Result<Vec<(Node, String)>, Error> {
        let mut ended = Vec::new();
        for member in &mut self.members {
            let Some(child) = &mut member.child else { continue };
            if let Some(status) = child.try_wait().map_err(Error::io("look at", member.node))? {
                ended.push((member.node, status.to_string()));
            }
        }
        for (node, _) in &ended {
            self.start_member(*node)?;
        }
        Ok(ended)
    }

    /// Tells all to end, workers first, and returns what did not end well.
    pub(crate) fn stop(&mut self) -> Result<Vec<String>, Error> {
        let mut bad = Vec::new();
        for member in self.members.iter_mut().rev() {
            let Some(mut child) = member.child.take() else { continue };
            kill_process(Pid::from_child(&child), Signal::TERM)
                .map_err(|error| Error::io("end", member.node)(error.into()))?;
            let deadline = Instant::now() + END;
            loop {
                match child.try_wait().map_err(Error::io("await", member.node))? {
                    Some(status) if status.success() => break,
                    Some(status) => {
                        bad.push(format!("{} ended with {status} when told to", member.node));
                        break;
                    }
                    None if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    None => {
                        bad.push(format!("{} did not end within {END:?}", member.node));
                        child.kill().map_err(Error::io("kill", member.node))?;
                        break;
                    }
                }
            }
        }
        Ok(bad)
    }

    fn member(&self, node: Node) -> Result<&Member, Error> {
        self.members.iter().find(|it| it.node == node).ok_or_else(|| unknown(node))
    }

    fn member_mut(&mut self, node: Node) -> Result<&mut Member, Error> {
        self.members.iter_mut().find(|it| it.node == node).ok_or_else(|| unknown(node))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|it| it.child.as_mut()) {
            // It has ended already, or ends now.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn unknown(node: Node) -> Error {
    Error::io("find", node)(io::ErrorKind::NotFound.into())
}

/// The file that says how wrong a process's clock is.
fn clock(data: &Path) -> PathBuf {
    data.with_extension("clock")
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io("write", path.display()))
}

/// Copies a directory; what is large in it, which nobody changes, is linked.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.metadata()?.len() > SMALL {
            symlink(entry.path(), target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
