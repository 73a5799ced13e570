//! How somebody logs in to an assistant's provider, by the assistant's own command in a terminal.

use regex::Regex;
use serde::Deserialize;
use std::ops::Deref;

/// A login by an assistant's own command, run as its user under a terminal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The command.
    pub argv: Vec<String>,
    /// Keys for it once it shows [`Login::ready`], such as `\r` for a menu's first entry.
    #[serde(default)]
    pub keys: Vec<Keys>,
    /// The address that is to be opened in a browser, in what it shows. Its first group, else all of it.
    pub url: Pattern,
    /// A code that is to be entered there, in what it shows. Its first group, else all of it.
    #[serde(default)]
    pub code: Option<Pattern>,
    /// What comes back from the browser.
    pub accepts: Accepts,
    /// What it shows when it is done, for one that does not end with exit code 0 by itself.
    #[serde(default)]
    pub success: Option<Pattern>,
    /// What it shows when it is refused, for one that asks again.
    #[serde(default)]
    pub failure: Option<Pattern>,
    /// A token that it shows and does not keep: the value of the assistant's credential of this name.
    #[serde(default)]
    pub token: Option<Token>,
    /// The files that it writes, below the user's home.
    #[serde(default)]
    pub credential_files: Vec<HomePath>,
}

/// Keys that are typed when something is shown.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// What is shown.
    pub at: Pattern,
    /// What is typed then.
    pub send: String,
}

/// A token that a login shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The token, in what is shown.
    pub pattern: Pattern,
    /// The secret that it is the value of: one of the assistant's credentials.
    pub secret: aetherium_model::secret::SecretName,
}

/// What comes back from the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepts {
    /// Nothing: the command learns by itself that it may go on.
    None,
    /// A code that the browser shows, to be typed.
    Code,
    /// The address that the browser is sent to: the command listens on the guest's loopback, where it
    /// must be asked for.
    Callback,
}

/// A regular expression.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Regex::new(&text).map(Self).map_err(|error| error.to_string())
    }
}

impl Deref for Pattern {
    type Target = Regex;

    fn deref(&self) -> &Regex {
        &self.0
    }
}

impl Pattern {
    /// What it finds first: its first group where it has one, else all of it.
    pub fn find_in<'t>(&self, text: &'t str) -> Option<&'t str> {
        let found = self.0.captures(text)?;
        found.get(1).or_else(|| found.get(0)).map(|it| it.as_str())
    }
}

/// A file's path below the user's home.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HomePath(String);

impl TryFrom<String> for HomePath {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        let inside = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if inside && !path.contains('\0') {
            Ok(Self(path))
        } else {
            Err(format!("{path:?} is no path below the user's home: give one such as .config/x"))
        }
    }
}

impl HomePath {
    /// The path, below the home.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
