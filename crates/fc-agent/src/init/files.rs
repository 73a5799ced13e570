//! The few files that give a guest its identity.

use std::io;

use aetherium_agent_proto::config::GuestConfig;

use super::note;

/// Sets the host name and writes `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, as far as
/// the configuration speaks of them. A read-only root keeps its own files.
pub(super) fn write_identity(config: &GuestConfig) {
    if let Some(hostname) = &config.hostname {
        if let Err(error) = rustix::system::sethostname(hostname.as_bytes()) {
            note(format!("the host name `{hostname}` was not set: {error}"));
        }
        write("/etc/hostname", &format!("{hostname}\n"));
        write("/etc/hosts", &hosts(hostname));
    }
    if let Some(net) = config.net.as_ref().filter(|net| !net.dns.is_empty()) {
        let servers: String =
            net.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        write("/etc/resolv.conf", &servers);
    }
}

fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    )
}

fn write(path: &str, text: &str) {
    // A link, such as one to a resolver that does not run here, is replaced and not followed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return note(format!("{path} stays as it is: {error}"));
        }
        _ => {}
    }
    if let Err(error) = std::fs::write(path, text) {
        note(format!("{path} was not written: {error}"));
    }
}
