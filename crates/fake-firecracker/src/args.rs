//! Firecracker's command line, as `src/firecracker/src/main.rs` declares it.
//!
//! Without `--config-file` and what belongs to it: the fake is told everything over its API.

use crate::version::Version;
use std::path::PathBuf;

/// An option, whether it takes a value, and since when it is known.
struct Known(&'static str, bool, Version);

const OPTIONS: [Known; 19] = [
    Known("api-sock", true, Version::OLDEST),
    Known("id", true, Version::OLDEST),
    Known("seccomp-filter", true, Version::OLDEST),
    Known("no-seccomp", false, Version::OLDEST),
    Known("start-time-us", true, Version::OLDEST),
    Known("start-time-cpu-us", true, Version::OLDEST),
    Known("parent-cpu-time-us", true, Version::OLDEST),
    Known("log-path", true, Version::OLDEST),
    Known("level", true, Version::OLDEST),
    Known("module", true, Version::OLDEST),
    Known("show-level", false, Version::OLDEST),
    Known("show-log-origin", false, Version::OLDEST),
    Known("metrics-path", true, Version::OLDEST),
    Known("boot-timer", false, Version::OLDEST),
    Known("version", false, Version::OLDEST),
    Known("snapshot-version", false, Version::OLDEST),
    Known("http-api-max-payload-size", true, Version::OLDEST),
    Known("mmds-size-limit", true, Version::OLDEST),
    Known("enable-pci", false, Version::V1_13),
];

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To print the version.
    Version,
    /// To print the version of snapshots.
    SnapshotVersion,
    /// To serve the API.
    Serve(Serve),
}

/// How to serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Serve {
    pub(crate) api_socket: PathBuf,
    pub(crate) id: String,
    pub(crate) log: Option<PathBuf>,
    pub(crate) metrics: Option<PathBuf>,
    pub(crate) pci: bool,
}

/// What is wrong with a command line; written as Firecracker writes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ArgumentError {
    UnexpectedArgument(String),
    MissingValue(String),
    DuplicateArgument(String),
}

/// Understands a command line without the program's name.
pub(crate) fn parse(
    mut words: impl Iterator<Item = String>,
    version: Version,
) -> Result<Command, ArgumentError> {
    let mut given: Vec<(&'static str, Option<String>)> = Vec::new();
    while let Some(word) = words.next() {
        let known = word.strip_prefix("--").and_then(|name| {
            OPTIONS.iter().find(|Known(option, _, since)| *option == name && version >= *since)
        });
        let Some(Known(name, takes_value, _)) = known else {
            let word = word.strip_prefix("--").unwrap_or(&word);
            return Err(ArgumentError::UnexpectedArgument(word.to_owned()));
        };
        if given.iter().any(|(other, _)| other == name) {
            return Err(ArgumentError::DuplicateArgument((*name).to_owned()));
        }
        let value = if *takes_value {
            let value = words.next().filter(|value| !value.starts_with("--"));
            Some(value.ok_or_else(|| ArgumentError::MissingValue((*name).to_owned()))?)
        } else {
            None
        };
        given.push((name, value));
    }
    let has = |name: &str| given.iter().any(|(other, _)| *other == name);
    let value = |name: &str| {
        given.iter().find(|(other, _)| *other == name).and_then(|(_, value)| value.clone())
    };
    Ok(if has("version") {
        Command::Version
    } else if has("snapshot-version") {
        Command::SnapshotVersion
    } else {
        Command::Serve(Serve {
            api_socket: value("api-sock").unwrap_or("/run/firecracker.socket".into()).into(),
            id: value("id").unwrap_or("anonymous-instance".into()),
            log: value("log-path").map(PathBuf::from),
            metrics: value("metrics-path").map(PathBuf::from),
            pci: has("enable-pci"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str], version: &str) -> Result<Command, ArgumentError> {
        parse(words.iter().map(ToString::to_string), version.parse().unwrap())
    }

    #[test]
    fn pci_can_be_asked_for_since_1_13() {
        let Ok(Command::Serve(serve)) = parsed(&["--enable-pci"], "1.13.0") else { panic!() };
        assert!(serve.pci);
        let expected = ArgumentError::UnexpectedArgument("enable-pci".into());
        assert_eq!(parsed(&["--enable-pci"], "1.12.1"), Err(expected));
    }

    #[test]
    fn a_wrong_command_line_names_the_wrong_word() {
        let duplicate = ArgumentError::DuplicateArgument("id".into());
        assert_eq!(parsed(&["--id", "a", "--id", "b"], "1.16.1"), Err(duplicate));
        let missing = ArgumentError::MissingValue("api-sock".into());
        assert_eq!(parsed(&["--api-sock", "--id"], "1.16.1"), Err(missing));
        let unexpected = ArgumentError::UnexpectedArgument("serve".into());
        assert_eq!(parsed(&["serve"], "1.16.1"), Err(unexpected));
    }
}
