//! The script that puts one tool into a guest.

use super::Way;
use aetherium_model::{
    recipe::{EnvName, GuestPath, INSTALL_PACKAGES, PackageName},
    resources::NetworkMode,
    setup::ToolRef,
};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _};

/// Packages as the managers of the families of distributions name them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// Debian, Ubuntu.
    #[serde(default)]
    pub apt: Vec<PackageName>,
    /// Alpine.
    #[serde(default)]
    pub apk: Vec<PackageName>,
    /// Fedora, RHEL.
    #[serde(default)]
    pub dnf: Vec<PackageName>,
}

impl Packages {
    /// Whether there are none, whatever the distribution.
    pub fn is_empty(&self) -> bool {
        self.apt.is_empty() && self.apk.is_empty() && self.dnf.is_empty()
    }
}

/// How a tool is installed that is no package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Tools that it needs, which are installed before it.
    #[serde(default)]
    pub requires: Vec<ToolRef>,
    /// Packages that it needs, which are installed before it.
    #[serde(default)]
    pub packages: Packages,
    /// A script for the guest's `/bin/sh -eu`, run as root. It finds the tool's name and version in
    /// `TOOL_NAME` and `TOOL_VERSION`, which is empty where there is none.
    pub run: String,
    /// What the script may reach. With packages it is `egress` all the same.
    #[serde(default = "egress")]
    pub network: NetworkMode,
    /// Environment of the script, and of every command of VMs that have it.
    #[serde(default)]
    pub env: BTreeMap<EnvName, String>,
    /// Directories that come first in the PATH of the same.
    #[serde(default)]
    pub path: Vec<GuestPath>,
}

const fn egress() -> NetworkMode {
    NetworkMode::Egress
}

impl<'a> Way<'a> {
    /// Its definition's script, where that is the way.
    pub(super) const fn own_script(&self) -> Option<&'a Script> {
        match self {
            Self::Packages(_) => None,
            Self::Script(script, _) => Some(script),
        }
    }

    /// What it must be able to reach.
    pub(super) fn network(&self) -> NetworkMode {
        match self {
            Self::Packages(_) => NetworkMode::Egress,
            Self::Script(install, _) => install.network_needed(),
        }
    }

    /// The script that installs `name` this way and then runs `check`.
    pub(super) fn script(&self, name: &str, check: &str) -> String {
        let mut text = String::from("set -eu\n");
        match self {
            Self::Packages(packages) => install(&mut text, packages, name, Lack::Fails),
            Self::Script(script, version) => {
                if !script.packages.is_empty() {
                    install(&mut text, &script.packages, name, Lack::IsFine);
                }
                let version = version.unwrap_or_default();
                // Both are words: letters, digits and signs that mean nothing to a shell.
                let _ = writeln!(text, "export TOOL_NAME='{name}' TOOL_VERSION='{version}'");
                let _ = writeln!(text, "{}", script.run.trim_end());
            }
        }
        let _ = writeln!(text, "{check}");
        text
    }
}

impl Script {
    pub(super) fn network_needed(&self) -> NetworkMode {
        if self.packages.is_empty() { self.network } else { NetworkMode::Egress }
    }
}

/// What it means that a family of distributions has none of some packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// Nothing is needed there.
    IsFine,
    /// What they are for cannot be had there.
    Fails,
}

/// Adds the installation of packages.
fn install(text: &mut String, packages: &Packages, name: &str, lack: Lack) {
    let Packages { apt, apk, dnf } = packages;
    let _ = write!(text, "packages() {{\n{INSTALL_PACKAGES}}}\n");
    for (word, (manager, packages)) in
        ["if", "elif", "elif"].into_iter().zip([("apt-get", apt), ("apk", apk), ("dnf", dnf)])
    {
        let _ = writeln!(text, "{word} command -v {manager} >/dev/null; then");
        if !packages.is_empty() {
            let names: Vec<_> = packages.iter().map(|it| format!("'{it}'")).collect();
            let _ = writeln!(text, "  packages {}", names.join(" "));
            continue;
        }
        let _ = match lack {
            Lack::IsFine => writeln!(text, "  :"),
            Lack::Fails => {
                let why = format!("the catalogue has no packages of {manager} for {name}");
                writeln!(text, "  echo '{why}' >&2\n  exit 1")
            }
        };
    }
    // Says that there is no manager.
    let _ = writeln!(text, "else\n  packages\nfi");
}
