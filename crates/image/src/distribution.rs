//! The distribution of the host: which kernel package and which package sources are its own.

use crate::{
    command::Tool,
    error::{ImageError, OnPath, Result},
};
use std::{collections::BTreeMap, env::consts::ARCH, fs, path::Path, time::Duration};

const OS_RELEASE: &str = "/etc/os-release";
const KEYRINGS: &str = "/usr/share/keyrings";
const INDEX_DEADLINE: Duration = Duration::from_secs(60);

/// What `/etc/os-release` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distribution {
    /// `ID`, such as `debian`.
    pub(crate) id: String,
    /// `VERSION_CODENAME`, such as `bookworm`; empty where there is none.
    pub(crate) codename: String,
}

impl Distribution {
    /// The host's.
    pub(crate) fn of_host() -> Result<Self> {
        let path = Path::new(OS_RELEASE);
        Ok(Self::parse(&fs::read_to_string(path).on("read", path)?))
    }

    fn parse(text: &str) -> Self {
        let field = |key: &str| {
            let mut values = text.lines().filter_map(|line| line.split_once('='));
            let value = values.find_map(|(found, value)| (found == key).then_some(value));
            value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        Self { id: field("ID"), codename: field("VERSION_CODENAME") }
    }

    /// The package that depends on the newest kernel made for virtual machines.
    pub(crate) fn kernel_metapackage(&self) -> Result<&'static str> {
        match (self.id.as_str(), ARCH) {
            ("debian", "x86_64") => Ok("linux-image-cloud-amd64"),
            ("ubuntu", "x86_64") => Ok("linux-image-virtual"),
            _ => Err(self.unknown()),
        }
    }

    /// The lines of a `sources.list` with the host's own mirrors of the distribution itself, and
    /// without what was added to them: an image must not depend on the host's other software.
    pub(crate) async fn sources(&self) -> Result<Vec<String>> {
        if self.codename.is_empty() {
            return Err(self.unknown());
        }
        let targets = Tool::new("apt-get", "apt", INDEX_DEADLINE)
            .args(["indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"])
            .arg("Created-By: Packages")
            .run()
            .await?;
        let keyring = Path::new(KEYRINGS).join(format!("{}-archive-keyring.gpg", self.id));
        let sources = self.own_sources(&targets, keyring.exists().then_some(&keyring));
        if sources.is_empty() {
            let wanted = format!("package source of {} {}", self.id, self.codename);
            return Err(ImageError::PackageUnknown { wanted });
        }
        Ok(sources)
    }

    fn own_sources(&self, targets: &str, keyring: Option<&std::path::PathBuf>) -> Vec<String> {
        let mut suites: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for line in targets.lines() {
            let fields: Vec<_> = line.split('|').collect();
            let &[uri, suite, component, origin] = fields.as_slice() else { continue };
            let own_suite = suite == self.codename
                || suite.strip_prefix(&self.codename).is_some_and(|rest| rest.starts_with('-'));
            if own_suite && origin.eq_ignore_ascii_case(&self.id) {
                let components = suites.entry((suite, uri)).or_default();
                if !components.contains(&component) {
                    components.push(component);
                }
            }
        }
        let signed_by = keyring.map(|path| format!("[signed-by={}] ", path.display()));
        let signed_by = signed_by.unwrap_or_default();
        suites
            .into_iter()
            .map(|((suite, uri), components)| {
                format!("deb {signed_by}{uri} {suite} {}", components.join(" "))
            })
            .collect()
    }

    fn unknown(&self) -> ImageError {
        let distribution = format!("{} {}", self.id, self.codename).trim().to_owned();
        ImageError::DistributionUnknown { distribution, architecture: ARCH }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_read_whatever_the_quotes() {
        let text = "NAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nVERSION_CODENAME='noble'\n";
        let host = Distribution::parse(text);
        assert_eq!(host, Distribution { id: "ubuntu".into(), codename: "noble".into() });
    }

    #[test]
    fn a_distribution_without_a_known_kernel_is_refused_by_name() {
        let error = Distribution::parse("ID=plan9\n").kernel_metapackage().unwrap_err();
        assert!(error.to_string().contains("plan9"), "{error}");
    }

    #[test]
    fn only_the_distributions_own_suites_become_sources() {
        let targets = "http://m/debian/|bookworm|main|Debian\n\
                       http://m/debian/|bookworm|contrib|Debian\n\
                       http://m/debian-security/|bookworm-security|main|Debian\n\
                       http://m/debian/|bookwormish|main|Debian\n\
                       http://other/apt|bookworm|main|Other\n";
        let host = Distribution { id: "debian".into(), codename: "bookworm".into() };
        assert_eq!(
            host.own_sources(targets, None),
            [
                "deb http://m/debian/ bookworm main contrib",
                "deb http://m/debian-security/ bookworm-security main",
            ]
        );
    }
}
