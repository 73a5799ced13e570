//! Where webhooks may point: to public addresses only, unless the operator allows others. Otherwise
//! whoever may make a webhook could have the gateway speak to what only the gateway can reach.
//!
//! An address is judged when it is connected to, by what its name stands for at that moment: a name
//! that changes its mind after it was looked at leads nowhere else.

use aetherium_model::webhook::MAX_URL_BYTES;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr as _,
};
use tokio::net::lookup_host;

/// Judges addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    /// Whether private, loopback and link-local addresses may be spoken to.
    pub(crate) allow_private: bool,
}

/// Why an address may not be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{given:?} is not an address: {problem}")]
    Unreadable { given: String, problem: String },
    #[error("it has {bytes} bytes; at most {MAX_URL_BYTES}")]
    TooLong { bytes: usize },
    #[error("{0:?} is not http or https")]
    Scheme(String),
    #[error("it names no host")]
    NoHost,
    #[error("it carries a user or a password: the signature says who speaks")]
    Credentials,
    #[error(
        "{0} is not a public address; `--allow-private-webhooks` lets gateways speak to those of their own network"
    )]
    Private(String),
}

impl Guard {
    /// The address, if it may be spoken to as far as can be told without asking for its name.
    pub(crate) fn check(self, given: &str) -> Result<Url, Refused> {
        if given.len() > MAX_URL_BYTES {
            return Err(Refused::TooLong { bytes: given.len() });
        }
        let url = Url::from_str(given).map_err(|error| Refused::Unreadable {
            given: given.to_owned(),
            problem: error.to_string(),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Refused::NoHost)?;
        // A literal is never asked for by name, so it is judged here.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        match literal {
            Ok(ip) if !self.allows(ip) => Err(Refused::Private(host.to_owned())),
            _ => Ok(url),
        }
    }

    fn allows(self, ip: IpAddr) -> bool {
        self.allow_private || is_public(ip)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> = lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> =
                found.iter().copied().filter(|it| guard.allows(it.ip())).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(Refused::Private(name.as_str().to_owned()).into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether everybody can reach it: in none of the registries of special addresses (RFC 6890 and those
/// after it).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        // This network; shared by carriers; protocols' own; benchmarks; reserved and broadcast.
        || a == 0
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18)
        || a >= 240;
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let last = || {
        let [.., w, x, y, z] = ip.octets();
        Ipv4Addr::new(w, x, y, z)
    };
    match (a, b) {
        // IPv4 in other clothes: translated, or wrapped.
        (0x64, 0xff9b) => is_public_v4(last()),
        (0x2002, _) => {
            let [_, _, w, x, y, z, ..] = ip.octets();
            is_public_v4(Ipv4Addr::new(w, x, y, z))
        }
        // Teredo, benchmarks, ORCHID; documentation.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        // All that is routed is in 2000::/3; of mapped and compatible addresses the IPv4 one counts.
        _ if a & 0xe000 == 0x2000 => true,
        _ => ip.to_ipv4_mapped().is_some_and(is_public_v4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Guard = Guard { allow_private: false };

    #[test]
    fn only_what_everybody_can_reach_is_spoken_to() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fd00::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "[2002:7f00:1::]",
            "[ff02::1]",
            "2130706433",
            "0x7f.1",
            "017700000001",
        ] {
            let refused = STRICT.check(&format!("http://{private}/")).unwrap_err();
            assert!(matches!(refused, Refused::Private(_)), "{private}: {refused}");
            let lax = Guard { allow_private: true };
            assert!(lax.check(&format!("http://{private}/")).is_ok(), "{private}");
        }
        for public in ["1.1.1.1", "93.184.215.14:8443", "[2606:4700::1111]", "example.com"] {
            assert!(STRICT.check(&format!("https://{public}/hook?x=1")).is_ok(), "{public}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_receiver_is_refused_by_name() {
        let refused = |given: &str| STRICT.check(given).unwrap_err();
        assert!(matches!(refused("ftp://example.com/"), Refused::Scheme(_)));
        assert!(matches!(refused("file:///etc/passwd"), Refused::Scheme(_)));
        assert_eq!(refused("https://me:secret@example.com/"), Refused::Credentials);
        assert!(matches!(refused("example.com"), Refused::Unreadable { .. }));
        assert!(matches!(
            refused(&format!("https://x/{}", "y".repeat(3000))),
            Refused::TooLong { .. }
        ));
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_stands_for_when_it_is_connected_to() {
        let strict = STRICT.resolve("localhost".parse().unwrap()).await;
        assert!(strict.err().unwrap().to_string().contains("localhost is not a public address"));
        let lax = Guard { allow_private: true }.resolve("localhost".parse().unwrap()).await;
        assert!(lax.unwrap().count() > 0);
    }
}
