//! Arguments of secrets: their keys, their verbs, and who asks for them.

use super::{DatabaseArgs, ListArgs};
use aetherium_model::secret::{InvalidSecretName, SecretKind, SecretName, SecretUses};
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// What secrets are encrypted with.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct KeysArgs {
    /// The file of the master keys that secrets are encrypted with, one `ID:BASE64` of 32 random bytes a
    /// line, such as `echo "k1:$(openssl rand -base64 32)"` makes. The first encrypts, the others only
    /// decrypt.
    #[arg(long, env = "AETHERIUM_SECRETS_KEYS_FILE", value_name = "FILE")]
    pub(crate) secrets_keys_file: Option<PathBuf>,
}

/// What secrets are encrypted with, where a role may do without.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct RoleKeysArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Start without master keys, as long as there are no secrets: for trying things out.
    #[arg(long, env = "AETHERIUM_DEV")]
    pub(crate) dev: bool,
}

/// The secrets that a command asks for.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct SecretsArgs {
    /// A secret that it gets, in the variable of the same name or of another; may be repeated.
    #[arg(long = "secret", value_name = "[VARIABLE=]NAME", value_parser = secret_use)]
    secrets: Vec<(SecretName, SecretName)>,
}

impl SecretsArgs {
    /// As the API takes them.
    pub(crate) fn uses(&self) -> SecretUses {
        self.secrets.iter().cloned().collect()
    }
}

/// Parses `NAME` or `VARIABLE=NAME`.
fn secret_use(text: &str) -> Result<(SecretName, SecretName), InvalidSecretName> {
    let (variable, name) = text.split_once('=').unwrap_or((text, text));
    Ok((variable.parse()?, name.parse()?))
}

/// Verbs on secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Give one its value, read from standard input or a file.
    #[command(after_help = "\
Examples:
  gh auth token | aetherium secret set GITHUB_TOKEN --kind git_token
  aetherium secret set DEPLOY_KEY --workspace demo --kind ssh_key --from-file ~/.ssh/deploy")]
    Set {
        /// Its name.
        name: SecretName,
        /// The workspace whose it is; the project's where absent.
        #[arg(long)]
        workspace: Option<String>,
        /// What it is: `opaque`, `file`, `ssh_key`, `registry_token`, `git_token` or
        /// `assistant_credential`.
        #[arg(long, default_value_t)]
        kind: SecretKind,
        /// The file with the value; standard input where absent, without its last line break unless it is
        /// for a file.
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
    },
    /// List them; nobody is shown a value.
    List {
        /// The workspace whose they are; the project's where absent.
        #[arg(long)]
        workspace: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Remove one.
    Delete {
        /// Its name.
        name: SecretName,
        /// The workspace whose it is; the project's where absent.
        #[arg(long)]
        workspace: Option<String>,
    },
    /// Bring every secret under the first master key of the file. Speaks to the database itself; may be
    /// ended and begun again, while servers run that know both keys.
    Rotate(RotateArgs),
}

/// Arguments of `secret rotate`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_asked_for_by_its_name_or_for_a_variable() {
        let name = |text: &str| text.parse::<SecretName>().unwrap();
        assert_eq!(secret_use("A"), Ok((name("A"), name("A"))));
        assert_eq!(secret_use("A=B"), Ok((name("A"), name("B"))));
        assert!(secret_use("A=").is_err() && secret_use("A=hunter 2").is_err());
    }
}
