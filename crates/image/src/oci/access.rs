//! How registries are reached: what is kept of them, where else to ask, and who asks.

use super::{auth::Credentials, cache::BlobCache};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    str::FromStr,
};

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryAccess {
    /// Where downloaded blobs are kept.
    pub cache: BlobCache,
    /// Where images of a registry are looked for before it is asked.
    pub mirrors: Vec<Mirror>,
    /// For the registry that the image names, and no other.
    pub credentials: Option<Credentials>,
    /// Docker's `config.json`, for every registry that it knows.
    pub docker_config: Option<PathBuf>,
}

impl RegistryAccess {
    /// As whoever runs this process is known to registries: by AETHERIUM_REGISTRY_USERNAME and
    /// AETHERIUM_REGISTRY_PASSWORD, or as `docker login` left it ($DOCKER_CONFIG, else ~/.docker).
    pub fn as_logged_in(cache: BlobCache, mirrors: Vec<Mirror>) -> Self {
        Self::by_variables(cache, mirrors, |name| std::env::var_os(name))
    }

    fn by_variables(
        cache: BlobCache,
        mirrors: Vec<Mirror>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let text = |name| variable(name)?.into_string().ok().filter(|value| !value.is_empty());
        let credentials = text("AETHERIUM_REGISTRY_USERNAME")
            .zip(text("AETHERIUM_REGISTRY_PASSWORD"))
            .map(|(username, password)| Credentials { username, password });
        let docker = variable("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".docker")));
        let docker_config = docker.map(|dir| dir.join("config.json"));
        Self { cache, mirrors, credentials, docker_config }
    }

    /// With those logins alone that say which registry they are for. Whoever takes images that others
    /// name needs this: they could name a registry of their own, and be sent the login.
    #[must_use]
    pub fn for_what_others_name(self) -> Self {
        Self { credentials: None, ..self }
    }
}

/// Another place for a registry's images: `docker.io=mirror.example:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub(super) registry: String,
    pub(super) host: String,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '=', ' ']);
        match text.split_once('=') {
            Some((registry, host)) if is_host(registry) && is_host(host) => {
                Ok(Self { registry: registry.to_owned(), host: host.to_owned() })
            }
            _ => Err(format!("{text:?} is not REGISTRY=HOST[:PORT]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_what_docker_left_or_two_variables_and_others_are_only_lent_what_has_a_host() {
        let access = |set: &'static [(&str, &str)]| {
            let found = move |name: &str| {
                set.iter().find(|(it, _)| *it == name).map(|(_, value)| OsString::from(value))
            };
            RegistryAccess::by_variables(BlobCache::new("/cache", 0), Vec::new(), found)
        };
        let docker = |it: &RegistryAccess| it.docker_config.clone().unwrap();
        let home = access(&[("HOME", "/root"), ("AETHERIUM_REGISTRY_USERNAME", "me")]);
        assert_eq!(docker(&home), Path::new("/root/.docker/config.json"));
        assert!(home.credentials.is_none(), "a name without a password");
        let both = access(&[
            ("HOME", "/root"),
            ("DOCKER_CONFIG", "/etc/docker"),
            ("AETHERIUM_REGISTRY_USERNAME", "me"),
            ("AETHERIUM_REGISTRY_PASSWORD", "secret"),
        ]);
        assert!(both.credentials.is_some());
        let lent = both.for_what_others_name();
        assert_eq!(docker(&lent), Path::new("/etc/docker/config.json"));
        assert!(lent.credentials.is_none());
    }

    #[test]
    fn a_mirror_is_a_registry_and_a_host() {
        let mirror: Mirror = "docker.io=127.0.0.1:5000".parse().unwrap();
        assert_eq!(
            (mirror.registry.as_str(), mirror.host.as_str()),
            ("docker.io", "127.0.0.1:5000")
        );
        for bad in ["docker.io", "=a", "a=", "a=https://b", "a=b=c"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
