//! Who we are to a registry: a name and password given, else what `docker login` wrote.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt};

/// Docker Hub's key in Docker's configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A name and a password. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl From<&Credentials> for RegistryAuth {
    fn from(it: &Credentials) -> Self {
        Self::Basic(it.username.clone(), it.password.clone())
    }
}

/// What Docker's configuration says of one registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// It holds credentials.
    Known(RegistryAuth),
    /// A program would have to be asked for them.
    Helper(String),
    /// It does not know the registry.
    None,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// Looks a registry up in Docker's `config.json`.
///
/// # Errors
/// The text is no such configuration: what is wrong, without any of its secrets.
pub(super) fn login(config: &[u8], registry: &str) -> Result<Login, String> {
    // The message of a parser may quote the text, so only its place is told.
    let config: DockerConfig = serde_json::from_slice(config)
        .map_err(|error| format!("line {}, column {}", error.line(), error.column()))?;
    let keys = keys_of(registry);
    if let Some(helper) = keys.iter().find_map(|key| config.cred_helpers.get(key)) {
        return Ok(Login::Helper(helper.clone()));
    }
    let Some(auth) = keys.iter().find_map(|key| config.auths.get(key)) else {
        return Ok(Login::None);
    };
    match (auth.pair()?, config.creds_store) {
        (Some((username, password)), _) => {
            Ok(Login::Known(RegistryAuth::Basic(username, password)))
        }
        (None, Some(helper)) => Ok(Login::Helper(helper)),
        (None, None) => Ok(Login::None),
    }
}

impl Auth {
    fn pair(&self) -> Result<Option<(String, String)>, String> {
        if let Some(encoded) = self.auth.as_deref().filter(|it| !it.is_empty()) {
            let decoded = STANDARD.decode(encoded).ok().and_then(|it| String::from_utf8(it).ok());
            let pair = decoded.as_deref().and_then(|it| it.split_once(':'));
            let (username, password) = pair.ok_or("an `auth` is not base64 of name:password")?;
            return Ok(Some((username.to_owned(), password.to_owned())));
        }
        Ok(self.username.clone().zip(self.password.clone()))
    }
}

fn keys_of(registry: &str) -> Vec<String> {
    let mut keys = vec![registry.to_owned(), format!("https://{registry}")];
    if ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&registry) {
        keys.extend([DOCKER_HUB_KEY.to_owned(), "docker.io".to_owned()]);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Login {
        Login::Known(RegistryAuth::Basic(username.into(), password.into()))
    }

    #[test]
    fn what_docker_login_wrote_is_found_by_the_registrys_name() {
        let config = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"bWU6YTpi"},
            "127.0.0.1:5000":{"username":"u","password":"p"},
            "empty.example":{}},
            "credHelpers":{"aws.example":"ecr-login"}}"#;
        let find = |registry| login(config, registry).unwrap();
        assert_eq!(find("index.docker.io"), basic("me", "a:b"));
        assert_eq!(find("127.0.0.1:5000"), basic("u", "p"));
        assert_eq!(find("aws.example"), Login::Helper("ecr-login".into()));
        assert_eq!(find("empty.example"), Login::None);
        assert_eq!(find("other.example"), Login::None);
        let stored = br#"{"auths":{"a.example":{}},"credsStore":"desktop"}"#;
        assert_eq!(login(stored, "a.example").unwrap(), Login::Helper("desktop".into()));
    }

    #[test]
    fn no_error_and_no_debug_output_holds_a_secret() {
        for config in [r#"{"auths":{"a":{"auth":"c2VjcmV0"}}}"#, r#"{"auths": secret}"#] {
            let error = login(config.as_bytes(), "a").unwrap_err();
            assert!(!error.contains("ecret") && !error.contains("c2V"), "{error}");
        }
        let shown = Credentials { username: "me".into(), password: "secret".into() };
        assert!(!format!("{shown:?}").contains("secret"));
    }
}
