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
    setup::{
        Repository,
        remote::{Remote, Transport},
    },
};
use std::collections::BTreeMap;

/// The variable with the credential, or with the path of its file.
const CREDENTIAL: &str = "AETHERIUM_GIT_CREDENTIAL";
/// Who a token's owner is said to be: servers that look at it take this.
const TOKEN_USER: &str = "x-access-token";
/// What the script ends with where the guest has not got what it needs.
pub(super) const NO_GIT: i32 = 90;
pub(super) const NO_SSH: i32 = 91;

const SCRIPT: &str = include_str!("clone.sh");

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
    let url = repository.url.as_str();
    let wrong = |why: &str| {
        let url = super::plan::without_password(url);
        Fault::new(Code::InvalidRequest, format!("the repository's url {url:?} {why}"))
    };
    let remote: Remote = url.parse().map_err(|why: String| wrong(&why))?;
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("GIT_TERMINAL_PROMPT", "0");
    set("GIT_ALLOW_PROTOCOL", "http:https:ssh");
    set("AETHERIUM_GIT_URL", url);
    set("AETHERIUM_GIT_PATH", path);
    match remote.transport {
        Transport::Http => {
            set("AETHERIUM_GIT_SERVER", server(url));
            set("AETHERIUM_GIT_USER", TOKEN_USER);
        }
        Transport::Ssh => {
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

/// The fault of a clone that failed, with the reason where ssh gave one: git says after it only that it
/// could not read from the server.
pub(super) fn explained(repository: &Repository, fault: Fault) -> Fault {
    let said = |what: &str| fault.evidence.iter().any(|line| line.contains(what));
    let (detail, remedy) = if said("Host key verification failed") {
        (
            "the server shows no host key that is in known_hosts",
            "compare what the server shows (`ssh-keyscan HOST`) with what its owner publishes, and give that as known_hosts; if the two differ, somebody may be in between",
        )
    } else if !said("Permission denied (publickey") {
        return fault.remedy("read what git said; correct the repository or its credential, and prepare it again (`aetherium ws retry`)");
    } else if repository.credential.is_none() {
        (
            "the server wants a key, and none was given",
            "keep a key as a secret of kind ssh_key, and name it as the repository's credential",
        )
    } else {
        (
            "the server lets nobody in with the key that it was shown",
            "let the key's public half in at the server, for the user of the URL; a key with a passphrase cannot be used",
        )
    };
    Fault { detail: detail.to_owned(), ..fault }.remedy(remedy)
}

/// Scheme and server of a URL: what git takes a helper to be for.
fn server(url: &str) -> &str {
    let path =
        url.find("://").and_then(|scheme| url[scheme + 3..].find('/').map(|at| scheme + 3 + at));
    &url[..path.unwrap_or(url.len())]
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
    fn a_token_is_for_the_server_of_the_url() {
        assert_eq!(server("https://git.example.org/a/b.git"), "https://git.example.org");
        assert_eq!(server("http://[::1]:8080/a"), "http://[::1]:8080");
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
    fn the_reason_that_ssh_gives_is_the_faults_and_any_other_is_read_by_a_person() {
        let why = |credential: Option<&str>, line: &str| {
            let url = "git@example.org:a.git";
            let repository = repository(json!({ "url": url, "credential": credential }));
            let fault = Fault::new(Code::StepFailed, "ended with exit code 128");
            explained(&repository, fault.evidence(["before".to_owned(), line.to_owned()]))
        };
        let verified = why(None, "Host key verification failed.");
        assert!(verified.detail.contains("known_hosts"), "{verified}");
        assert_eq!(verified.evidence.len(), 2);
        let denied = "git@example.org: Permission denied (publickey,password).";
        assert!(why(None, denied).detail.contains("none was given"));
        assert!(why(Some("KEY"), denied).detail.contains("lets nobody in"));
        let other = why(Some("KEY"), "fatal: Could not read from remote repository.");
        assert_eq!(other.detail, "ended with exit code 128");
        assert!(other.remedy.contains("git said"));
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
