//! What a pool of slots is made with: the prefix of its names, its addresses, its resolvers.
//!
//! Values only; whether they fit this host is looked at by [`preflight`](super::preflight).

use aetherium_model::{VmId, WorkerId};
use std::{fmt, fs, net::Ipv4Addr, path::PathBuf, str::FromStr};

/// What every name of a pool begins with: interfaces and namespaces are `<prefix>-<number>`, the
/// host's table of firewall rules is `<prefix>`.
///
/// One to nine lowercase letters and digits, the first a letter. Nine, because an interface's name
/// has at most 15 bytes (`IFNAMSIZ` less its NUL) and a dash and five digits follow. No dash,
/// because rules match `<prefix>-*`, and one pool's names must never match another's pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The most bytes it may have.
    pub const MAX_BYTES: usize = 9;

    /// The prefix of a worker's pool: `aet` and the last six characters of its id, which are random.
    pub fn of_worker(id: WorkerId) -> Self {
        Self::of_id(&id.to_string())
    }

    /// The prefix of a pool that is one VM's alone, made in the same way of its id.
    pub fn of_vm(id: VmId) -> Self {
        Self::of_id(&id.to_string())
    }

    fn of_id(text: &str) -> Self {
        Self(format!("aet{}", &text[text.len() - 6..]))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the slot with that number.
    pub(super) fn name(&self, number: u32) -> String {
        format!("{}-{number}", self.0)
    }

    /// The number in a name of this pool; `None` for any other name.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&self.0)?.strip_prefix('-')?;
        digits.parse().ok().filter(|number| self.name(*number) == name)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if starts && text.len() <= Self::MAX_BYTES && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no prefix for interfaces: give a lowercase letter and up to {} more \
                 letters or digits",
                Self::MAX_BYTES - 1
            ))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The addresses between the host and its slots, carved into one /30 per slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VethRange {
    network: Ipv4Addr,
    prefix: u8,
}

/// One slot's /30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VethPair {
    /// The block's own address; what is claimed.
    pub(super) block: Ipv4Addr,
    /// The host's end.
    pub(super) host: Ipv4Addr,
    /// The slot's end.
    pub(super) slot: Ipv4Addr,
}

impl VethRange {
    /// 198.19.0.0/16, room for 16,384 slots: the upper half of the block that RFC 2544 sets aside
    /// for benchmarks between devices, so that no network that a guest may want uses it.
    pub const DEFAULT: Self = Self { network: Ipv4Addr::new(198, 19, 0, 0), prefix: 16 };
    /// The length of each slot's prefix, in bits.
    pub(super) const PAIR_PREFIX: u8 = 30;
    /// The largest range: a slot's number has at most five digits.
    const SHORTEST_PREFIX: u8 = 14;

    /// The most slots that fit.
    pub fn slots(&self) -> u32 {
        1 << (Self::PAIR_PREFIX - self.prefix)
    }

    /// The addresses of slot `number`, which is below [`slots`](Self::slots).
    pub(super) fn pair(&self, number: u32) -> VethPair {
        let at = |offset| Ipv4Addr::from_bits(self.network.to_bits() + number * 4 + offset);
        VethPair { block: at(0), host: at(1), slot: at(2) }
    }

    /// Whether any address is both in this range and in `network`/`prefix`.
    pub(super) fn overlaps(&self, network: Ipv4Addr, prefix: u8) -> bool {
        let mask = mask(self.prefix.min(prefix));
        self.network.to_bits() & mask == network.to_bits() & mask
    }
}

const fn mask(prefix: u8) -> u32 {
    match prefix {
        0 => 0,
        1..=32 => u32::MAX << (32 - prefix),
        _ => u32::MAX,
    }
}

impl Default for VethRange {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for VethRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "{text:?} is no range for slots: give an IPv4 network of {} to {} bits, such as {}",
                Self::SHORTEST_PREFIX,
                Self::PAIR_PREFIX,
                Self::DEFAULT
            )
        };
        let (network, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let network: Ipv4Addr = network.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let sized = (Self::SHORTEST_PREFIX..=Self::PAIR_PREFIX).contains(&prefix);
        if !sized || network.to_bits() & !mask(prefix) != 0 {
            return Err(invalid());
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for VethRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// How a pool of slots is made.
#[derive(Debug, Clone)]
pub struct SlotsConfig {
    /// What the names begin with; no two workers of a host may share it.
    pub prefix: Prefix,
    /// The addresses between host and slots. Workers of a host may share it: each /30 is claimed.
    pub range: VethRange,
    /// The name servers that a guest with egress reaches; see [`host_resolvers`]. Without any, such
    /// a guest resolves no names.
    pub resolvers: Vec<Ipv4Addr>,
    /// The most connections that one guest may have at once, those included that the host has opened
    /// to it. The kernel's table of connections is one for the whole host
    /// (`net.netfilter.nf_conntrack_max`, which no namespace can lower for itself), and once it is
    /// full nobody gets through.
    pub max_connections: u32,
    /// Where network namespaces get their names: `/run/netns`, as `ip netns` has it.
    pub netns_dir: PathBuf,
    /// Where claims on addresses are kept, one for all pools of the host: `/run/aetherium/slots`.
    pub claims_dir: PathBuf,
    /// The `nft` program; looked up in `PATH` and in the directories for administrators if absent.
    pub nft: Option<PathBuf>,
}

impl SlotsConfig {
    /// The usual places and addresses, with the host's own resolvers.
    pub fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            range: VethRange::DEFAULT,
            resolvers: host_resolvers(),
            max_connections: MAX_CONNECTIONS,
            netns_dir: "/run/netns".into(),
            claims_dir: "/run/aetherium/slots".into(),
            nft: None,
        }
    }
}

/// What a guest may have of the kernel's table of connections, unless said otherwise: 64 guests at
/// their limit fit the table of a host with 4 GiB of memory or more, which has 262,144 entries.
const MAX_CONNECTIONS: u32 = 4096;

/// The most resolvers that are used: as many as the C library looks at (`MAXNS`).
pub(super) const MAX_RESOLVERS: usize = 3;

/// The name servers that this host asks, so far as a guest can be redirected to them.
///
/// A stub on the loopback, such as systemd-resolved's, cannot be reached from another network
/// namespace; then the servers behind it are taken, from the file where systemd-resolved lists them.
pub fn host_resolvers() -> Vec<Ipv4Addr> {
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"]
        .into_iter()
        // A host without the file has no name servers to tell.
        .map(|path| resolvers_in(&fs::read_to_string(path).unwrap_or_default()))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

fn resolvers_in(resolv_conf: &str) -> Vec<Ipv4Addr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .filter(usable_resolver)
        .take(MAX_RESOLVERS)
        .collect()
}

/// Whether a slot can redirect to it: not this or that host's loopback, and not on the guest's own
/// link, where the slot would look for it.
pub(super) fn usable_resolver(resolver: &Ipv4Addr) -> bool {
    !resolver.is_loopback()
        && !resolver.is_unspecified()
        && !crate::GuestNet::COMMON.contains(*resolver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_of_an_id_is_a_valid_one_and_its_longest_name_fits_an_interface() {
        for prefix in [Prefix::of_worker(WorkerId::new()), Prefix::of_vm(VmId::new())] {
            assert_eq!(prefix.as_str().parse(), Ok(prefix.clone()));
            let last = "10.0.0.0/14".parse::<VethRange>().unwrap().slots() - 1;
            assert!(prefix.name(last).len() <= 15, "{}", prefix.name(last));
        }
    }

    #[test]
    fn a_prefix_that_could_match_another_pools_names_is_refused() {
        for text in ["", "aet-1", "Aet", "1aet", "aet*", "abcdefghij", "ae t"] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_whole_names_of_the_pool_have_a_number() {
        let prefix: Prefix = "aet".parse().unwrap();
        assert_eq!(prefix.number("aet-7"), Some(7));
        for name in ["aet-", "aet-07", "aet-+7", "aet-7x", "aetx-7", "aet", "at-7"] {
            assert_eq!(prefix.number(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_network_of_a_usable_size_is_refused_as_a_range() {
        for text in ["", "10.0.0.0", "10.0.0.0/8", "10.0.0.0/31", "10.0.0.1/16", "x/16"] {
            assert!(text.parse::<VethRange>().is_err(), "{text:?}");
        }
        assert_eq!("198.19.0.0/16".parse(), Ok(VethRange::DEFAULT));
    }

    #[test]
    fn a_stub_on_the_loopback_and_what_is_on_the_guests_link_are_no_resolvers() {
        let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\nnameserver 172.16.0.7\n\
                    nameserver fe80::1\nnameserver\t10.0.0.2\noptions ndots:1\n";
        assert_eq!(resolvers_in(text), [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    proptest! {
        #[test]
        fn slots_of_a_range_never_share_an_address_nor_leave_it(a in 0u32..16_384, b in 0u32..16_384) {
            let range = VethRange::DEFAULT;
            let (first, second) = (range.pair(a), range.pair(b));
            prop_assert_eq!(a == b, first.block == second.block);
            for address in [first.block, first.host, first.slot] {
                prop_assert!(range.overlaps(address, 32));
                prop_assert_eq!(address.to_bits() & mask(30), first.block.to_bits());
            }
        }
    }
}
