//! SHA-256 of files, in hexadecimal.

use crate::error::{OnPath, Result};
use aetherium_model::template::TemplateFile;
use sha2::{Digest, Sha256};
use std::{fs::File, io::Read, path::Path};

/// Long enough that reading, not calling, takes the time.
const CHUNK_BYTES: usize = 1 << 20;

/// The SHA-256 of a file's content, in hexadecimal. Synchronous: reads it from end to end.
///
/// # Errors
/// If it cannot be read.
pub fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).on("open", path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk).on("read", path)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&chunk[..read]);
    }
}

/// The digest of bytes at hand.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The manifest's entry for a file of a template's directory.
pub(crate) fn template_file(dir: &Path, file: &str) -> Result<TemplateFile> {
    let path = dir.join(file);
    let size = path.metadata().on("look at", &path)?.len();
    Ok(TemplateFile { file: file.to_owned(), sha256: of_file(&path)?, size })
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A digest over `parts`, each of which is counted with its length: moving a byte from one to the
/// next changes it.
pub(crate) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_digest_is_the_sha_256_of_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        // FIPS 180-4, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_file(file.path()).unwrap(), expected);
    }
}
