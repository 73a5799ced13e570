//! The guest agent's binary, looked at before it becomes the `/init` of every VM.

use crate::{
    command::Tool,
    digest,
    error::{ImageError, OnPath, Result, blocking},
};
use object::{
    Endianness, elf,
    read::elf::{FileHeader, ProgramHeader},
};
use std::{fs, path::Path, time::Duration};

/// The largest agent, in bytes: it lies in the memory of every guest.
const MAX_AGENT_BYTES: u64 = 128 << 20;
/// Printing a version takes no time.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// An agent that can be a guest's init.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

impl Agent {
    /// Reads a binary, checks that it needs no other file to run, and asks it for its version.
    pub(crate) async fn read(path: &Path) -> Result<Self> {
        let binary = path.to_owned();
        let (bytes, sha256) = blocking(move || read_static(&binary)).await?;
        let file = path.canonicalize().on("resolve", path)?;
        let said = Tool::file(&file, VERSION_DEADLINE).arg("--version").run().await?;
        let version = said.split_whitespace().last().map(str::to_owned);
        let version = version.ok_or_else(|| unusable(path, "--version prints nothing"))?;
        Ok(Self { bytes, version, sha256 })
    }
}

fn read_static(path: &Path) -> Result<(Vec<u8>, String)> {
    if path.metadata().on("look at", path)?.len() > MAX_AGENT_BYTES {
        return Err(unusable(path, "it is too large to lie in every guest's memory"));
    }
    let bytes = fs::read(path).on("read", path)?;
    match needs_interpreter(&bytes) {
        Ok(false) => Ok((bytes, digest::of_file(path)?)),
        Ok(true) => {
            Err(unusable(path, "it is dynamically linked, and a guest starts without libraries"))
        }
        Err(_) => Err(unusable(path, "it is not a 64-bit ELF program")),
    }
}

/// Whether a program needs a dynamic linker: then it names one in a `PT_INTERP` header.
fn needs_interpreter(bytes: &[u8]) -> object::Result<bool> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    Ok(segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP))
}

fn unusable(path: &Path, detail: &str) -> ImageError {
    ImageError::AgentUnusable { path: path.to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dynamically_linked_agent_is_refused() {
        let error = Agent::read(Path::new("/bin/sh")).await.unwrap_err();
        assert!(error.to_string().contains("dynamically linked"), "{error}");
    }

    #[tokio::test]
    async fn a_script_is_no_agent() {
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), "#!/bin/sh\necho fc-agent 1\n").unwrap();
        let error = Agent::read(script.path()).await.unwrap_err();
        assert!(error.to_string().contains("not a 64-bit ELF program"), "{error}");
    }
}
