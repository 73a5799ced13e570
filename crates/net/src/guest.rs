//! The addressing plan inside a guest. Values only.

use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr};

/// A MAC address; written as six hexadecimal pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not a MAC address: give six hexadecimal pairs");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(invalid()) }
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a guest's one network interface is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestNet {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
    /// Where it sends what is not on its link.
    pub gateway: Ipv4Addr,
    /// Its name server.
    pub dns: Ipv4Addr,
    /// Its interface's hardware address.
    pub mac: Mac,
}

impl GuestNet {
    /// The network that every guest sees: 172.16.0.2/24 via 172.16.0.1, names from 172.16.0.3.
    ///
    /// Behind the name server's address is whatever resolves names where the guest happens to run:
    /// QEMU's own stack, or the resolvers that a slot redirects it to.
    ///
    /// The MAC is locally administered (bit 1 of the first byte) and ends in the address's four
    /// bytes, the convention of Firecracker's own guests.
    pub const COMMON: Self = Self {
        address: Ipv4Addr::new(172, 16, 0, 2),
        prefix: 24,
        gateway: Ipv4Addr::new(172, 16, 0, 1),
        dns: Ipv4Addr::new(172, 16, 0, 3),
        mac: Mac([0x06, 0x00, 172, 16, 0, 2]),
    };

    /// The network's own address, such as 172.16.0.0.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// Whether `other` is on the guest's link.
    pub fn contains(&self, other: Ipv4Addr) -> bool {
        other.to_bits() & self.mask() == self.network().to_bits()
    }

    /// The netmask; a prefix beyond 32 counts as 32, so that nothing here can panic.
    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gateway_and_name_server_are_on_the_link_of_every_guest() {
        let net = GuestNet::COMMON;
        assert_eq!(net.network(), Ipv4Addr::new(172, 16, 0, 0));
        assert!(net.contains(net.address) && net.contains(net.gateway) && net.contains(net.dns));
        assert!(!net.contains(Ipv4Addr::new(172, 16, 1, 2)));
    }

    #[test]
    fn the_common_mac_is_a_locally_administered_unicast_address() {
        let first = GuestNet::COMMON.mac.0[0];
        assert_eq!(first & 0b11, 0b10);
        assert_eq!(GuestNet::COMMON.mac.to_string(), "06:00:ac:10:00:02");
    }

    #[test]
    fn what_is_not_six_pairs_is_no_mac() {
        for text in
            ["", "06:00:ac:10:00", "06:00:ac:10:00:02:03", "6:0:ac:10:0:2", "zz:00:ac:10:00:02"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_mac_reads_back_from_its_text(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>(), Ok(Mac(bytes)));
        }

        #[test]
        fn any_prefix_has_a_network_that_contains_its_guest(address in any::<u32>(), prefix: u8) {
            let net = GuestNet { address: Ipv4Addr::from_bits(address), prefix, ..GuestNet::COMMON };
            prop_assert!(net.contains(net.address));
        }
    }
}
