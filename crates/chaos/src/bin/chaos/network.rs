//! A network for each process of the fleet, which can be cut.
//!
//! ```text
//! the run's namespace:  bridge 10.77.0.1 ─┬─ veth ── gateway-1  10.77.0.11
//!   (client, relays)                      ├─ veth ── gateway-2  10.77.0.12
//!                                         ├─ veth ── worker-1   10.77.0.21
//!                                         └─ …
//! ```
//! A cut takes the host's end of a veth down: packets vanish, and connections hang as they do when a
//! cable is pulled. Without root everything is on the loopback and nothing is cut.

use crate::error::Error;
use chaos::plan::Node;
use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
};

/// Where namespaces have their names, see ip-netns(8). In the run's own mount namespace.
const NAMESPACES: &str = "/run/netns";
const BRIDGE: &str = "chaos";
/// Locally administered. Without one of its own it would take that of a link, and change it when links are
/// added, behind the backs of those who have learned it.
const BRIDGE_MAC: &str = "02:00:0a:4d:00:01";
const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// What processes in a namespace of their own listen on.
const PORT: u16 = 7070;

/// How the fleet's processes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Namespaces,
    Loopback,
}

impl Network {
    /// What can be made here. Root is in the run's own namespaces already.
    pub(crate) fn prepare() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Loopback);
        }
        fs::create_dir_all(NAMESPACES).map_err(Error::io("make", NAMESPACES))?;
        command("mount", &["-t", "tmpfs", "tmpfs", NAMESPACES])?;
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} address {BRIDGE_MAC} type bridge"))?;
        ip(&format!("address add {HUB}/24 dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        Ok(Self::Namespaces)
    }

    /// Where clients and relays are.
    pub(crate) fn hub(self) -> IpAddr {
        match self {
            Self::Namespaces => HUB.into(),
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Makes a process's place, and says where it is to listen.
    pub(crate) fn add(self, node: Node) -> Result<SocketAddr, Error> {
        if self == Self::Loopback {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
            return free.map_err(Error::io("find", "a free port"));
        }
        let (link, last) = match node {
            Node::Gateway(number) => (link(node), 10 + number),
            Node::Worker(number) => (link(node), 20 + number),
        };
        let address = Ipv4Addr::new(10, 77, 0, last);
        ip(&format!("netns add {node}"))?;
        ip(&format!("link add {link} type veth peer name eth0 netns {node}"))?;
        ip(&format!("link set {link} master {BRIDGE} up"))?;
        ip(&format!("-n {node} address add {address}/24 dev eth0"))?;
        ip(&format!("-n {node} link set lo up"))?;
        ip(&format!("-n {node} link set eth0 up"))?;
        Ok(SocketAddr::new(address.into(), PORT))
    }

    /// The program to start in that place, with what comes before it.
    pub(crate) fn program(self, node: Node, program: &Path) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Namespaces => {
                // It executes the program in its own stead, under the same process id.
                let mut enter = Command::new("nsenter");
                let mut namespace = OsString::from("--net=");
                namespace.push(Path::new(NAMESPACES).join(node.to_string()));
                enter.arg(namespace).arg(program);
                enter
            }
        }
    }

    pub(crate) fn cut(self, node: Node) -> Result<(), Error> {
        ip(&format!("link set {} down", link(node)))
    }

    pub(crate) fn join(self, node: Node) -> Result<(), Error> {
        ip(&format!("link set {} up", link(node)))
    }

    /// Namespaces that the run did not make.
    pub(crate) fn strangers(self, nodes: &[Node]) -> Result<Vec<String>, Error> {
        if self == Self::Loopback {
            return Ok(Vec::new());
        }
        let own: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        let all = fs::read_dir(NAMESPACES).map_err(Error::io("list", NAMESPACES))?;
        let names = all.flatten().map(|it| it.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| !own.contains(name)).collect())
    }
}

/// The host's end of a process's link; names have 15 characters at most.
fn link(node: Node) -> String {
    format!("c-{node}")
}

fn ip(arguments: &str) -> Result<(), Error> {
    command("ip", &arguments.split(' ').collect::<Vec<_>>())
}

fn command(program: &str, arguments: &[&str]) -> Result<(), Error> {
    let ran = Command::new(program).args(arguments).output().map_err(Error::io("run", program))?;
    if ran.status.success() {
        return Ok(());
    }
    let command = format!("{program} {}", arguments.join(" "));
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(Error::Command { command, status: ran.status.to_string(), said })
}
