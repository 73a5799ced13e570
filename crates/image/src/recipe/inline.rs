//! A recipe that is sent elsewhere: what it copies from beside itself becomes content.

use super::entries::{Content, Entry, Kind, entries};
use crate::error::{ImageError, OnPath, Result};
use aetherium_model::recipe::{Base64, FileCopy, FileSource, Inline, Recipe};
use std::{fs, path::Path};

/// The same recipe with nothing left that lies on this host's disk beside it; its paths are taken from
/// `dir`. Directories become the files in them, with directories above them as the guest makes them.
/// Synchronous.
///
/// # Errors
/// A source cannot be read or is a link, or there are more files than a recipe may have.
pub fn with_contents(recipe: &Recipe, dir: &Path) -> Result<Recipe> {
    let mut copies = Vec::new();
    for copy in recipe.files.iter() {
        match &copy.source {
            FileSource::Inline(_) => copies.push(copy.clone()),
            FileSource::Path(_) => {
                for entry in entries(copy, dir)? {
                    copies.extend(content_of(entry)?);
                }
            }
        }
    }
    let files = copies.try_into().map_err(|problem| ImageError::RecipeNotSent {
        detail: format!("files: with those in its directories it {problem}"),
    })?;
    Ok(Recipe { files, ..recipe.clone() })
}

/// The copy that makes the same file; none for a directory.
fn content_of(entry: Entry) -> Result<Option<FileCopy>> {
    let Entry { dest, kind, owner } = entry;
    let unsent = |detail: String| ImageError::RecipeNotSent { detail };
    let (bytes, mode) = match kind {
        Kind::Directory(_) => return Ok(None),
        Kind::Link(target) => {
            let (dest, target) = (dest.display(), target.display());
            return Err(unsent(format!(
                "{dest} would be a link to {target}, which has no content"
            )));
        }
        Kind::File(Content::Inline(bytes), mode) => (bytes, mode),
        Kind::File(Content::Host(path, _), mode) => (fs::read(&path).on("read", &path)?, mode),
    };
    let told = |problem: &dyn std::fmt::Display| unsent(format!("{}: {problem}", dest.display()));
    let path = dest.to_string_lossy().into_owned();
    Ok(Some(FileCopy {
        source: FileSource::Inline(Inline::Base64(Base64::of(&bytes))),
        dest: path.try_into().map_err(|problem| told(&problem))?,
        mode: Some(format!("{mode:04o}").try_into().map_err(|problem| told(&problem))?),
        owner,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::recipe::OctalMode;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn recipe(source: &str) -> Recipe {
        serde_json::from_value(serde_json::json!({
            "base": { "template": "default" },
            "files": [
                { "source": { "text": "hi" }, "dest": "/etc/hi" },
                { "source": source, "dest": "/opt/app", "owner": "app" },
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_directory_beside_a_recipe_becomes_the_files_in_it_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app/bin");
        fs::create_dir_all(&app).unwrap();
        fs::write(app.join("run"), [0xff, 0]).unwrap();
        fs::set_permissions(app.join("run"), fs::Permissions::from_mode(0o750)).unwrap();
        let sent = with_contents(&recipe("app"), dir.path()).unwrap();
        assert!(sent.taken_from_host().is_empty());
        let [text, run] = &sent.files[..] else { panic!("{sent:#?}") };
        assert_eq!(*text, recipe("app").files[0]);
        assert_eq!(run.dest.as_str(), "/opt/app/bin/run");
        assert_eq!(run.mode.as_ref().map(OctalMode::bits), Some(0o750));
        assert!(run.owner.is_some());
        let FileSource::Inline(Inline::Base64(content)) = &run.source else { panic!("{run:?}") };
        assert_eq!(content.bytes(), [0xff, 0]);
    }

    #[test]
    fn a_link_beside_a_recipe_is_told_instead_of_sent() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/shadow", dir.path().join("app")).unwrap();
        let error = with_contents(&recipe("app"), dir.path()).unwrap_err().to_string();
        assert!(error.contains("/opt/app") && error.contains("/etc/shadow"), "{error}");
    }
}
