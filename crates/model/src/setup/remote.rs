//! Where a repository is: an address that git takes for nothing but an address.

use std::{fmt, str::FromStr};

/// The longest address, in bytes.
const MAX_BYTES: usize = 2048;
/// What is said where an address is none.
const WANTED: &str =
    "give https://host/path, http://host/path, ssh://user@host/path or user@host:path";

/// How a repository's server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over HTTP or HTTPS.
    Http,
    /// Over SSH.
    Ssh,
}

/// A repository's address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// How its server is spoken to.
    pub transport: Transport,
    /// The server's name or address.
    pub host: String,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Ssh => "ssh",
        })
    }
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if url.len() > MAX_BYTES {
            return Err(format!("has {} bytes; at most {MAX_BYTES}", url.len()));
        }
        if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("has a space or a control character in it".to_owned());
        }
        match url.split_once("://") {
            Some(("https" | "http", rest)) => Self::over_http(rest),
            Some(("ssh", rest)) => Self::over_ssh(rest),
            Some((scheme, _)) => {
                Err(format!("{:?} is nothing that is cloned from: {WANTED}", shown(scheme)))
            }
            None => Self::scp_like(url),
        }
    }
}

impl Remote {
    fn over_http(rest: &str) -> Result<Self, String> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            // Not repeated: it may well be a password.
            return Err("has a user or a password in it: leave it out, and name a secret of kind \
                        git_token as `credential`"
                .to_owned());
        }
        let host = host_of(authority)?;
        if path.trim_matches('/').is_empty() || path.starts_with(['?', '#']) {
            return Err(format!("names no repository of {host}: {WANTED}"));
        }
        Ok(Self { transport: Transport::Http, host })
    }

    fn over_ssh(rest: &str) -> Result<Self, String> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host_of(without_user(authority)?)?;
        if path.trim_matches('/').is_empty() {
            return Err(format!("names no repository of {host}: {WANTED}"));
        }
        Ok(Self { transport: Transport::Ssh, host })
    }

    /// `user@host:path`. Git takes `x::y` for a program of its own, and a path before it for a
    /// directory.
    fn scp_like(url: &str) -> Result<Self, String> {
        let not_one = || format!("{:?} is not a repository's address: {WANTED}", shown(url));
        let (authority, path) = url.split_once(':').ok_or_else(not_one)?;
        if authority.contains('/') || path.is_empty() || path.starts_with([':', '-']) {
            return Err(not_one());
        }
        let host = host_of(without_user(authority)?)?;
        Ok(Self { transport: Transport::Ssh, host })
    }
}

fn without_user(authority: &str) -> Result<&str, String> {
    let Some((user, host)) = authority.rsplit_once('@') else { return Ok(authority) };
    if user.contains(':') {
        return Err("has a password in it: leave it out, and name a secret of kind ssh_key as \
                    `credential`"
            .to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if user.is_empty() || user.starts_with('-') || !user.chars().all(allowed) {
        return Err(format!("{:?} is not a user's name", shown(user)));
    }
    Ok(host)
}

/// The host of `host` or `host:port`, where it can be one.
fn host_of(text: &str) -> Result<String, String> {
    let bad = || format!("{:?} is not a host", shown(text));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (address, port.strip_prefix(':').or(port.is_empty().then_some("0")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("0")),
        },
    };
    let port = port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    port.and_then(|port| port.parse::<u16>().ok()).ok_or_else(bad)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if host.is_empty() || host.starts_with('-') || !host.chars().all(allowed) {
        return Err(bad());
    }
    Ok(host.to_owned())
}

/// As much of a text as an error repeats.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_over_http_and_ssh_are_taken() {
        for (url, transport, host) in [
            ("https://git.example.org/a/b.git", Transport::Http, "git.example.org"),
            ("http://127.0.0.1:8080/demo.git", Transport::Http, "127.0.0.1"),
            ("https://[::1]:8443/demo", Transport::Http, "::1"),
            ("ssh://git@git.example.org:2222/a/b.git", Transport::Ssh, "git.example.org"),
            ("ssh://git.example.org/~me/b", Transport::Ssh, "git.example.org"),
            ("git@git.example.org:a/b.git", Transport::Ssh, "git.example.org"),
            ("box:b.git", Transport::Ssh, "box"),
        ] {
            let host = host.to_owned();
            assert_eq!(url.parse(), Ok(Remote { transport, host }), "{url}");
        }
    }

    #[test]
    fn what_git_would_take_for_something_else_is_refused() {
        for url in [
            "",
            "/srv/git/demo.git",
            "../demo.git",
            "demo",
            "file:///srv/git/demo.git",
            "git://git.example.org/demo.git",
            "ext::sh -c whoami",
            "ext::whoami",
            "-oProxyCommand=x:y",
            "ssh://-oProxyCommand=x/y",
            "ssh://a@-oProxyCommand=x/y",
            "-x@host:y",
            "host:-x",
            "./a:b",
            "https://",
            "https://host",
            "https://host/",
            "https://host/?x",
            "https://host:x/y",
            "https://host:99999/y",
            "https:///y",
            "https://ho st/y",
            "https://host/y\n",
            "ssh://host",
        ] {
            assert!(url.parse::<Remote>().is_err(), "{url:?} was taken");
        }
        let file = "file:///srv/x".parse::<Remote>().unwrap_err();
        assert!(file.contains("\"file\"") && file.contains("https://"), "{file}");
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for url in [
            "https://user:hunter2@host/x.git",
            "https://hunter2@host/x.git",
            "http://a@b:hunter2@host/x.git",
            "ssh://user:hunter2@host/x.git",
        ] {
            let error = url.parse::<Remote>().unwrap_err();
            assert!(error.contains("`credential`") && !error.contains("hunter2"), "{error}");
        }
    }
}
