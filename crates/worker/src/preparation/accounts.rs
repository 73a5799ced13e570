//! Users of a guest: found by its own files, and made where it has none of that name. Without `useradd`,
//! which small images have not got.
//!
//! The files are read and written whole, each by one rename, the list of users last: at every moment the
//! guest has the user or has not. Nothing but the preparation and the prompts of a workspace make users in
//! it, one after the other.

use aetherium_agent_client::{AgentClient, AgentError};
use aetherium_agent_proto::files::{Attributes, ByteRange, FileMode, Ownership, WriteOptions};
use aetherium_model::{Code, Fault, recipe::UserName};
use bytes::Bytes;
use std::collections::BTreeSet;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const SHADOW: &str = "/etc/shadow";
/// The first number of a person's account, see login.defs(5).
const FIRST_ID: u32 = 1000;
/// The last: `nobody` and the numbers for containers come after.
const LAST_ID: u32 = 59_999;
/// The most that is read of such a file.
const MAX_BYTES: usize = 1 << 20;

/// Sees to it that the guest has a user. Whether it was made.
///
/// # Errors
/// `step_failed`: it cannot be made, for a reason that the detail names.
pub(crate) async fn ensure(agent: &AgentClient, user: &UserName) -> Result<bool, Fault> {
    let name = user.as_str();
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number needs no account.
        return Ok(false);
    }
    let failed = |why: String| {
        Fault::new(Code::StepFailed, format!("the user {name:?} cannot be made: {why}"))
            .remedy("name a user that the template has, or one that its files can take")
    };
    made(agent, name).await.map_err(failed)
}

async fn made(agent: &AgentClient, name: &str) -> Result<bool, String> {
    let passwd = read(agent, PASSWD).await?.unwrap_or_default();
    if field(&passwd, name, 2).is_some() {
        return Ok(false);
    }
    if !may_be_made(name) {
        return Err("a user's name has 1 to 32 of a-z, 0-9, '_' and '-', from a letter on".into());
    }
    let group = read(agent, GROUP).await?.unwrap_or_default();
    let shadow = read(agent, SHADOW).await?;
    let has_bash = agent.files().stat("/bin/bash").await.is_ok();
    let shell = if has_bash { "/bin/bash" } else { "/bin/sh" };
    let account = Account::new(name, shell, shadow.is_some(), &passwd, &group)?;
    if let Some(line) = &account.group_line {
        write(agent, GROUP, &with_line(&group, line), 0o644).await?;
    }
    if let Some(shadow) = shadow.filter(|shadow| field(shadow, name, 1).is_none()) {
        let line = format!("{name}:!:::::::");
        write(agent, SHADOW, &with_line(&shadow, &line), 0o640).await?;
    }
    home(agent, &account).await.map_err(|error| error.to_string())?;
    write(agent, PASSWD, &with_line(&passwd, &account.line), 0o644).await?;
    Ok(true)
}

async fn home(agent: &AgentClient, account: &Account) -> Result<(), AgentError> {
    let files = agent.files();
    files.make_dir(&account.home, FileMode::new(0o755).ok()).await?;
    let ownership =
        Ownership { user: Some(account.uid.to_string()), group: Some(account.gid.to_string()) };
    files.set_attributes(&account.home, Attributes { mode: None, ownership }).await?;
    Ok(())
}

/// What a new account is.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    home: String,
    /// Its line of the list of users.
    line: String,
    /// That of its group, unless there is one of its name.
    group_line: Option<String>,
}

impl Account {
    fn new(
        name: &str,
        shell: &str,
        has_shadow: bool,
        passwd: &[u8],
        group: &[u8],
    ) -> Result<Self, String> {
        let taken: BTreeSet<u32> = numbers(passwd).chain(numbers(group)).collect();
        let free = (FIRST_ID..=LAST_ID).find(|id| !taken.contains(id));
        let uid = free.ok_or_else(|| format!("{FIRST_ID} to {LAST_ID} are all taken"))?;
        let own = field(group, name, 2).and_then(|gid| gid.parse().ok());
        let gid = own.unwrap_or(uid);
        let home = format!("/home/{name}");
        let password = if has_shadow { "x" } else { "*" };
        Ok(Self {
            uid,
            gid,
            line: format!("{name}:{password}:{uid}:{gid}::{home}:{shell}"),
            group_line: own.is_none().then(|| format!("{name}:x:{gid}:")),
            home,
        })
    }
}

/// Nothing that the files' own syntax or a shell would take for more than a name.
fn may_be_made(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// A field of the line that begins with `name`.
fn field(file: &[u8], name: &str, number: usize) -> Option<String> {
    let text = String::from_utf8_lossy(file);
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut found = lines.find(|line| line.clone().next() == Some(name))?;
    found.nth(number).map(str::to_owned)
}

/// The third field of each line: a user's number, or a group's.
fn numbers(file: &[u8]) -> impl Iterator<Item = u32> {
    let text = String::from_utf8_lossy(file).into_owned();
    let number = |line: &str| line.split(':').nth(2)?.parse().ok();
    text.lines().filter_map(number).collect::<Vec<_>>().into_iter()
}

/// A file with one more line. What was there stays as it is, byte by byte.
fn with_line(file: &[u8], line: &str) -> Vec<u8> {
    let mut all = file.to_vec();
    if all.last().is_some_and(|last| *last != b'\n') {
        all.push(b'\n');
    }
    all.extend_from_slice(line.as_bytes());
    all.push(b'\n');
    all
}

/// A small file, or nothing where there is none.
async fn read(agent: &AgentClient, path: &str) -> Result<Option<Vec<u8>>, String> {
    let failed = |error: AgentError| format!("{path} cannot be read: {error}");
    let mut reader = match agent.files().read(path, ByteRange::default()).await {
        Ok(reader) => reader,
        Err(_) if agent.files().stat(path).await.is_err() => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await.map_err(failed)? {
        all.extend_from_slice(&bytes);
        if all.len() > MAX_BYTES {
            return Err(format!("{path} has more than {MAX_BYTES} bytes"));
        }
    }
    Ok(Some(all))
}

/// Writes a file whole. Mode and owner stay as they were; `mode` is a new one's.
async fn write(agent: &AgentClient, path: &str, all: &[u8], mode: u32) -> Result<(), String> {
    let failed = |error: AgentError| format!("{path} cannot be written: {error}");
    let is_there = agent.files().stat(path).await.is_ok();
    let mode = if is_there { None } else { FileMode::new(mode).ok() };
    let options = WriteOptions { mode, make_parents: true, ..WriteOptions::default() };
    let mut writer = agent.files().write(path, options).await.map_err(failed)?;
    writer.write(Bytes::copy_from_slice(all)).await.map_err(failed)?;
    writer.commit().await.map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOME: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false";

    #[test]
    fn the_first_account_is_1000_and_is_added_on_a_line_of_its_own() {
        let account = Account::new("dev", "/bin/sh", true, SOME, b"").unwrap();
        assert_eq!((account.uid, account.gid), (1000, 1000));
        let file = with_line(SOME, &account.line);
        let text = String::from_utf8(file.clone()).unwrap();
        assert!(text.ends_with("/bin/false\ndev:x:1000:1000::/home/dev:/bin/sh\n"), "{text}");
        assert_eq!(field(&file, "dev", 5).as_deref(), Some("/home/dev"));
        assert_eq!(account.group_line.as_deref(), Some("dev:x:1000:"));
    }

    #[test]
    fn a_group_of_the_users_name_is_the_users() {
        let account = Account::new("dev", "/bin/sh", false, SOME, b"dev:x:77:\n").unwrap();
        assert_eq!((account.gid, account.group_line), (77, None));
        assert!(account.line.starts_with("dev:*:1000:77:"), "{}", account.line);
    }

    #[test]
    fn a_name_that_would_be_more_than_a_name_is_not_made() {
        for bad in ["", "a:b", "a\nroot", "Root", "-a", "1a", "a b", "ä", &"a".repeat(33)] {
            assert!(!may_be_made(bad), "{bad:?}");
        }
        assert!(may_be_made("dev-1") && may_be_made("_apt"));
    }

    proptest! {
        #[test]
        fn a_new_account_takes_no_number_that_anybody_has_and_nothing_else_changes(
            ids in proptest::collection::btree_set(995u32..1010, 0..15),
            noise in "[a-z:+#\n]{0,40}",
        ) {
            let list: String = ids.iter().map(|id| format!("u{id}:x:{id}:{id}::/:/bin/sh\n")).collect();
            let passwd = format!("{noise}\n{list}").into_bytes();
            let account = Account::new("dev", "/bin/sh", true, &passwd, b"").unwrap();
            prop_assert!(account.uid >= 1000 && !ids.contains(&account.uid));
            prop_assert!((1000..account.uid).all(|id| ids.contains(&id)), "the next free one");
            let after = with_line(&passwd, &account.line);
            prop_assert!(after.starts_with(&passwd));
            let line = format!("{}\n", account.line);
            prop_assert_eq!(&after[passwd.len()..], line.as_bytes());
        }
    }
}
