//! `aetherium tool …`: what workspaces may ask for by name.

use crate::{
    args::{Args, ToolCommand},
    client::Client,
    error::CliError,
    print,
};
use aetherium_gateway::api::{Tool, ToolSource};
use aetherium_model::page::Page;

pub(crate) async fn dispatch(args: &Args, verb: &ToolCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    match verb {
        ToolCommand::List => {
            let found: Page<Tool> = client.get("/tools").await?;
            if args.json {
                return print::json(&found);
            }
            let row = |it: &Tool| {
                vec![it.name.clone(), default(it), versions(it), it.description.clone()]
            };
            let rows: Vec<_> = found.items.iter().map(row).collect();
            print::table(&["NAME", "BY DEFAULT", "VERSIONS", "WHAT IT IS"], &rows);
        }
        ToolCommand::Show { tool } => {
            let found: Tool = client.get(&format!("/tools/{tool}")).await?;
            if args.json {
                return print::json(&found);
            }
            show(&found);
        }
    }
    Ok(())
}

fn show(tool: &Tool) {
    println!("{}: {}", tool.name, tool.description);
    let line = |what: &str, text: String| {
        if !text.is_empty() {
            println!("  {what:<12}{text}");
        }
    };
    line("also called", tool.aliases.join(", "));
    line("by default", default(tool));
    line("versions", versions(tool));
    line("with", tool.requires.join(", "));
    line("check", tool.check.clone());
}

/// What is had where no version is asked for.
fn default(tool: &Tool) -> String {
    match (tool.by_default, &tool.default_version) {
        (ToolSource::Packages, _) => "the distribution's".to_owned(),
        (ToolSource::Script, Some(version)) => version.clone(),
        (ToolSource::Script, None) => "its script's".to_owned(),
    }
}

/// What may be asked for.
fn versions(tool: &Tool) -> String {
    let more = tool.any_number.then_some("…");
    tool.versions.iter().map(String::as_str).chain(more).collect::<Vec<_>>().join(", ")
}
