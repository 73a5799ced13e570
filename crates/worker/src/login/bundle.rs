//! What a login leaves: files below a user's home, as they are stored, and which of two is the newer.
//!
//! A file that a VM has and one that is stored are the same, or one came after the other. Which one:
//!
//! 1. What was stored before, and is no longer, is older than what is.
//! 2. Of anything else the one that was written later is the newer.
//!
//! The first is why a file that was put into a VM, and so has been written there only now, does not pass for newer
//! once another VM has renewed it.

use aetherium_secrets::SecretValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// How many contents that are no longer stored are known again.
const REMEMBERED: usize = 32;
/// The least length of what is taken for a token among other texts, in bytes.
const TOKEN: usize = 16;

/// A file as a VM has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// What is in it.
    pub(super) content: SecretValue,
    /// When it was written, in milliseconds of Unix time.
    pub(super) modified_ms: i64,
}

/// The files of a login that a VM has, by their paths below the user's home.
pub(super) type Found = BTreeMap<String, Seen>;

/// What is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Bundle {
    files: BTreeMap<String, Stored>,
    /// Digests of contents that are no longer stored, the newest last.
    superseded: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    modified_ms: i64,
    #[serde(with = "base64_text")]
    content: SecretValue,
}

impl From<&Seen> for Stored {
    fn from(seen: &Seen) -> Self {
        Self { modified_ms: seen.modified_ms, content: seen.content.clone() }
    }
}

/// A value as base64.
mod base64_text {
    use aetherium_secrets::SecretValue;
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(value: &SecretValue, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(STANDARD.encode(value.reveal())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SecretValue, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        let bytes = STANDARD.decode(text.as_bytes());
        bytes.map(SecretValue::new).map_err(|_| D::Error::custom("is not base64"))
    }
}

/// Why what is stored cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("stored credentials are not what this version writes (line {line}, column {column})")]
pub(super) struct Unreadable {
    line: usize,
    column: usize,
}

impl Bundle {
    /// What somebody's login has left, in place of what was stored before.
    pub(super) fn of_login(found: &Found, before: Option<&Self>) -> Self {
        let files = found.iter().map(|(path, seen)| (path.clone(), Stored::from(seen))).collect();
        let mut bundle = Self { files, superseded: Vec::new() };
        if let Some(before) = before {
            bundle.superseded.clone_from(&before.superseded);
            before.files.values().for_each(|file| bundle.supersede(file));
        }
        bundle
    }

    /// As it was stored.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn decode(value: &SecretValue) -> Result<Self, Unreadable> {
        // The parser's own words would repeat some of it.
        serde_json::from_slice(value.reveal())
            .map_err(|error| Unreadable { line: error.line(), column: error.column() })
    }

    /// As it is stored.
    pub(super) fn encode(&self) -> Result<SecretValue, serde_json::Error> {
        serde_json::to_vec(self).map(SecretValue::new)
    }

    /// This, with what `found` has that is newer; `None` where it has nothing.
    pub(super) fn renewed_by(&self, found: &Found) -> Option<Self> {
        let is_newer = |path: &str, seen: &Seen| match self.files.get(path) {
            Some(stored) => {
                stored.content != seen.content
                    && !self.is_superseded(&seen.content)
                    && seen.modified_ms > stored.modified_ms
            }
            None => !self.is_superseded(&seen.content),
        };
        let newer: Vec<_> = found.iter().filter(|(path, seen)| is_newer(path, seen)).collect();
        if newer.is_empty() {
            return None;
        }
        let mut files = self.files.clone();
        let mut bundle = Self { files: BTreeMap::new(), superseded: self.superseded.clone() };
        for (path, seen) in newer {
            if let Some(before) = files.insert(path.clone(), Stored::from(seen)) {
                bundle.supersede(&before);
            }
        }
        bundle.files = files;
        Some(bundle)
    }

    /// What a VM that has `found` lacks, or has an older one of.
    pub(super) fn lacking_in(&self, found: &Found) -> Vec<(String, SecretValue)> {
        let is_older = |seen: &Seen, stored: &Stored| {
            self.is_superseded(&seen.content) || seen.modified_ms <= stored.modified_ms
        };
        let lacks = |path: &str, stored: &Stored| match found.get(path) {
            Some(seen) => stored.content != seen.content && is_older(seen, stored),
            None => true,
        };
        let lacking = self.files.iter().filter(|(path, stored)| lacks(path, stored));
        lacking.map(|(path, stored)| (path.clone(), stored.content.clone())).collect()
    }

    /// Whether it has, or had, all of this.
    pub(super) fn knows(&self, found: &Found) -> bool {
        let is_known = |(path, seen): (&String, &Seen)| {
            let is_stored = self.files.get(path).is_some_and(|it| it.content == seen.content);
            is_stored || self.is_superseded(&seen.content)
        };
        found.iter().all(is_known)
    }

    /// What is not to be shown of it: of JSON each long text, of anything else each long word.
    pub(super) fn tokens(&self) -> Vec<SecretValue> {
        self.files.values().flat_map(|file| tokens_of(&file.content)).collect()
    }

    fn is_superseded(&self, content: &SecretValue) -> bool {
        self.superseded.contains(&digest(content))
    }

    fn supersede(&mut self, before: &Stored) {
        let digest = digest(&before.content);
        let is_stored = self.files.values().any(|file| self::digest(&file.content) == digest);
        if is_stored || self.superseded.contains(&digest) {
            return;
        }
        self.superseded.push(digest);
        let too_many = self.superseded.len().saturating_sub(REMEMBERED);
        self.superseded.drain(..too_many);
    }
}

fn digest(content: &SecretValue) -> String {
    Sha256::digest(content.reveal()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is not to be shown of a file.
pub(super) fn tokens_of(content: &SecretValue) -> Vec<SecretValue> {
    let mut tokens = Vec::new();
    match serde_json::from_slice(content.reveal()) {
        Ok(json) => texts(&json, &mut tokens),
        Err(_) => {
            let text = String::from_utf8_lossy(content.reveal());
            let is_end = |c: char| c.is_whitespace() || "\"'=:,;(){}[]".contains(c);
            tokens.extend(text.split(is_end).map(str::to_owned));
        }
    }
    let is_token = |text: &String| {
        text.len() >= TOKEN && !text.contains(char::is_whitespace) && !text.contains("://")
    };
    let tokens = tokens.into_iter().filter(is_token);
    tokens.map(|token| SecretValue::new(token.into_bytes())).collect()
}

fn texts(json: &serde_json::Value, texts_of: &mut Vec<String>) {
    match json {
        serde_json::Value::String(text) => texts_of.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|it| texts(it, texts_of)),
        serde_json::Value::Object(fields) => fields.values().for_each(|it| texts(it, texts_of)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(content: &str, modified_ms: i64) -> Found {
        let content = SecretValue::new(content.as_bytes().to_vec());
        [("auth.json".to_owned(), Seen { content, modified_ms })].into()
    }

    fn content(bundle: &Bundle) -> String {
        let value = &bundle.files["auth.json"].content;
        value.reveal_text().unwrap().to_owned()
    }

    fn texts(lacking: Vec<(String, SecretValue)>) -> Vec<String> {
        lacking.into_iter().map(|(_, it)| it.reveal_text().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_vm_without_the_files_gets_them_and_one_that_has_them_does_not() {
        let bundle = Bundle::of_login(&found("one", 10), None);
        assert_eq!(texts(bundle.lacking_in(&Found::new())), ["one"]);
        assert!(bundle.lacking_in(&found("one", 3)).is_empty());
        assert!(bundle.renewed_by(&found("one", 99)).is_none(), "it is the same");
    }

    #[test]
    fn of_two_vms_that_renew_the_later_one_is_kept() {
        let first = Bundle::of_login(&found("one", 10), None);
        let second = first.renewed_by(&found("two", 20)).unwrap();
        assert!(second.renewed_by(&found("other", 15)).is_none(), "it came before");
        assert_eq!(content(&second.renewed_by(&found("three", 25)).unwrap()), "three");
        assert_eq!(texts(second.lacking_in(&found("other", 15))), ["two"]);
        assert!(second.lacking_in(&found("three", 25)).is_empty(), "it is newer");
    }

    #[test]
    fn what_was_put_into_a_vm_is_not_newer_for_having_been_written_there_later() {
        let first = Bundle::of_login(&found("one", 10), None);
        let second = first.renewed_by(&found("two", 20)).unwrap();
        // "one" was put there at 30.
        assert!(second.renewed_by(&found("one", 30)).is_none());
        assert_eq!(texts(second.lacking_in(&found("one", 30))), ["two"]);
        let again = Bundle::of_login(&found("new", 5), Some(&second));
        assert_eq!(texts(again.lacking_in(&found("two", 99))), ["new"]);
    }

    #[test]
    fn tokens_are_found_among_other_things_and_what_is_stored_reads_back() {
        let json = r#"{"t": {"access": "sk-0123456789abcdef", "scopes": ["short"]}, "url": "https://id.example/abcdef"}"#;
        let bundle = Bundle::of_login(&found(json, 10), None);
        let tokens: Vec<_> =
            bundle.tokens().iter().map(|it| it.reveal_text().unwrap().to_owned()).collect();
        assert_eq!(tokens, ["sk-0123456789abcdef"]);
        let other = SecretValue::new(b"token=\"0123456789abcdefg\"\nname = x".to_vec());
        assert_eq!(tokens_of(&other).len(), 1);
        let again = Bundle::decode(&bundle.encode().unwrap()).unwrap();
        assert_eq!(content(&again), json);
        let error =
            Bundle::decode(&SecretValue::new(b"{\"files\": s3cret".to_vec())).err().unwrap();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    /// A VM with a copy, and when it was written.
    #[derive(Debug, Clone)]
    enum Act {
        /// It is brought in line, as before a prompt.
        Sync(usize),
        /// Its program renews the credentials.
        Renew(usize),
    }

    proptest! {
        #[test]
        fn whatever_vms_do_the_last_renewal_reaches_all_of_them(
            acts in proptest::collection::vec(
                (0..3usize, any::<bool>()).prop_map(|(vm, sync)| if sync { Act::Sync(vm) } else { Act::Renew(vm) }),
                0..12,
            ),
        ) {
            let mut stored = Bundle::of_login(&found("login", 0), None);
            let mut vms = [Found::new(), Found::new(), Found::new()];
            let (mut now, mut last) = (0, "login".to_owned());
            let sync = |stored: &mut Bundle, vm: &mut Found, now: i64| {
                if let Some(renewed) = stored.renewed_by(vm) {
                    *stored = renewed;
                }
                for (path, content) in stored.lacking_in(vm) {
                    vm.insert(path, Seen { content, modified_ms: now });
                }
            };
            for act in acts {
                now += 1;
                match act {
                    Act::Sync(vm) => sync(&mut stored, &mut vms[vm], now),
                    Act::Renew(vm) => {
                        last = format!("renewed at {now}");
                        vms[vm] = found(&last, now);
                    }
                }
            }
            for _ in 0..2 {
                for vm in &mut vms {
                    now += 1;
                    sync(&mut stored, vm, now);
                }
            }
            prop_assert_eq!(&content(&stored), &last);
            for vm in &vms {
                prop_assert_eq!(vm["auth.json"].content.reveal_text(), Some(last.as_str()));
            }
        }
    }
}
