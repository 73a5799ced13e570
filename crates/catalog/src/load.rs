//! Definitions in files: each a TOML document, named after what it defines.

use serde::de::DeserializeOwned;
use std::{
    io,
    path::{Path, PathBuf},
};

/// The largest definition, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a catalogue's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not say what it must.
    #[error("{path}: {problem}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, with the line and the key.
        problem: String,
    },
}

/// A definition that knows its name, and what else must hold of it.
pub(crate) trait Definition: DeserializeOwned {
    /// The directory of the catalogue that its files are in.
    const DIRECTORY: &'static str;

    /// Its name, which its file is called by.
    fn name(&self) -> &str;

    /// Checks what no type says; the error begins with the key.
    fn check(&self) -> Result<(), String>;
}

/// Reads one definition.
pub(crate) fn parse<D: Definition>(text: &str) -> Result<D, String> {
    // Its error tells the line, and shows it.
    let definition: D = toml::from_str(text).map_err(|error| error.to_string())?;
    definition.check()?;
    Ok(definition)
}

/// The definitions of a kind in a catalogue's directory, which may have none.
pub(crate) fn directory<D: Definition>(catalog: &Path) -> Result<Vec<D>, CatalogError> {
    let directory = catalog.join(D::DIRECTORY);
    let unreadable = |error| CatalogError::Unreadable { path: directory.clone(), error };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|it| it == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| file(path)).collect()
}

fn file<D: Definition>(path: &Path) -> Result<D, CatalogError> {
    let unreadable = |error| CatalogError::Unreadable { path: path.to_owned(), error };
    let invalid = |problem| CatalogError::Invalid { path: path.to_owned(), problem };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_BYTES {
        return Err(invalid(format!("has {bytes} bytes; at most {MAX_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let definition: D = parse(&text).map_err(invalid)?;
    if path.file_stem().is_some_and(|stem| stem != definition.name()) {
        let name = definition.name();
        return Err(invalid(format!("name: {name:?} is not what the file is called")));
    }
    Ok(definition)
}
