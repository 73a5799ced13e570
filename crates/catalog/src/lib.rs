//! What a workspace can be given by name: assistants and tools. Each is a TOML file: those that come with the
//! program, and those of an operator's own directory, which go before them.
//!
//! Pure but for reading that directory once: what is done with a definition is the worker's.

mod arguments;
mod assistant;
mod load;
mod login;
mod mcp;
mod output;
mod tool;

pub use assistant::{Ask, AssistantDefinition, Credential, Install, McpConfig};
pub use load::CatalogError;
pub use login::{Accepts, HomePath, Keys, Login, Pattern, Token};
pub use output::OutputParser;
pub use tool::{
    Addition, Ground, InvalidTool, Others, Packages, Script, ToolDefinition, ToolProblem,
    ToolProblems, Tools, Versions, Way,
};

use aetherium_model::{Code, Fault, assistant::AssistantName, setup::ToolRef};
use load::Definition;
use std::{collections::BTreeMap, path::Path};

/// The definitions that come with the program.
const ASSISTANTS: [&str; 6] = [
    include_str!("../assistants/amp.toml"),
    include_str!("../assistants/claude-code.toml"),
    include_str!("../assistants/codex.toml"),
    include_str!("../assistants/gemini.toml"),
    include_str!("../assistants/opencode.toml"),
    include_str!("../assistants/shell.toml"),
];

/// Every definition there is.
#[derive(Debug, Clone)]
pub struct Catalog {
    assistants: BTreeMap<AssistantName, AssistantDefinition>,
    tools: Tools,
}

impl Definition for AssistantDefinition {
    const DIRECTORY: &'static str = "assistants";

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn check(&self) -> Result<(), String> {
        Self::check(self)
    }
}

impl Definition for ToolDefinition {
    const DIRECTORY: &'static str = "tools";

    fn name(&self) -> &str {
        &self.name
    }

    /// What must hold of it does so among others alone: see [`Tools::with`].
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Catalog {
    /// What comes with the program.
    ///
    /// # Panics
    /// Never: a test reads each definition.
    #[allow(clippy::expect_used, reason = "the definitions are part of the program, and tested")]
    pub fn built_in() -> Self {
        let assistants = ASSISTANTS.iter().map(|text| {
            let it: AssistantDefinition = load::parse(text).expect("a tested definition");
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

    /// What comes with the program, with what a directory has in `assistants/*.toml` and `tools/*.toml`
    /// before it.
    ///
    /// # Errors
    /// A file that cannot be read, or does not say what it must.
    pub fn with_directory(directory: &Path) -> Result<Self, CatalogError> {
        let mut catalog = Self::built_in();
        for assistant in load::directory::<AssistantDefinition>(directory)? {
            catalog.assistants.insert(assistant.name.clone(), assistant);
        }
        let tools = load::directory::<ToolDefinition>(directory)?;
        catalog.tools = catalog.tools.with(tools).map_err(|InvalidTool { name, problem }| {
            let path = directory.join(ToolDefinition::DIRECTORY).join(format!("{name}.toml"));
            CatalogError::Invalid { path, problem }
        })?;
        Ok(catalog)
    }

    /// Every assistant, by name.
    pub fn assistants(&self) -> impl Iterator<Item = &AssistantDefinition> {
        self.assistants.values()
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
        for text in ASSISTANTS {
            load::parse::<AssistantDefinition>(text).unwrap_or_else(|error| panic!("{error}"));
        }
        let catalog = Catalog::built_in();
        assert_eq!(catalog.assistants.len(), ASSISTANTS.len());
        let ask = Ask::of("echo hi");
        let command = catalog.assistant(&AssistantName::SHELL).unwrap().command(&ask);
        assert_eq!(command.argv, ["/bin/sh", "-c", "echo hi"]);
        let error = catalog.assistant(&"hal".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("hal"), "{error}");
    }

    #[test]
    fn an_operators_definition_goes_before_the_one_of_the_program() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Catalog::with_directory(directory.path()).unwrap().assistants().count(), 6);
        let assistants = directory.path().join("assistants");
        std::fs::create_dir(&assistants).unwrap();
        let mine =
            "name = \"codex\"\ndescription = \"Mine\"\n[prompt]\nargv = [\"x\", \"{prompt}\"]\n";
        std::fs::write(assistants.join("codex.toml"), mine).unwrap();
        std::fs::write(assistants.join("README.md"), "not a definition").unwrap();
        let catalog = Catalog::with_directory(directory.path()).unwrap();
        let codex = catalog.assistant(&"codex".parse().unwrap()).unwrap();
        assert_eq!(codex.command(&Ask::of("hi")).argv, ["x", "hi"]);
        assert_eq!(catalog.assistants().count(), 6);
    }

    #[test]
    fn an_error_names_the_file_the_line_and_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("assistants/mine.toml");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        let head = "name = \"mine\"\ndescription = \"Mine\"\n";
        for (text, told) in [
            ("[prompt]\nargv = [\"x\", \"{prompt}\"]\nargs = 1\n", &["line 5", "args"][..]),
            ("[prompt]\nargv = [\"x\", [\"{promt}\"]]\n", &["line 4", "{promt}", "{prompt}"]),
            ("[prompt]\nargv = [\"x\", 7, \"{prompt}\"]\n", &["line 4", "a list of arguments"]),
            ("[prompt]\nargv = [\"x\"]\n", &["{prompt}", "argv"]),
            ("[prompt]\nargv = [\"x\", \"{prompt}\", \"{model}\"]\n", &["argv", "{model}"]),
            ("login = 1\n[prompt]\nargv = [\"{prompt}\"]\n", &["line 3", "login"]),
            (
                "[prompt]\nargv = [\"{prompt}\"]\n[login]\nargv = [\"x\"]\nurl = '('\naccepts = \"code\"\n",
                &["line 7", "unclosed group"],
            ),
            (
                "[prompt]\nargv = [\"{prompt}\"]\n[[output.events]]\nmake.text = { txt = \"/a\" }\n",
                &["line 6", "txt"],
            ),
            (
                "[prompt]\nargv = [\"{prompt}\"]\n[[output.events]]\nwhen = { \"a\" = 1 }\nmake.text = { text = \"/a\" }\n",
                &["output", "events[0]", "\"a\""],
            ),
        ] {
            std::fs::write(&file, format!("{head}{text}")).unwrap();
            let error = Catalog::with_directory(directory.path()).unwrap_err().to_string();
            assert!(error.contains("assistants/mine.toml"), "{error}");
            assert!(told.iter().all(|told| error.contains(told)), "{error}\nfor {text}");
        }
        std::fs::write(
            &file,
            "name = \"other\"\ndescription = \"\"\n[prompt]\nargv = [\"{prompt}\"]\n",
        )
        .unwrap();
        let error = Catalog::with_directory(directory.path()).unwrap_err().to_string();
        assert!(error.contains("name") && error.contains("other"), "{error}");
    }
}
