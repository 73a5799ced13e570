//! What may be wrong with tools that are asked for, and what was likely meant.

use super::Tools;
use aetherium_model::{Code, Fault, setup::ToolRef};
use std::fmt;

/// Names that are suggested, at most.
const MAX_SUGGESTIONS: usize = 3;
/// How alike two names are, from 0 to 1, where one may have been meant for the other: of every five
/// letters two may be wrong.
const ALIKE: f64 = 0.6;

/// One tool that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolProblem {
    /// Its place in the list.
    pub index: usize,
    /// What is wrong with it.
    pub problem: String,
    /// What may have been meant.
    pub suggestions: Vec<String>,
}

impl fmt::Display for ToolProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match self.suggestions.split_last() {
            None => Ok(()),
            Some((only, [])) => write!(f, ": did you mean {only}?"),
            Some((last, rest)) => write!(f, ": did you mean {} or {last}?", rest.join(", ")),
        }
    }
}

/// All that is wrong with a list of tools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ToolProblems(pub Vec<ToolProblem>);

impl From<ToolProblems> for Fault {
    fn from(problems: ToolProblems) -> Self {
        Self::new(Code::InvalidRequest, problems.to_string())
            .remedy("see which there are with `aetherium tool list`")
    }
}

impl Tools {
    /// Sees whether all of some tools can be had, as far as the catalogue can tell.
    ///
    /// # Errors
    /// Each that cannot, with its place in the list and what may have been meant.
    pub fn check(&self, tools: &[ToolRef]) -> Result<(), ToolProblems> {
        let problems = tools.iter().enumerate().filter_map(|(index, tool)| {
            let (problem, suggestions) = self.problem(tool)?;
            Some(ToolProblem { index, problem, suggestions })
        });
        let problems: Vec<_> = problems.collect();
        if problems.is_empty() { Ok(()) } else { Err(ToolProblems(problems)) }
    }

    fn problem(&self, asked: &ToolRef) -> Option<(String, Vec<String>)> {
        let name = &asked.name;
        let Some(tool) = self.get(name) else {
            return Some((format!("there is no tool {name:?}"), self.alike(name)));
        };
        let version = asked.version.as_deref()?;
        if tool.install.is_none() {
            let problem = format!("{name} has the distribution's version, and no other");
            return Some((problem, vec![tool.name.clone()]));
        }
        if tool.versions.may_have(version) {
            return None;
        }
        let alike = closest(version, tool.versions.listed.iter().map(String::as_str), 0.0);
        let alike = alike.into_iter().take(MAX_SUGGESTIONS);
        let suggestions = alike.map(|it| format!("{}@{it}", tool.name)).collect();
        Some((format!("{name} has no version {version:?}"), suggestions))
    }

    fn alike(&self, name: &str) -> Vec<String> {
        let known = self.iter().flat_map(|tool| tool.names());
        let mut suggestions: Vec<String> = Vec::new();
        for it in closest(name, known, ALIKE) {
            // By its own name, and once, whichever of its names are alike.
            let tool = self.get(it).map_or(it, |tool| &tool.name);
            if !suggestions.iter().any(|known| known == tool) {
                suggestions.push(tool.to_owned());
            }
        }
        suggestions.truncate(MAX_SUGGESTIONS);
        suggestions
    }
}

/// Of some words those that are most like another, the likest first; as many as are suggested, and
/// as many again.
fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>, least: f64) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let mut alike: Vec<_> = known
        .map(|it| (strsim::normalized_damerau_levenshtein(&word, it), it))
        .filter(|(alike, _)| *alike >= least)
        .collect();
    // Stable: what is listed first is likelier.
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    alike.into_iter().take(2 * MAX_SUGGESTIONS).map(|(_, it)| it).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(tool: &str) -> String {
        let tools = Tools::built_in();
        let asked = ["git", tool].map(|it| it.parse().unwrap());
        let problems = tools.check(&asked).unwrap_err().0;
        assert_eq!(problems.iter().map(|it| it.index).collect::<Vec<_>>(), [1]);
        problems[0].to_string()
    }

    #[test]
    fn an_unknown_tool_is_refused_with_those_that_were_likely_meant() {
        assert_eq!(problem("nodjs"), "there is no tool \"nodjs\": did you mean nodejs?");
        assert_eq!(problem("NodeJS"), "there is no tool \"NodeJS\": did you mean nodejs?");
        assert_eq!(problem("pyton@3"), "there is no tool \"pyton\": did you mean python?");
        assert_eq!(problem("zzzz"), "there is no tool \"zzzz\"");
    }

    #[test]
    fn a_version_that_cannot_be_is_refused_with_those_that_are_listed() {
        let said = problem("nodejs@v20");
        assert!(
            said.starts_with("nodejs has no version \"v20\": did you mean nodejs@20"),
            "{said}"
        );
        assert_eq!(
            problem("git@2.40"),
            "git has the distribution's version, and no other: did you mean git?"
        );
        let tools = Tools::built_in();
        for good in ["node@20.11.1", "rust@nightly", "python", "go@1.99"] {
            tools.check(&[good.parse().unwrap()]).unwrap();
        }
    }
}
