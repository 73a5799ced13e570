//! All tools there are.

use super::{Script, ToolDefinition, Way};
use aetherium_model::setup::ToolRef;
use std::collections::BTreeMap;

macro_rules! built_in {
    ($($name:literal)+) => {
        [$(($name, include_str!(concat!("../../tools/", $name, ".toml")))),+]
    };
}

/// The definitions that come with the program, by the names of their files.
const BUILT_IN: &[(&str, &str)] = &built_in!(
    "build-tools" "bun" "curl" "docker" "gh" "git" "go" "java" "jq" "mise" "nodejs" "python"
    "ripgrep" "ruby" "rust" "uv"
);

/// Why a definition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tool {name}: {problem}")]
pub struct InvalidTool {
    /// The tool.
    pub name: String,
    /// What is wrong.
    pub problem: String,
}

/// Every tool there is.
#[derive(Debug, Clone)]
pub struct Tools {
    by_name: BTreeMap<String, ToolDefinition>,
    /// Other names, and whose they are.
    aliases: BTreeMap<String, String>,
}

/// A tool that is to be installed, in a version that may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a> {
    pub(super) tool: &'a ToolDefinition,
    pub(super) version: Option<&'a str>,
    pub(super) way: Way<'a>,
}

impl Tools {
    /// Those that come with the program.
    ///
    /// # Panics
    /// Never: a test reads each definition.
    #[allow(clippy::expect_used, reason = "the definitions are part of the program, and tested")]
    pub fn built_in() -> Self {
        let read = |(_, text): &(&str, &str)| toml::from_str(text).expect("a tested definition");
        Self::none().with(BUILT_IN.iter().map(read)).expect("tested definitions")
    }

    const fn none() -> Self {
        Self { by_name: BTreeMap::new(), aliases: BTreeMap::new() }
    }

    /// These and more. One of the same name as another takes its place.
    ///
    /// # Errors
    /// The first that cannot be used, and why.
    pub fn with(
        mut self,
        tools: impl IntoIterator<Item = ToolDefinition>,
    ) -> Result<Self, InvalidTool> {
        for tool in tools {
            let invalid = |problem| InvalidTool { name: tool.name.clone(), problem };
            check(&tool).map_err(invalid)?;
            self.by_name.insert(tool.name.clone(), tool);
        }
        self.aliases = self
            .by_name
            .values()
            .flat_map(|tool| tool.aliases.iter().map(|it| (it.clone(), tool.name.clone())))
            .collect();
        for tool in self.by_name.values() {
            let requires = tool.install.iter().flat_map(|it| &it.requires);
            let mut chain = vec![tool.name.as_str()];
            for it in requires {
                self.check_required(it, &mut chain)
                    .map_err(|problem| InvalidTool { name: tool.name.clone(), problem })?;
            }
        }
        Ok(self)
    }

    /// The tool of a name, or of another name that it answers to.
    pub fn get(&self, name: &str) -> Option<&ToolDefinition> {
        let own = || self.aliases.get(name).and_then(|name| self.by_name.get(name));
        self.by_name.get(name).or_else(own)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ToolDefinition> {
        self.by_name.values()
    }

    /// That what a tool requires is there, and does not require the tool itself.
    fn check_required<'a>(
        &'a self,
        required: &ToolRef,
        chain: &mut Vec<&'a str>,
    ) -> Result<(), String> {
        self.check(std::slice::from_ref(required)).map_err(|problems| problems.to_string())?;
        let Some(tool) = self.get(&required.name) else { return Ok(()) };
        if chain.contains(&tool.name.as_str()) {
            return Err(format!("it requires itself: {} → {}", chain.join(" → "), tool.name));
        }
        chain.push(&tool.name);
        for it in tool.install.iter().flat_map(|it| &it.requires) {
            self.check_required(it, chain)?;
        }
        chain.pop();
        Ok(())
    }

    /// What is to be installed, in order: what a tool requires before it, each once. Of one that is
    /// asked for more than once the last counts, in the place of the first.
    pub(super) fn choose<'a>(
        &'a self,
        tools: impl IntoIterator<Item = &'a ToolRef>,
    ) -> Vec<Chosen<'a>> {
        let mut asked: Vec<(&ToolDefinition, Option<&str>)> = Vec::new();
        for it in tools {
            let Some(tool) = self.get(&it.name) else { continue };
            let version = it.version.as_deref();
            match asked.iter_mut().find(|(known, _)| known.name == tool.name) {
                Some(known) => known.1 = version,
                None => asked.push((tool, version)),
            }
        }
        let mut chosen = Vec::new();
        for (tool, version) in &asked {
            self.add(&mut chosen, &asked, tool, *version);
        }
        chosen
    }

    fn add<'a>(
        &'a self,
        chosen: &mut Vec<Chosen<'a>>,
        asked: &[(&'a ToolDefinition, Option<&'a str>)],
        tool: &'a ToolDefinition,
        version: Option<&'a str>,
    ) {
        if chosen.iter().any(|it| it.tool.name == tool.name) {
            return;
        }
        // One that is asked for, too, has the version that is asked for.
        let version = asked.iter().find(|it| it.0.name == tool.name).map_or(version, |it| it.1);
        let Some(way) = tool.way(version) else { return };
        if let Way::Script(Script { requires, .. }, _) = way {
            for it in requires {
                if let Some(required) = self.get(&it.name) {
                    self.add(chosen, asked, required, it.version.as_deref());
                }
            }
        }
        chosen.push(Chosen { tool, version, way });
    }
}

/// What cannot be seen from the types.
fn check(tool: &ToolDefinition) -> Result<(), String> {
    let versions = tool.versions.listed.iter().chain(&tool.versions.default);
    let names = tool.names().map(str::to_owned);
    for text in names.chain(versions.map(|it| format!("{}@{it}", tool.name))) {
        text.parse::<ToolRef>()?;
    }
    if tool.packages.is_none() && tool.install.is_none() {
        return Err("give packages, or install, or both".to_owned());
    }
    if tool.install.is_none() && tool.versions != super::Versions::default() {
        return Err("versions need an install section, which says how they are installed".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(texts: &[&str]) -> Result<Tools, InvalidTool> {
        Tools::none().with(texts.iter().map(|text| toml::from_str(text).unwrap()))
    }

    fn tool(name: &str, requires: &str) -> String {
        format!(
            "name = \"{name}\"\ndescription = \"\"\ncheck = \"true\"\n\
             [versions]\nothers = \"numbers\"\n\
             [install]\nrequires = [{requires}]\nrun = \"true\"\n"
        )
    }

    fn names(tools: &Tools, asked: &[&str]) -> Vec<String> {
        let asked: Vec<ToolRef> = asked.iter().map(|it| it.parse().unwrap()).collect();
        let chosen = tools.choose(&asked);
        let text = |it: &Chosen<'_>| match it.version {
            Some(version) => format!("{}@{version}", it.tool.name),
            None => it.tool.name.clone(),
        };
        chosen.iter().map(text).collect()
    }

    #[test]
    fn what_comes_with_the_program_can_be_read_and_bears_the_names_of_its_files() {
        let tools = Tools::built_in();
        let names: Vec<_> = tools.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert_eq!(tools.get("node").unwrap().name, "nodejs");
    }

    #[test]
    fn a_tool_comes_after_what_it_requires_and_each_comes_once() {
        let (a, b, c) = (tool("a", "\"b\", \"c@1\""), tool("b", "\"c\""), tool("c", ""));
        let tools = with(&[&a, &b, &c]).unwrap();
        assert_eq!(names(&tools, &["a"]), ["c", "b", "a"]);
        assert_eq!(names(&tools, &["b@2", "a", "c@3"]), ["c@3", "b@2", "a"]);
        assert_eq!(names(&tools, &["c@1", "b", "c@2"]), ["c@2", "b"], "the last counts");
    }

    #[test]
    fn what_the_distribution_has_needs_no_manager_and_a_version_does() {
        let tools = Tools::built_in();
        assert_eq!(names(&tools, &["git", "node"]), ["git", "nodejs"]);
        assert_eq!(names(&tools, &["node@20", "uv"]), ["mise", "nodejs@20", "uv"]);
    }

    #[test]
    fn a_definition_that_cannot_be_used_is_refused_with_why() {
        let refused = |texts: &[&str]| with(texts).unwrap_err().to_string();
        let error = refused(&["name = \"a\"\ndescription = \"\"\ncheck = \"true\"\n"]);
        assert_eq!(error, "tool a: give packages, or install, or both");
        assert!(refused(&[&tool("a b", "")]).contains("\"a b\" is not a tool"));
        let error = refused(&[&tool("a", "\"b\"")]);
        assert!(error.contains("tool a: there is no tool \"b\""), "{error}");
        let error = refused(&[&tool("a", "\"b\""), &tool("b", "\"a\"")]);
        assert_eq!(error, "tool a: it requires itself: a → b → a");
    }
}
