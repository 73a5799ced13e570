//! The few settings and files that give a guest its identity.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use aetherium_agent_proto::{Refusal, RefusalKind};

use crate::refuse::OrRefuse as _;

/// The kernel's bound on a host name, in bytes.
const MAX_HOSTNAME: usize = 64;

/// Sets the host name and writes `/etc/hostname` and `/etc/hosts`. All is tried before the first
/// failure is told: a read-only root keeps its files and gets the name all the same.
pub(crate) fn set_hostname(hostname: &str) -> Result<(), Refusal> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let fits = (1..=MAX_HOSTNAME).contains(&hostname.len());
    if !fits || !hostname.bytes().all(is_plain) {
        let detail = format!(
            "`{hostname}` is no host name; give 1 to {MAX_HOSTNAME} letters, digits, dots and hyphens"
        );
        return Err(Refusal::new(RefusalKind::InvalidRequest, detail));
    }
    let set = rustix::system::sethostname(hostname.as_bytes())
        .or_refuse(format_args!("the host name `{hostname}` was not set"));
    let named = write("/etc/hostname", &format!("{hostname}\n"));
    let hosts = write("/etc/hosts", &hosts(hostname));
    set.and(named).and(hosts)
}

/// Writes the name servers to `/etc/resolv.conf`. Without any it stays as it is.
pub(crate) fn set_dns(servers: &[Ipv4Addr]) -> Result<(), Refusal> {
    if servers.is_empty() {
        return Ok(());
    }
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    write("/etc/resolv.conf", &lines)
}

fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    )
}

fn write(path: &str, text: &str) -> Result<(), Refusal> {
    let path = Path::new(path);
    // A link, such as one to a resolver that does not run here, is replaced and not followed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).cannot("be replaced", path);
        }
        _ => {}
    }
    std::fs::write(path, text).cannot("be written", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_host_name_is_refused_before_anything_is_touched() {
        for name in ["", "a b", "a/b", "a\n", &"x".repeat(65)] {
            let refusal = set_hostname(name).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::InvalidRequest, "{name:?}");
        }
    }
}
