//! Users of the guest, by its own `/etc/passwd` and `/etc/group`.
//!
//! Read anew for each command: a command may have added a user. Static binaries cannot use the
//! system's name services, and a guest's files are what its owner edits.

use std::path::Path;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one included.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The two files.
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads the files below `etc`; a missing one is an empty one.
    pub(crate) fn read(etc: &Path) -> Self {
        let read = |name: &str| match std::fs::read(etc.join(name)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        };
        Self { passwd: read("passwd"), group: read("group") }
    }

    /// A user by name or by number. A number need not be in the file.
    pub(crate) fn find(&self, user: &str) -> Option<User> {
        let by_name = self.entries().find(|entry| entry.name == user);
        let number = user.parse::<u32>().ok();
        let entry = by_name.or_else(|| number.and_then(|uid| self.with_uid(uid)));
        match (entry, number) {
            (Some(entry), _) => Some(self.with_groups(entry)),
            (None, Some(uid)) => Some(Self::nameless(uid)),
            (None, None) => None,
        }
    }

    /// The user of that number, in the file or not.
    pub(crate) fn by_uid(&self, uid: u32) -> User {
        self.with_uid(uid).map_or_else(|| Self::nameless(uid), |entry| self.with_groups(entry))
    }

    fn with_uid(&self, uid: u32) -> Option<User> {
        self.entries().find(|entry| entry.uid == uid)
    }

    fn nameless(uid: u32) -> User {
        let (home, shell) = if uid == 0 { ("/root", "/bin/sh") } else { ("/", "/bin/sh") };
        let name = if uid == 0 { "root".to_owned() } else { uid.to_string() };
        User { name, uid, gid: uid, groups: vec![uid], home: home.into(), shell: shell.into() }
    }

    fn entries(&self) -> impl Iterator<Item = User> + '_ {
        self.passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
            let or = |text: &str, default: &str| {
                if text.is_empty() { default.to_owned() } else { text.to_owned() }
            };
            Some(User {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                groups: Vec::new(),
                home: or(home, "/"),
                shell: or(shell, "/bin/sh"),
            })
        })
    }

    fn with_groups(&self, mut user: User) -> User {
        user.groups.push(user.gid);
        for line in self.group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { continue };
            let Ok(gid) = gid.parse() else { continue };
            let is_member = members.split(',').any(|member| member == user.name);
            if is_member && !user.groups.contains(&gid) {
                user.groups.push(gid);
            }
        }
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\n\
                     # a comment\n\
                     dev:x:1000:1000::/home/dev:\n\
                     broken:x:one:1::/:/bin/sh\n"
                .into(),
            group: "root:x:0:\ndocker:x:998:other,dev\ndev:x:1000:dev\nbad:x:y:dev\n".into(),
        }
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_all_groups() {
        let dev = accounts().find("dev").unwrap();
        assert_eq!((dev.uid, dev.gid, dev.groups.as_slice()), (1000, 1000, &[1000, 998][..]));
        assert_eq!(dev.shell, "/bin/sh");
        assert_eq!(accounts().find("1000"), Some(dev));
    }

    #[test]
    fn a_number_without_an_entry_is_a_user_and_a_name_is_not() {
        let user = accounts().find("4242").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (4242, 4242, "/"));
        assert_eq!(accounts().find("nobody-here"), None);
        assert_eq!(accounts().find("broken"), None);
    }
}
