//! The firewall of a slot and of the host, as text for `nft`, and its laying in one transaction.
//!
//! Two fences stand one behind the other. A slot's own, inside its namespace, decides what its guest
//! may say; a guest cannot reach it. The host's, one table per pool, lets nothing from any slot into
//! the host or into another slot, and hides the slots' addresses behind the host's.
//!
//! The texts are pure functions of their inputs. Every rule set replaces the one of the same name.

use super::{
    NetError, Prefix, Slot, VethRange,
    links::{TAP, UPLINK},
};
use aetherium_model::resources::NetworkMode;
use serde::Deserialize;
use std::{
    fmt::{self, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::io::AsyncWriteExt as _;

/// What no guest may send to: every block that the IANA registry of special-purpose addresses does
/// not call globally reachable, multicast, and the former class E with the broadcast address.
const CLOSED: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// The name of the one table inside a slot's namespace.
const SLOT_TABLE: &str = "aetherium";
/// The host's rules come before others' of the same hook (priority 0): what they refuse stays
/// refused, whatever others allow.
const HOST_PRIORITY: i32 = -10;

/// The rules inside a slot's namespace.
pub(super) fn slot_rules(slot: &Slot, resolvers: &[Ipv4Addr], max_connections: u32) -> String {
    let guest = &slot.guest;
    let (address, gateway, mac) = (guest.address, guest.gateway, guest.mac);
    let (host, outside) = (slot.host_address, slot.address);
    let (outbound, names) = match slot.mode {
        NetworkMode::Isolated => (String::new(), String::new()),
        NetworkMode::Egress => (
            format!("iifname {TAP} oifname {UPLINK} jump outbound"),
            redirect_names(guest.dns, resolvers),
        ),
    };
    format!(
        "table inet {SLOT_TABLE} {{
  set closed {{ type ipv4_addr; flags interval; elements = {{ {closed} }} }}
  # The guest is who it is, and speaks IPv4 alone.
  chain spoofed {{
    type filter hook prerouting priority raw; policy accept;
    iifname {TAP} ether saddr != {mac} drop
    iifname {TAP} meta nfproto != ipv4 drop
    iifname {TAP} ip saddr != {address} drop
  }}
  # What the host sends to the slot's address reaches the guest, on every port.
  chain redirected {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname {UPLINK} ip saddr {host} ip daddr {outside} dnat ip to {address}
    {names}
  }}
  chain hidden {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {TAP} snat ip to {gateway}
    oifname {UPLINK} snat ip to {outside}
  }}
  chain to_slot {{
    type filter hook input priority filter; policy drop;
    iifname {TAP} ip daddr {gateway} icmp type echo-request limit rate 20/second accept
    iifname {TAP} jump refused
  }}
  chain from_slot {{
    type filter hook output priority filter; policy drop;
    oifname {TAP} accept
  }}
  chain through {{
    type filter hook forward priority filter; policy drop;
    ct state vmap {{ established : accept, related : accept, invalid : drop }}
    iifname {UPLINK} oifname {TAP} ct status dnat accept
    # What is refused is in no table: only what goes on counts.
    iifname {TAP} ct count over {max_connections} jump refused
    {outbound}
    iifname {TAP} jump refused
  }}
  chain outbound {{
    ct status dnat accept
    ip daddr != @closed accept
  }}
  # Told, so that a program in the guest fails at once instead of waiting.
  chain refused {{
    limit rate over 100/second drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
}}
",
        closed = CLOSED.join(", "),
    )
}

/// The guest's name server is an address of the slot; behind it are the host's, in turn.
fn redirect_names(dns: Ipv4Addr, resolvers: &[Ipv4Addr]) -> String {
    let target = match resolvers {
        [] => return String::new(),
        [one] => one.to_string(),
        several => {
            let mut map = format!("numgen inc mod {} map {{ ", several.len());
            for (index, resolver) in several.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                // Writing to a string cannot fail.
                let _ = write!(map, "{comma}{index} : {resolver}");
            }
            map + " }"
        }
    };
    format!(
        "iifname {TAP} ip daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {target}"
    )
}

/// The host's rules for all slots of a pool, those that are there and those to come.
pub(super) fn host_rules(prefix: &Prefix, range: VethRange, resolvers: &[Ipv4Addr]) -> String {
    let names = if resolvers.is_empty() {
        String::new()
    } else {
        let list: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
        format!("ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept", list.join(", "))
    };
    format!(
        "{removed}table inet {prefix} {{
  set closed {{ type ipv4_addr; flags interval; elements = {{ {closed} }} }}
  # Answers to the host, and nothing else.
  chain to_host {{
    type filter hook input priority {HOST_PRIORITY}; policy accept;
    iifname \"{prefix}-*\" ct state established,related accept
    iifname \"{prefix}-*\" drop
  }}
  chain through {{
    type filter hook forward priority {HOST_PRIORITY}; policy accept;
    oifname \"{prefix}-*\" iifname \"{prefix}-*\" drop
    oifname \"{prefix}-*\" ct state != {{ established, related }} drop
    iifname \"{prefix}-*\" jump from_slots
  }}
  # What another of the host's tables has redirected is a service of the host.
  chain from_slots {{
    ip saddr != {range} drop
    meta nfproto != ipv4 drop
    {names}
    ct status dnat drop
    ip daddr @closed drop
  }}
  chain hidden {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {range} ip daddr != {range} masquerade
  }}
}}
",
        removed = host_rules_removed(prefix),
        closed = CLOSED.join(", "),
    )
}

/// Removes the host's rules of a pool; to name the table first makes that no error where it is not.
pub(super) fn host_rules_removed(prefix: &Prefix) -> String {
    format!("table inet {prefix}\ndelete table inet {prefix}\n")
}

/// A chain of the host's firewall, so far as it concerns slots.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Chain {
    family: String,
    pub(super) table: String,
    name: String,
    /// Only base chains have one.
    #[serde(default)]
    hook: Option<String>,
    #[serde(default)]
    policy: Option<String>,
}

impl Chain {
    /// Whether forwarded IPv4 packets end here unless a rule lets them through.
    pub(super) fn drops_forwarded(&self) -> bool {
        matches!(self.family.as_str(), "ip" | "inet")
            && self.hook.as_deref() == Some("forward")
            && self.policy.as_deref() == Some("drop")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} of table {} {}", self.name, self.family, self.table)
    }
}

/// What `nft -j list chains` prints: an array of objects of one key each.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Listed>,
}

/// One of them. All but chains is passed over.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    chain: Option<Chain>,
}

/// The `nft` program.
#[derive(Debug, Clone)]
pub(super) struct Nft(PathBuf);

impl Nft {
    /// Looks for it.
    pub(super) fn find(configured: Option<&Path>) -> Result<Self, NetError> {
        let wanted = configured.unwrap_or(Path::new("nft"));
        if let Some(path) = configured.filter(|path| path.is_file()) {
            return Ok(Self(path.to_owned()));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Package tools put it in sbin, which a user's PATH may lack.
        let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let found = std::env::split_paths(&path)
            .chain(administrators)
            .map(|dir| dir.join("nft"))
            .find(|path| configured.is_none() && path.is_file());
        found.map(Self).ok_or_else(|| NetError::NftMissing { program: wanted.to_owned() })
    }

    /// The program's path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Lays `rules` in the calling thread's namespace, all of them or none. `of` says whose they are.
    pub(super) async fn apply(&self, rules: &str, of: &str) -> Result<(), NetError> {
        self.run(&["-f", "-"], rules, of).await.map(drop)
    }

    /// All chains of the calling thread's namespace.
    pub(super) async fn chains(&self) -> Result<Vec<Chain>, NetError> {
        let of = "the host";
        let printed = self.run(&["-j", "list", "chains"], "", of).await?;
        let listing: Listing = serde_json::from_slice(&printed).map_err(|error| {
            NetError::NftRefused { of: of.to_owned(), message: format!("its list reads: {error}") }
        })?;
        Ok(listing.nftables.into_iter().filter_map(|it| it.chain).collect())
    }

    /// Runs it in the calling thread's namespace and returns what it prints.
    async fn run(&self, args: &[&str], input: &str, of: &str) -> Result<Vec<u8>, NetError> {
        let failed = |action| NetError::io(action, &self.0);
        let mut child = tokio::process::Command::new(&self.0)
            .args(args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed("run"))?;
        // A program that ends early closes its end; what it then says is the better reason.
        let written = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(input.as_bytes()).await,
            None => Ok(()),
        };
        let output = child.wait_with_output().await.map_err(failed("wait for"))?;
        if output.status.success() {
            return written.map(|()| output.stdout).map_err(failed("write to"));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said =
            if said.trim().is_empty() { output.status.to_string() } else { said.into_owned() };
        let message = said.trim().chars().take(2000).collect();
        Err(NetError::NftRefused { of: of.to_owned(), message })
    }
}
