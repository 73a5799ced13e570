//! What a recipe comes to: steps, in layers.
//!
//! A layer is what happens in one VM; what it leaves on its disk is kept under the layer's key. The
//! packages are a layer, and so is each command; files go with the command that comes first, since to
//! copy them again costs nothing next to a boot.

use super::entries::Entry;
use crate::digest;
use aetherium_model::{
    recipe::{FileCopy, FileSource, INSTALL_PACKAGES, PackageName, Recipe, RunStep},
    resources::NetworkMode,
    run::Command,
};

/// Part of every key: to be changed when the same step would come to something else.
const FORMAT: &str = "1";
/// How much of a command its label repeats.
const LABEL_CHARS: usize = 120;

/// What a recipe comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is done, in order; empty where the base is all.
    pub layers: Vec<Layer>,
}

/// What happens in one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// What they may reach.
    pub network: NetworkMode,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number among all steps, from 1.
    pub number: usize,
    /// What it does, in a line.
    pub label: String,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Makes files.
    Copy(Vec<Entry>),
    /// Runs a command.
    Run(Command),
}

impl Plan {
    /// Plans a recipe. `entries` are those of each of its `files`, in order.
    pub fn new(recipe: &Recipe, entries: Vec<Vec<Entry>>) -> Self {
        let mut layers = Vec::new();
        let mut number = 0;
        let mut step = |label: String, action| {
            number += 1;
            Step { number, label, action }
        };
        if !recipe.packages.is_empty() {
            let install = step(format!("packages {}", words(&recipe.packages)), install(recipe));
            layers.push(Layer { steps: vec![install], network: NetworkMode::Egress });
        }
        let network = recipe.build.network;
        let mut steps: Vec<_> = recipe
            .files
            .iter()
            .zip(entries)
            .map(|(copy, entries)| step(copy_label(copy), Action::Copy(entries)))
            .collect();
        for run in recipe.run.iter() {
            let command = Action::Run(run.command(&recipe.env));
            steps.push(step(run_label(run), command));
            layers.push(Layer { steps: std::mem::take(&mut steps), network });
        }
        if !steps.is_empty() {
            layers.push(Layer { steps, network });
        }
        Self { layers }
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.layers.iter().map(|layer| layer.steps.len()).sum()
    }

    /// The key of what each layer leaves, given the key of the base: layers with the same key have the
    /// same steps behind them, from the same base.
    pub fn keys(&self, base: &str) -> Vec<String> {
        let mut key = digest::of_parts([FORMAT, base]);
        let next = |layer: &Layer| {
            let steps: Vec<String> = layer.steps.iter().map(Step::digest).collect();
            let network = layer.network.to_string();
            let parts = [key.as_str(), network.as_str()];
            key = digest::of_parts(parts.into_iter().chain(steps.iter().map(String::as_str)));
            key.clone()
        };
        self.layers.iter().map(next).collect()
    }
}

impl Step {
    fn digest(&self) -> String {
        match &self.action {
            Action::Copy(entries) => {
                let entries: Vec<String> = entries.iter().map(Entry::digest).collect();
                digest::of_parts(["copy"].into_iter().chain(entries.iter().map(String::as_str)))
            }
            Action::Run(command) => {
                // How long it may take does not change what it does.
                let Command { argv, env, cwd, user, secrets: _, timeout_ms: _ } = command;
                let counts = [argv.len().to_string(), env.len().to_string()];
                let mut parts: Vec<&str> = vec!["run"];
                parts.extend(counts.iter().chain(argv).map(String::as_str));
                parts.extend(env.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
                parts.extend([cwd, user].map(|it| it.as_deref().unwrap_or("")));
                digest::of_parts(parts)
            }
        }
    }
}

fn install(recipe: &Recipe) -> Action {
    let script = ["/bin/sh", "-ec", INSTALL_PACKAGES, "packages"].map(str::to_owned);
    let packages = recipe.packages.iter().map(ToString::to_string);
    let command = Command::new(script.into_iter().chain(packages));
    let env = aetherium_model::recipe::plain_env(&recipe.env);
    Action::Run(Command { user: Some("0".to_owned()), cwd: Some("/".to_owned()), env, ..command })
}

fn words(packages: &[PackageName]) -> String {
    let names: Vec<_> = packages.iter().map(PackageName::as_str).collect();
    shortened(&names.join(" "))
}

fn run_label(run: &RunStep) -> String {
    match &run.name {
        Some(name) => shortened(name),
        None => format!("run {}", shortened(&run.command.to_string())),
    }
}

fn copy_label(copy: &FileCopy) -> String {
    match &copy.source {
        FileSource::Path(path) => format!("copy {path} to {}", copy.dest),
        FileSource::Inline(_) => format!("write {}", copy.dest),
    }
}

/// The first line, and not too much of it.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut = line.char_indices().nth(LABEL_CHARS).map_or(line.len(), |(at, _)| at);
    let more = if cut < text.len() { " …" } else { "" };
    format!("{}{more}", &line[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::entries;
    use serde_json::{Value, json};
    use std::path::Path;

    fn plan(json: Value) -> Plan {
        let recipe: Recipe = serde_json::from_value(json).unwrap();
        let files = recipe.files.iter().map(|copy| entries(copy, Path::new("/")).unwrap());
        let files = files.collect();
        Plan::new(&recipe, files)
    }

    fn full() -> Value {
        json!({
            "base": { "template": "default" },
            "packages": ["git"],
            "files": [{ "source": { "text": "a" }, "dest": "/a" },
                      { "source": { "text": "b" }, "dest": "/b" }],
            "env": { "A": "1" },
            "run": [{ "command": "one" }, { "name": "the second", "command": "two", "timeout_s": 5 }],
        })
    }

    #[test]
    fn packages_come_first_and_files_go_with_the_first_command() {
        let plan = plan(full());
        let layers: Vec<Vec<_>> = plan
            .layers
            .iter()
            .map(|it| it.steps.iter().map(|it| (it.number, it.label.as_str())).collect())
            .collect();
        let expected = [
            vec![(1, "packages git")],
            vec![(2, "write /a"), (3, "write /b"), (4, "run one")],
            vec![(5, "the second")],
        ];
        assert_eq!(layers, expected);
        assert_eq!(plan.steps(), 5);
        let networks: Vec<_> = plan.layers.iter().map(|it| it.network).collect();
        assert_eq!(networks, [NetworkMode::Egress, NetworkMode::Isolated, NetworkMode::Isolated]);
    }

    #[test]
    fn files_without_a_command_are_a_layer_and_nothing_at_all_is_none() {
        let mut json = full();
        json["run"] = json!([]);
        json["packages"] = json!([]);
        assert_eq!(plan(json.clone()).layers.len(), 1);
        json["files"] = json!([]);
        assert!(plan(json).layers.is_empty());
    }

    #[test]
    fn a_change_makes_new_keys_from_its_layer_on_and_leaves_those_before() {
        let keys = plan(full()).keys("base");
        let first_new = |json: Value, base: &str| {
            let new = plan(json).keys(base);
            keys.iter().zip(&new).position(|(old, new)| old != new)
        };
        let changed = |pointer: &str, value: Value| {
            let mut json = full();
            *json.pointer_mut(pointer).unwrap() = value;
            first_new(json, "base")
        };
        assert_eq!(first_new(full(), "base"), None);
        assert_eq!(first_new(full(), "another"), Some(0));
        assert_eq!(changed("/packages/0", json!("curl")), Some(0));
        assert_eq!(changed("/env/A", json!("2")), Some(0));
        assert_eq!(changed("/files/1/source/text", json!("c")), Some(1));
        assert_eq!(changed("/run/0/command", json!("ein")), Some(1));
        assert_eq!(changed("/run/1/command", json!(["two"])), Some(2));
        assert_eq!(changed("/run/1/timeout_s", json!(9)), None, "time changes nothing");
        assert_eq!(changed("/run/1/name", json!("other")), None, "nor does what it is called");
    }
}
