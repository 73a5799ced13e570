//! A host for one test: a network and mounts of its own, an internet behind its uplink, and the
//! places of a pool of slots.
//!
//! ```text
//!   slots ─── host ─ wan0 5.5.5.5 ═══ net0 5.5.5.1 ─ the internet
//!             (this thread)                           1.1.1.1, 93.184.216.34, and private addresses
//! ```

use crate::namespace::Namespace;
use aetherium_net::{Prefix, Slots, SlotsConfig};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{fs, io::Write as _, net::Ipv4Addr, path::PathBuf, process::Command};

/// The host's address on the internet.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 5);
/// A server of the internet.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
/// The host's resolver, which is in a private network.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);
/// Where servers greet, on the host and behind it.
pub(crate) const PORT: u16 = 80;
/// What must stay closed to guests, though the host reaches it.
pub(crate) const CLOSED: [Ipv4Addr; 8] = [
    RESOLVER,
    Ipv4Addr::new(10, 20, 30, 40),
    Ipv4Addr::new(100, 64, 0, 9),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 31, 0, 1),
    Ipv4Addr::new(192, 168, 7, 7),
    Ipv4Addr::new(198, 18, 5, 5),
    Ipv4Addr::new(203, 0, 113, 1),
];

pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) network: Namespace,
    pub(crate) internet: Namespace,
}

/// Runs a test on a host of its own; skips it, loudly, where this process is not root.
pub(crate) fn on_a_host(test: impl AsyncFnOnce(&Host) + Send) {
    if !geteuid().is_root() {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test").to_owned();
        // Not by a macro, whose output is shown for failed tests alone.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED {name}: network namespaces and interfaces need root; run the tests as root"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|threads| {
        let host = threads.spawn(|| {
            // SAFETY: this thread alone leaves the machine's network and mounts, and ends with the test.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { test(&Host::new(dir.path().to_owned())).await });
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Host {
    fn new(dir: PathBuf) -> Self {
        let (network, internet) = (Namespace::current(), Namespace::new());
        network.ip("link set lo up");
        let inside = internet.file();
        // The namespace has no name: it is handed over as a descriptor of this process.
        use std::os::fd::AsRawFd as _;
        let path = format!("/proc/{}/fd/{}", std::process::id(), inside.as_raw_fd());
        network.ip(&format!("link add wan0 type veth peer name net0 netns {path}"));
        network.ip(&format!("address add {HOST}/24 dev wan0"));
        network.ip("link set wan0 up");
        internet.ip("address add 5.5.5.1/24 dev net0");
        internet.ip("link set net0 up");
        network.ip("route add default via 5.5.5.1");
        for address in CLOSED.into_iter().chain([SERVER]) {
            internet.ip(&format!("address add {address}/32 dev lo"));
        }
        internet.greet(PORT);
        internet.echo_datagrams(RESOLVER);
        network.greet(PORT);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        Self { dir, network, internet }
    }

    pub(crate) fn config(&self, prefix: &str) -> SlotsConfig {
        let prefix: Prefix = prefix.parse().unwrap();
        SlotsConfig {
            resolvers: vec![RESOLVER],
            netns_dir: self.dir.join("netns"),
            claims_dir: self.dir.join("claims"),
            ..SlotsConfig::new(prefix)
        }
    }

    pub(crate) async fn slots(&self) -> Slots {
        Slots::new(self.config("aet")).await.unwrap()
    }

    /// All that slots could have left behind: claims, namespaces, links, tables, mounts.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for dir in ["claims", "netns"] {
            let Ok(entries) = fs::read_dir(self.dir.join(dir)) else { continue };
            traces.extend(entries.map(|it| format!("{dir}/{}", it.unwrap().file_name().display())));
        }
        // `3: aet-0@if3: <UP> …`: what follows the name changes by itself.
        let links = self.lines("ip", &["-o", "link", "show", "type", "veth"], "");
        let names = links.iter().filter_map(|line| line.split([' ', '@']).nth(1));
        traces.extend(names.filter(|name| *name != "wan0").map(|name| format!("link {name}")));
        let own = format!("{}/netns/", self.dir.display());
        let mounts = self.lines("cat", &["/proc/thread-self/mountinfo"], &own);
        traces.extend(
            mounts.iter().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?))),
        );
        traces
    }

    /// The firewall tables of the host.
    pub(crate) fn tables(&self) -> Vec<String> {
        self.lines("nft", &["list", "tables"], "")
    }

    fn lines(&self, program: &str, args: &[&str], with: &str) -> Vec<String> {
        let output = self.network.run(|| Command::new(program).args(args).output().unwrap());
        assert!(output.status.success(), "{program} {args:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
    }
}
