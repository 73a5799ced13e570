//! Where the database is: parsed once, printed without its password.

use crate::StoreError;
use std::{fmt, path::PathBuf, str::FromStr};

/// The address of a database.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file of SQLite, created on first use.
    Sqlite(PathBuf),
    /// A PostgreSQL server's database, as `postgres://…`.
    Postgres(String),
}

impl DatabaseUrl {
    /// The address as its driver takes it.
    pub(crate) fn driver_url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite://{}?mode=rw", percent_encode(path)),
            Self::Postgres(url) => url.clone(),
        }
    }
}

/// Keeps what a path may have unescaped in a URL (RFC 3986, section 3.3) and escapes the rest.
fn percent_encode(path: &std::path::Path) -> String {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut url, &byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

impl FromStr for DatabaseUrl {
    type Err = StoreError;

    fn from_str(given: &str) -> Result<Self, StoreError> {
        let invalid = |problem: &str| StoreError::InvalidUrl {
            given: without_password(given),
            problem: problem.to_owned(),
        };
        if let Some(path) = given.strip_prefix("sqlite://") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(invalid("the path after sqlite:// must be that of a file, from /"));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if given.starts_with("postgres://") || given.starts_with("postgresql://") {
            return Ok(Self::Postgres(given.to_owned()));
        }
        Err(invalid("it starts with neither sqlite:// nor postgres://"))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Removes what may be secret: the password before the host, and every parameter.
fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (user, host))) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_shows() {
        let url: DatabaseUrl = "postgres://ae:s3@cr3t@db:5432/ae?password=x".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "postgres://ae@db:5432/ae postgres://ae@db:5432/ae");
        let error = "mysql://u:s3cr3t@h/d".parse::<DatabaseUrl>().unwrap_err().to_string();
        assert!(!error.contains("s3cr3t") && error.contains("mysql://u@h/d"), "{error}");
    }

    #[test]
    fn only_a_file_from_the_root_is_taken() {
        assert_eq!(
            "sqlite:///a b/c.db".parse::<DatabaseUrl>().unwrap(),
            DatabaseUrl::Sqlite("/a b/c.db".into())
        );
        for bad in ["sqlite://", "sqlite://x.db", "sqlite:///x/", "sqlite::memory:", "/x.db", ""] {
            assert!(bad.parse::<DatabaseUrl>().is_err(), "{bad:?} was accepted");
        }
    }
}
