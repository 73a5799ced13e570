//! Recipes: read from a file, and planned.
//!
//! ```text
//! template.toml ─ parse ─► Recipe ─ entries ─► Plan: layers of steps, each layer with its key
//! ```
//! [`parse()`] and [`Plan::new`] are pure. [`entries()`] looks at the files that a recipe names, and at
//! nothing else. [`disk`] makes, grows and seals the root filesystems that steps write to; [`StepCache`]
//! keeps those that steps have left. Whoever has a driver runs the steps: no VM is started here.

mod cache;
pub mod disk;
mod entries;
mod inline;
mod parse;
mod plan;

pub use cache::StepCache;
pub use entries::{Content, Entry, Kind, entries};
pub use inline::with_contents;
pub use parse::{RecipeInvalid, parse, read};
pub use plan::{Action, Layer, Plan, Step};
