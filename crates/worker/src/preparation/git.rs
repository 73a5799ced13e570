//! How a repository gets into a guest: one script for the guest's own git, and the variables it reads.
//!
//! What the server is spoken to with is in the environment of the clone alone, or in a file in the guest's
//! memory: git asks a helper for it that is named on the command line and reads the variable, for that
//! server and no other. So it is in no argument, in no URL and in nothing that git writes down; helpers
//! that would keep it are not asked.
//!
//! A clone that was interrupted leaves nothing that would be taken for a whole one: it is made in a
//! directory of its own beside, and moved into place marked as unfinished until its files are there. What
//! others put into the directory is never touched.

use aetherium_model::{
    Code, Fault,
    run::Command,
    secret::{SecretName, SecretUses},
    setup::Repository,
};
use std::collections::BTreeMap;

/// The variable with the credential, or with the path of its file.
const CREDENTIAL: &str = "AETHERIUM_GIT_CREDENTIAL";
/// Who a token's owner is where the URL names nobody: servers that look at it take this.
const TOKEN_USER: &str = "x-access-token";
/// What the script ends with where the guest has not got what it needs.
pub(super) const NO_GIT: i32 = 90;
pub(super) const NO_SSH: i32 = 91;

const SCRIPT: &str = include_str!("clone.sh");

/// A remote as its URL says.
#[derive(Debug, PartialEq, Eq)]
enum Remote {
    Http { server: String, user: Option<String> },
    Ssh,
}

impl Remote {
    fn of(url: &str) -> Result<Self, &'static str> {
        if url.starts_with('-') || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("has characters that no URL has");
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            let Some((host, path)) = url.split_once(':') else {
                return Err("is neither https://…, http://…, ssh://… nor user@host:path");
            };
            let plain = !host.is_empty() && !path.is_empty() && !host.contains('/');
            return if plain { Ok(Self::Ssh) } else { Err("has no host and path") };
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if host.is_empty() || host.starts_with('-') {
            return Err("names no host");
        }
        if user.is_some_and(|user| user.contains(':')) {
            return Err("has a password: keep it in a secret, and name that as the credential");
        }
        match scheme {
            "http" | "https" => Ok(Self::Http {
                server: format!("{scheme}://{host}"),
                user: user.map(str::to_owned),
            }),
            "ssh" => Ok(Self::Ssh),
            _ => Err("is neither https://…, http://…, ssh://… nor user@host:path"),
        }
    }
}

/// What a branch, tag or commit may be, by its looks.
fn reference_kind(branch: &str) -> &'static str {
    let is_hex = branch.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    match (is_hex, branch.len()) {
        (true, 40 | 64) => "commit",
        (true, 7..=63) => "either",
        _ => "name",
    }
}

/// The command that clones a repository to `path`, a directory that is there.
///
/// # Errors
/// `invalid_request`: what the repository says cannot be.
pub(super) fn command(repository: &Repository, path: &str) -> Result<Command, Fault> {
    let wrong = |why: &str| {
        let url = super::plan::without_password(&repository.url);
        Fault::new(Code::InvalidRequest, format!("the repository's url {url:?} {why}"))
    };
    let remote = Remote::of(&repository.url).map_err(wrong)?;
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("GIT_TERMINAL_PROMPT", "0");
    set("GIT_ALLOW_PROTOCOL", "http:https:ssh");
    set("AETHERIUM_GIT_URL", &repository.url);
    set("AETHERIUM_GIT_PATH", path);
    match &remote {
        Remote::Http { server, user } => {
            set("AETHERIUM_GIT_SERVER", server);
            set("AETHERIUM_GIT_USER", user.as_deref().unwrap_or(TOKEN_USER));
        }
        Remote::Ssh => {
            let hosts = repository.known_hosts.as_deref().map(str::trim);
            let hosts = hosts.filter(|hosts| !hosts.is_empty()).ok_or_else(|| {
                wrong("is spoken to over ssh, and no known_hosts say how to know its server")
                    .remedy("give known_hosts: the lines that `ssh-keyscan HOST` prints, once you have compared them with what the server's owner publishes")
            })?;
            set("AETHERIUM_GIT_KNOWN_HOSTS", hosts);
        }
    }
    if let Some(branch) = &repository.branch {
        set("AETHERIUM_GIT_REF", branch);
        set("AETHERIUM_GIT_REF_KIND", reference_kind(branch));
    }
    if let Some(depth) = repository.depth {
        set("AETHERIUM_GIT_DEPTH", &depth.to_string());
    }
    let command = Command::new(["/bin/sh", "-c", SCRIPT, "git-clone"]);
    Ok(Command { env, secrets: credential(repository)?, cwd: Some("/".to_owned()), ..command })
}

fn credential(repository: &Repository) -> Result<SecretUses, Fault> {
    let Some(secret) = &repository.credential else { return Ok(SecretUses::default()) };
    let variable: SecretName = CREDENTIAL.parse().map_err(Fault::internal)?;
    Ok(SecretUses::from_iter([(variable, secret.clone())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn repository(json: serde_json::Value) -> Repository {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_token_is_for_the_server_of_the_url_and_a_password_is_refused() {
        let of = Remote::of;
        let http = |server: &str, user: Option<&str>| {
            Ok(Remote::Http { server: server.to_owned(), user: user.map(str::to_owned) })
        };
        assert_eq!(of("https://git.example.org/a.git"), http("https://git.example.org", None));
        assert_eq!(of("http://me@[::1]:8080/a"), http("http://[::1]:8080", Some("me")));
        assert_eq!(of("git@example.org:a/b.git"), Ok(Remote::Ssh));
        assert_eq!(of("ssh://git@example.org:22/a.git"), Ok(Remote::Ssh));
        for bad in [
            "",
            "--upload-pack=x",
            "/etc",
            "file:///etc",
            "ext::sh -c id",
            "git://example.org/a",
            "https://me:word@example.org/a",
            "https:///a",
            "https://-x/a",
            "a b:c",
            ":c",
            "a:",
            "ssh://-oProxyCommand=x/a",
        ] {
            assert!(of(bad).is_err(), "{bad:?} was accepted as {:?}", of(bad));
        }
    }

    #[test]
    fn no_server_is_spoken_to_over_ssh_whose_key_nobody_gave() {
        let fault = command(&repository(json!({ "url": "git@example.org:a.git" })), "/a");
        let fault = fault.unwrap_err();
        assert!(fault.detail.contains("known_hosts"), "{fault}");
        let known = json!({ "url": "git@example.org:a.git", "known_hosts": "example.org x y" });
        assert!(command(&repository(known), "/a").is_ok());
    }

    #[test]
    fn what_a_refusal_repeats_of_a_url_has_no_password() {
        let url = "https://me:hunter2hunter@example.org/a";
        let fault = command(&repository(json!({ "url": url })), "/a").unwrap_err();
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }

    #[test]
    fn only_what_looks_like_a_whole_commit_is_taken_for_one() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(reference_kind(commit), "commit");
        assert_eq!(reference_kind(&commit[..7]), "either");
        for name in ["main", "v1", "dead", "feature/0123456789"] {
            assert_eq!(reference_kind(name), "name");
        }
    }
}
