//! Reads a recipe in TOML. What is wrong is told with its file, its line and its field.

use crate::oci::ImageOrigin;
use aetherium_model::recipe::{Base, Recipe};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path as FieldPath, Segment};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// A recipe, or whatever else is written in TOML, that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {}{problem}", file.display(), of_field(field))]
pub struct RecipeInvalid {
    /// Its file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The field, such as `run[1].user`; empty where the text is no TOML at all.
    pub field: String,
    /// What is wrong with it, with the value.
    pub problem: String,
}

fn of_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

/// Reads a recipe. `file` is where it came from, for the error.
///
/// # Errors
/// The first thing that is not allowed.
pub fn parse(file: &Path, text: &str) -> Result<Recipe, RecipeInvalid> {
    let recipe: Recipe = read(file, text)?;
    if let Base::Image(origin) = &recipe.base
        && let Err(error) = origin.parse::<ImageOrigin>()
    {
        let at = DeTable::parse(text).map_or(0, |it| find(it.get_ref(), &["base", "image"]).start);
        return Err(invalid(file, text, at, "base.image".to_owned(), error.to_string()));
    }
    Ok(recipe)
}

/// Reads anything that is written in TOML. `file` is where it came from, for the error.
///
/// # Errors
/// The first thing that is not allowed.
pub fn read<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, RecipeInvalid> {
    let no_toml = |error: &toml::de::Error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        invalid(file, text, at, String::new(), error.message().to_owned())
    };
    let tree = DeTable::parse(text).map_err(|error| no_toml(&error))?;
    let parser = toml::Deserializer::parse(text).map_err(|error| no_toml(&error))?;
    serde_path_to_error::deserialize(parser).map_err(|error| {
        let place = place_of(error.path(), tree.get_ref());
        let said = error.inner().span().filter(|span| within(span, &place));
        let problem = error.inner().message().to_owned();
        let at = said.unwrap_or(place).start;
        invalid(file, text, at, name_of(error.path(), &problem), problem)
    })
}

fn invalid(file: &Path, text: &str, at: usize, field: String, problem: String) -> RecipeInvalid {
    let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    RecipeInvalid { file: file.to_owned(), line, field, problem }
}

/// Whether what the parser points at is no wider than what the path leads to.
fn within(said: &Range<usize>, place: &Range<usize>) -> bool {
    said.start >= place.start && said.len() <= place.len().max(1)
}

/// The field's name: the path, and where it ends at the object around the field, what the text names.
fn name_of(path: &FieldPath, problem: &str) -> String {
    let path = path.to_string();
    let path = if path == "." { String::new() } else { path };
    let named = ["unknown field `", "missing field `"]
        .iter()
        .find_map(|begin| problem.strip_prefix(begin)?.split_once('`'))
        .map(|(name, _)| name);
    match named {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if !path.ends_with(name) => format!("{path}.{name}"),
        _ => path,
    }
}

/// Where the deepest part of a path lies in the text.
fn place_of(path: &FieldPath, tree: &DeTable<'_>) -> Range<usize> {
    let (mut table, mut array) = (Some(tree), None);
    let mut place = 0..usize::MAX;
    for segment in path.iter() {
        let value = match segment {
            Segment::Map { key } | Segment::Enum { variant: key } => {
                let Some((key, value)) = table.and_then(|it| it.get_key_value(key.as_str())) else {
                    break;
                };
                place = key.span();
                value
            }
            Segment::Seq { index } => {
                let Some(value) = array.and_then(|it: &toml::de::DeArray<'_>| it.get(*index))
                else {
                    break;
                };
                place = value.span();
                value
            }
            Segment::Unknown => break,
        };
        (table, array) = match value.get_ref() {
            DeValue::Table(table) => (Some(table), None),
            DeValue::Array(array) => (None, Some(array)),
            _ => (None, None),
        };
    }
    place
}

fn find(tree: &DeTable<'_>, keys: &[&str]) -> Range<usize> {
    let (mut table, mut place) = (Some(tree), 0..0);
    for key in keys {
        let Some((key, value)) = table.and_then(|it| it.get_key_value(*key)) else { break };
        place = key.span();
        table = value.get_ref().as_table();
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("t.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_as_the_recipe_it_is() {
        let text = r#"
            base = { template = "default" }
            [env]
            LANG = "C.UTF-8"
            [[files]]
            source = { text = "hello\n" }
            dest = "/etc/motd"
            [[run]]
            command = "echo one >/one"
            [[run]]
            command = ["/bin/echo", "two"]
            timeout_s = 5
            [start]
            command = "sleep 1000"
        "#;
        let recipe = parse(Path::new("t.toml"), text).unwrap();
        assert_eq!(recipe.run.len(), 2);
        assert_eq!(recipe.run[1].command(&recipe.env).argv, ["/bin/echo", "two"]);
        assert!(recipe.start.is_some() && recipe.ready.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_field() {
        let base = "base = { template = \"default\" }\n";
        let with = |rest: &str| refused(&format!("{base}{rest}"));
        let cases = [
            (refused("base = \n"), "t.toml:1: "),
            (refused("[env]\nA = \"1\"\n"), ": base: missing field `base`"),
            (refused("base = { image = \"oci:\" }\n"), "t.toml:1: base.image: \"oci:\" names"),
            (refused("\nbase = { template = \"A B\" }\n"), "t.toml:2: base.template: "),
            (with("\nstrat = 1\n"), "t.toml:3: strat: unknown field `strat`"),
            (with("packages = [\n\"git\",\n\"-x\"]\n"), "t.toml:4: packages[1]: \"-x\""),
            (
                with("[[run]]\ncommand = \"true\"\n\n[[run]]\ncommand = \"true\"\nuser = \"\"\n"),
                "t.toml:7: run[1].user: \"\"",
            ),
            (with("[[run]]\nuser = \"a\"\n"), "run[0].command: missing field `command`"),
            (
                with("[[run]]\ncommand = \"a\"\nshell = \"b\"\n"),
                "t.toml:4: run[0].shell: unknown field `shell`",
            ),
            (with("[[run]]\ncommand = 7\n"), "t.toml:3: run[0].command: expected a line"),
            (
                with("[[files]]\nsource = \"a\"\ndest = \"b\"\n"),
                "t.toml:4: files[0].dest: \"b\" is not allowed: give an absolute path",
            ),
            (
                with("[resources]\nvcpus = 99\n"),
                "t.toml:3: resources.vcpus: 99 is not allowed: give 1 to 32 vCPUs",
            ),
            (with("[ready]\ncommand = \"x\"\ndeadline_s = 0\n"), "t.toml:4: ready.deadline_s: 0"),
        ];
        for (error, part) in cases {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }
}
