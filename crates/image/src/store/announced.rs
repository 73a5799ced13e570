//! What a worker tells others of its templates: every name that can be asked for, and what it means.

use super::{TemplateStore, document::Document};
use crate::error::Result;
use aetherium_model::{HeldTemplate, TemplateRef};

impl TemplateStore {
    /// Every tag with the template it points to, sorted; then the templates that no tag points to, by
    /// the name they were made under. One that cannot be read is left out with a warning in the log.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn announced(&self) -> Result<Vec<HeldTemplate>> {
        let mut untagged = self.digests()?;
        untagged.sort();
        let mut held = Vec::new();
        for (name, tag) in self.tags()? {
            let wanted = TemplateRef::tagged(name.clone(), tag.clone());
            let read = self.resolve(&wanted).and_then(|digest| {
                self.open_manifest(&wanted, &digest)?;
                Ok(digest)
            });
            match read {
                Ok(digest) => {
                    untagged.retain(|it| *it != digest);
                    held.push(HeldTemplate::tagged(name, tag, digest));
                }
                Err(error) => tracing::warn!(template = %wanted, %error, "skipping a template"),
            }
        }
        for digest in untagged {
            match Document::read(&self.manifest_dir(&digest), &digest) {
                Ok(Some(document)) => {
                    held.push(HeldTemplate::untagged(document.about.name, digest));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%digest, error, "skipping a template"),
            }
        }
        Ok(held)
    }
}
