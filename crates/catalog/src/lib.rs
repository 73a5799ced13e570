//! What a workspace can be given by name: assistants and tools. Each is a TOML file: those that come with the
//! program, and those of an operator's own directory, which go before them.
//!
//! Pure but for reading that directory once: what is done with a definition is the worker's.

mod assistant;
mod tool;

pub use assistant::{Ask, AssistantDefinition};
pub use tool::{
    Addition, Ground, InvalidTool, Others, Packages, Script, ToolDefinition, ToolProblem,
    ToolProblems, Tools, Versions, Way,
};

use aetherium_model::{Code, Fault, assistant::AssistantName, setup::ToolRef};
use std::collections::BTreeMap;

/// The definitions that come with the program.
const ASSISTANTS: [&str; 1] = [include_str!("../assistants/shell.toml")];

/// Every definition there is.
#[derive(Debug, Clone)]
pub struct Catalog {
    assistants: BTreeMap<AssistantName, AssistantDefinition>,
    tools: Tools,
}

impl Catalog {
    /// What comes with the program.
    ///
    /// # Panics
    /// Never: a test reads each definition.
    #[allow(clippy::expect_used, reason = "the definitions are part of the program, and tested")]
    pub fn built_in() -> Self {
        let assistants = ASSISTANTS.iter().map(|text| {
            let it: AssistantDefinition = toml::from_str(text).expect("a tested definition");
            (it.name.clone(), it)
        });
        Self { assistants: assistants.collect(), tools: Tools::built_in() }
    }

    /// The tools.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Sees whether all of some tools can be had, as far as the catalogue can tell.
    ///
    /// # Errors
    /// Each that cannot, with its place in the list and what may have been meant.
    pub fn check_tools(&self, tools: &[ToolRef]) -> Result<(), ToolProblems> {
        self.tools.check(tools)
    }

    /// The assistant of a name.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]: there is none; the fault says which there are.
    pub fn assistant(&self, name: &AssistantName) -> Result<&AssistantDefinition, Fault> {
        self.assistants.get(name).ok_or_else(|| {
            let known: Vec<_> = self.assistants.keys().map(AssistantName::as_str).collect();
            let detail = format!("there is no assistant {:?}", name.as_str());
            Fault::new(Code::InvalidRequest, detail).remedy(format!("give {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_the_program_can_be_read_and_has_a_shell() {
        let catalog = Catalog::built_in();
        assert_eq!(catalog.assistants.len(), ASSISTANTS.len());
        let ask = Ask::of("echo hi");
        let command = catalog.assistant(&AssistantName::SHELL).unwrap().command(&ask);
        assert_eq!(command.argv, ["/bin/sh", "-c", "echo hi"]);
        let error = catalog.assistant(&"hal".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("hal"), "{error}");
    }
}
