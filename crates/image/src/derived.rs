//! Templates that are made for the tools of workspaces: named after what they are made of, so that each is
//! made once, and known from their names as nobody's own.

use crate::digest;
use aetherium_model::{Name, recipe::Recipe};

/// What their names begin with.
const PREFIX: &str = "tools-";
/// The digits of the digest that follow.
const DIGITS: usize = 12;

/// The name of the template that a recipe makes. Recipes that differ in anything, their bases' digests
/// too, have different names.
///
/// # Errors
/// The recipe cannot be written as JSON.
pub fn derived_name(recipe: &Recipe) -> Result<Name, String> {
    let text = serde_json::to_vec(recipe).map_err(|error| error.to_string())?;
    let name = format!("{PREFIX}{}", &digest::of_bytes(&text)[..DIGITS]);
    name.parse().map_err(|error: aetherium_model::name::InvalidName| error.to_string())
}

/// Whether a template of this name was made for tools.
pub fn is_derived(name: &Name) -> bool {
    let digits = name.as_str().strip_prefix(PREFIX);
    digits.is_some_and(|it| {
        it.len() == DIGITS && it.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn name(json: Value) -> Name {
        derived_name(&serde_json::from_value(json).unwrap()).unwrap()
    }

    #[test]
    fn the_name_tells_what_it_is_and_changes_with_all_that_it_is_made_of() {
        let recipe = json!({ "base": { "template": "a" }, "run": [{ "command": "b" }] });
        let first = name(recipe.clone());
        assert!(is_derived(&first), "{first}");
        assert_eq!(name(recipe.clone()), first);
        for (at, value) in [("/base/template", "c"), ("/run/0/command", "d")] {
            let mut other = recipe.clone();
            *other.pointer_mut(at).unwrap() = json!(value);
            assert_ne!(name(other), first, "{at}");
        }
        for own in ["tools", "tools-", "tools-of-mine", "tools-0123456789ab0", "tools-0123456789aB"]
        {
            assert!(!is_derived(&own.parse().unwrap()), "{own}");
        }
    }
}
