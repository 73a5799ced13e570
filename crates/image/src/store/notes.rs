//! What is found out about a template after it was made. It lies beside the manifest and is no part
//! of its digest.

use super::{
    Check, InstalledTemplate, StoreLock, TemplateStore,
    commit::encode,
    document::{ABOUT_FILE, About, Document},
};
use crate::error::{ImageError, OnPath, Result};
use aetherium_model::{
    Digest, TemplateRef, Timestamp,
    boot_test::BootTest,
    finding::{Finding, Verdict},
};
use std::{fs, io, time::SystemTime};

const BOOT_TEST_FILE: &str = "boot-test.json";

impl TemplateStore {
    /// Keeps the verdict of a boot beside the template it is about; the last one counts.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] where the template is gone.
    pub fn record_boot_test(&self, template: &InstalledTemplate, test: &BootTest) -> Result<()> {
        let (lock, dir, _) = self.known(template)?;
        let place = dir.join(BOOT_TEST_FILE);
        self.write_file(&lock, &place, &encode(test).on("write", &place)?)
    }

    /// The verdict of the last boot; none where the template was never tried.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn boot_test(&self, template: &InstalledTemplate) -> Result<Option<BootTest>> {
        self.boot_test_of(&template.digest()?)
    }

    pub(super) fn boot_test_of(&self, digest: &Digest) -> Result<Option<BootTest>> {
        let place = self.manifest_dir(digest).join(BOOT_TEST_FILE);
        match fs::read(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => {
                let text = other.on("read", &place)?;
                let test = serde_json::from_slice(&text).map_err(io::Error::from);
                Ok(Some(test.on("read", &place)?))
            }
        }
    }

    /// Reads every file of a template, and keeps when all were found to be right. Keep it off the
    /// runtime.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn verify(&self, template: &InstalledTemplate) -> Result<Vec<Finding>> {
        let findings = template.verify(Check::Full);
        let good = findings.iter().all(|it| it.verdict == Verdict::Ok);
        let (lock, dir, document) = self.known(template)?;
        let verified_at = good.then(|| Timestamp::from(SystemTime::now()));
        let about = About { verified_at, ..document.about };
        let place = dir.join(ABOUT_FILE);
        self.write_file(&lock, &place, &encode(&about).on("write", &place)?)?;
        Ok(findings)
    }

    /// The directory of a template, which is not removed while the lock is held.
    fn known(
        &self,
        template: &InstalledTemplate,
    ) -> Result<(StoreLock, std::path::PathBuf, Document)> {
        let lock = StoreLock::shared(&self.dir)?;
        let digest = template.digest()?;
        let dir = self.manifest_dir(&digest);
        let name = &template.manifest.name;
        let document = Document::read(&dir, &digest)
            .map_err(|detail| ImageError::Broken { name: name.clone(), detail })?;
        let document =
            document.ok_or_else(|| self.not_found(&TemplateRef::pinned(name.clone(), digest)))?;
        Ok((lock, dir, document))
    }
}

impl InstalledTemplate {
    /// Its digest: what it is, whatever it is called.
    ///
    /// # Errors
    /// [`ImageError::Broken`] where its manifest has none.
    pub fn digest(&self) -> Result<Digest> {
        Digest::from_hex(&self.manifest.digest).map_err(|error| ImageError::Broken {
            name: self.manifest.name.clone(),
            detail: error.to_string(),
        })
    }
}
