//! A tool: which versions of it there are, and how it is installed.

mod ask;
mod install;
mod recipe;
mod set;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
mod tests;

pub use ask::{ToolProblem, ToolProblems};
pub use install::{Packages, Script};
pub use recipe::{Addition, Ground};
pub use set::{InvalidTool, Tools};

use serde::Deserialize;

/// One tool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolDefinition {
    /// Its name.
    pub name: String,
    /// Other names that it answers to.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is, in a line.
    pub description: String,
    /// A line for `/bin/sh` that succeeds where it is installed.
    pub check: String,
    /// Which versions may be asked for.
    #[serde(default)]
    pub versions: Versions,
    /// The distribution's packages of it, which are taken where no version is asked for.
    #[serde(default)]
    pub packages: Option<Packages>,
    /// How it is installed where a version is asked for, and where it has no packages.
    #[serde(default)]
    pub install: Option<Script>,
}

/// The versions of a tool that may be asked for; none without [`ToolDefinition::install`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The one that is installed where none is asked for and the distribution's is not taken.
    #[serde(default)]
    pub default: Option<String>,
    /// Those that are known to be there, the likeliest first.
    #[serde(default)]
    pub listed: Vec<String>,
    /// Which more there may be.
    #[serde(default)]
    pub others: Others,
}

/// Versions that a definition does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// There are none.
    #[default]
    None,
    /// There may be any that is of numbers with dots between, such as `20.11.1`.
    Numbers,
}

impl Versions {
    /// Whether there may be such a version.
    pub fn may_have(&self, version: &str) -> bool {
        let listed = self.listed.iter().any(|it| it == version);
        listed
            || self.default.as_deref() == Some(version)
            || match self.others {
                Others::None => false,
                Others::Numbers => is_numbers(version),
            }
    }
}

/// One to four numbers with dots between.
fn is_numbers(version: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    version.split('.').count() <= 4 && version.split('.').all(number)
}

/// How a tool comes to be in a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// As packages of the distribution, in the distribution's version.
    Packages(&'a Packages),
    /// By its definition's script, in this version; without one where it has none.
    Script(&'a Script, Option<&'a str>),
}

impl ToolDefinition {
    /// How a version of it is installed; whichever fits best where none is asked for. None where it
    /// cannot be.
    pub fn way<'a>(&'a self, version: Option<&'a str>) -> Option<Way<'a>> {
        match (version, &self.packages, &self.install) {
            (None, Some(packages), _) => Some(Way::Packages(packages)),
            (version, _, Some(install)) => {
                let version = version.or(self.versions.default.as_deref());
                Some(Way::Script(install, version))
            }
            (Some(_), _, None) | (None, None, None) => None,
        }
    }

    /// The names it answers to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.aliases).map(String::as_str)
    }
}
