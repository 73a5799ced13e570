//! Who has which addresses: one claim per /30, kept as a symbolic link.
//!
//! ```text
//! <claims>/198.19.0.4 -> aet4x7k2m-1:vm_01jx…
//! ```
//!
//! Making a symbolic link is atomic, fails where there is one, and carries a text from its first
//! moment on. So a claim is never half made, whenever its maker is killed, and two workers that
//! share a range never get the same addresses. Owns these links; must never touch what they stand for.

use super::{NetError, Prefix};
use aetherium_model::VmId;
use std::{
    collections::HashMap,
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
};

/// The directory of claims.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    dir: PathBuf,
}

/// What a claim says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The slot's name, `<prefix>-<number>`.
    pub(super) slot: String,
    /// Whose it is.
    pub(super) vm_id: VmId,
}

impl Claim {
    pub(super) fn new(prefix: &Prefix, number: u32, vm_id: VmId) -> Self {
        Self { slot: prefix.name(number), vm_id }
    }

    fn parse(text: &str) -> Option<Self> {
        let (slot, vm_id) = text.split_once(':')?;
        Some(Self { slot: slot.to_owned(), vm_id: vm_id.parse().ok()? })
    }
}

impl Claims {
    /// The claims in a directory, which need not be there to be looked at.
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the directory where it is missing.
    pub(super) fn create_dir(&self) -> Result<(), NetError> {
        let mut made = fs::DirBuilder::new();
        made.recursive(true).mode(0o755);
        made.create(&self.dir).map_err(NetError::io("create", &self.dir))
    }

    /// Claims a block; `false` if somebody has it.
    pub(super) fn take(&self, block: Ipv4Addr, claim: &Claim) -> Result<bool, NetError> {
        let path = self.path(block);
        match symlink(format!("{}:{}", claim.slot, claim.vm_id), &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(NetError::io("claim", path)(error)),
        }
    }

    /// Who has a block; `None` if nobody has.
    pub(super) fn of(&self, block: Ipv4Addr) -> Result<Option<Claim>, NetError> {
        let path = self.path(block);
        match fs::read_link(&path) {
            Ok(target) => Ok(Claim::parse(&target.to_string_lossy())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(NetError::io("read the claim", path)(error)),
        }
    }

    /// Gives a block up. One that nobody has is no error.
    pub(super) fn give_up(&self, block: Ipv4Addr) -> Result<(), NetError> {
        let path = self.path(block);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetError::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All claims, of every pool. What is no claim is passed over.
    pub(super) fn all(&self) -> Result<HashMap<Ipv4Addr, Claim>, NetError> {
        let list = || NetError::io("list", &self.dir);
        let mut found = HashMap::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            other => other.map_err(list())?,
        };
        for entry in entries {
            let name = entry.map_err(list())?.file_name();
            let Some(block) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may be given up meanwhile.
            found.extend(self.of(block)?.map(|claim| (block, claim)));
        }
        Ok(found)
    }

    fn path(&self, block: Ipv4Addr) -> PathBuf {
        self.dir.join(block.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 4);

    fn claim(prefix: &str) -> Claim {
        Claim::new(&prefix.parse().unwrap(), 1, VmId::new())
    }

    #[test]
    fn a_block_is_had_by_the_first_who_claims_it_whatever_their_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::at(&dir.path().join("a/b"));
        assert!(claims.all().unwrap().is_empty());
        claims.create_dir().unwrap();
        let (first, second) = (claim("one"), claim("two"));
        assert!(claims.take(BLOCK, &first).unwrap());
        assert!(!claims.take(BLOCK, &second).unwrap());
        assert_eq!(claims.of(BLOCK).unwrap(), Some(first.clone()));
        assert_eq!(claims.all().unwrap(), HashMap::from([(BLOCK, first)]));
    }

    #[test]
    fn a_block_given_up_twice_is_free_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::at(dir.path());
        assert!(claims.take(BLOCK, &claim("one")).unwrap());
        claims.give_up(BLOCK).unwrap();
        claims.give_up(BLOCK).unwrap();
        assert_eq!(claims.of(BLOCK).unwrap(), None);
        assert!(claims.take(BLOCK, &claim("two")).unwrap());
    }

    #[test]
    fn what_is_no_claim_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::at(dir.path());
        symlink("nonsense", dir.path().join("198.19.0.8")).unwrap();
        symlink("one-1:vm_x", dir.path().join("readme")).unwrap();
        assert!(claims.all().unwrap().is_empty());
    }
}
