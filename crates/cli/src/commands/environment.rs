//! `aetherium env …`: environments.

use super::{more, page};
use crate::{
    args::{Args, EnvCommand, EnvironmentArgs},
    client::Client,
    error::{CliError, local},
    print,
};
use aetherium_gateway::api::{CreateEnvironment, ReplaceEnvironment};
use aetherium_image::recipe;
use aetherium_model::{
    Code, Fault,
    environment::{Environment, EnvironmentSpec},
    page::Page,
};
use std::path::Path;

/// Where to read what a file may hold.
const REMEDY: &str = "docs/environments.md says what an environment may hold";

pub(crate) async fn dispatch(args: &Args, verb: &EnvCommand) -> Result<(), CliError> {
    match verb {
        EnvCommand::Create { name, spec } => {
            let said = over(&file(spec)?.unwrap_or_default(), spec)?;
            let request = CreateEnvironment { name: name.clone(), spec: said };
            let made: Environment = Client::connect(args)?.post("/environments", &request).await?;
            show(args, &made)
        }
        EnvCommand::List(list) => {
            let path = format!("/environments?{}", page(list));
            table(args, &Client::connect(args)?.get(&path).await?)
        }
        EnvCommand::Get { environment, version } => {
            let path = match version {
                Some(version) => format!("/environments/{environment}/versions/{version}"),
                None => format!("/environments/{environment}"),
            };
            let found: Environment = Client::connect(args)?.get(&path).await?;
            if args.json { print::json(&found) } else { write(&found) }
        }
        EnvCommand::Update { environment, if_version, spec } => {
            let (client, path) = (Client::connect(args)?, format!("/environments/{environment}"));
            let file = file(spec)?;
            let now: Environment = client.get(&path).await?;
            let version = if_version.unwrap_or(now.version);
            let spec = over(&file.unwrap_or(now.spec), spec)?;
            show(args, &client.put(&path, &ReplaceEnvironment { version, spec }).await?)
        }
        EnvCommand::Versions { environment, list } => {
            let path = format!("/environments/{environment}/versions?{}", page(list));
            table(args, &Client::connect(args)?.get(&path).await?)
        }
        EnvCommand::Delete { environment } => {
            Client::connect(args)?.remove(&format!("/environments/{environment}")).await?;
            if !args.json {
                println!("{environment} is gone");
            }
            Ok(())
        }
    }
}

/// What the file says, if one was named.
fn file(given: &EnvironmentArgs) -> Result<Option<EnvironmentSpec>, CliError> {
    let Some(path) = &given.file else { return Ok(None) };
    let unreadable = |error| local(format!("cannot read {}", path.display()), error);
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(path, &text).map(Some)
}

/// Reads an environment: JSON where the file's name says so, else TOML.
fn parse(path: &Path, text: &str) -> Result<EnvironmentSpec, CliError> {
    let invalid = |problem: String| Fault::new(Code::InvalidRequest, problem).remedy(REMEDY);
    if path.extension().is_some_and(|it| it == "json") {
        let mut parser = serde_json::Deserializer::from_str(text);
        let spec = serde_path_to_error::deserialize(&mut parser);
        let spec = spec.map_err(|error| invalid(format!("{}: {error}", path.display())))?;
        parser.end().map_err(|error| invalid(format!("{}: {error}", path.display())))?;
        return Ok(spec);
    }
    Ok(recipe::read(path, text).map_err(|error| invalid(error.to_string()))?)
}

/// What it says, with what the arguments say.
fn over(spec: &EnvironmentSpec, given: &EnvironmentArgs) -> Result<EnvironmentSpec, CliError> {
    let invalid = |problem: String| Fault::new(Code::InvalidRequest, problem);
    let given = given.spec(spec.setup.repository.as_ref()).map_err(invalid)?;
    let both = spec.with(&given);
    Ok(both.map_err(|it| invalid(format!("{}: {}", it.field, it.problem)))?)
}

fn show(args: &Args, environment: &Environment) -> Result<(), CliError> {
    if args.json {
        return print::json(environment);
    }
    println!("{} {} version {}", environment.id, environment.name, environment.version);
    Ok(())
}

/// Prints what an environment says, as a file that says the same.
fn write(environment: &Environment) -> Result<(), CliError> {
    let Environment { name, version, spec, updated_at, .. } = environment;
    let text = toml::to_string_pretty(spec).map_err(Fault::internal)?;
    println!("# {name}, version {version} of {updated_at}");
    print!("{text}");
    Ok(())
}

fn table(args: &Args, found: &Page<Environment>) -> Result<(), CliError> {
    if args.json {
        return print::json(found);
    }
    let row = |it: &Environment| {
        let described: String = it.spec.description.chars().take(50).collect();
        vec![
            it.id.to_string(),
            it.name.to_string(),
            it.version.to_string(),
            it.updated_at.to_string(),
            described,
        ]
    };
    let rows: Vec<_> = found.items.iter().map(row).collect();
    print::table(&["ID", "NAME", "VERSION", "SINCE", "DESCRIPTION"], &rows);
    more(found.next_cursor.as_ref());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<EnvironmentSpec, String> {
        parse(Path::new(name), text).map_err(|error| error.fault().to_string())
    }

    #[test]
    fn a_file_is_toml_or_json_and_unknown_keys_are_refused() {
        let toml = read("web.toml", "vcpus = 2\n[setup]\ntools = [\"git\"]\n").unwrap();
        let json = read("web.json", r#"{"vcpus": 2, "setup": {"tools": ["git"]}}"#).unwrap();
        assert_eq!(toml, json);
        for (name, text, says) in [
            ("a.toml", "vcpus = 2\nvcpu = 2\n", "a.toml:2: vcpu"),
            ("a.toml", "[setup]\ntools = [\"a b\"]\n", "a.toml:2: setup.tools[0]"),
            ("a.json", r#"{"setup": {"tool": []}}"#, "setup.tool"),
            ("a.json", "{} {}", "a.json: trailing"),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let spec = read(
            "web.toml",
            r#"
            description = "for the web"
            template = "default"
            secrets = ["TOKEN"]
            [placement.labels]
            disk = "nvme"
            [setup]
            tools = ["nodejs@20"]
            repository = { url = "https://git.example.org/a.git", depth = 1 }
            [setup.env]
            A = "1"
            [setup.mcp_servers.files]
            type = "stdio"
            command = "mcp-files"
            env = { B = "2" }
            [[setup.preparation]]
            name = "install"
            do = { script = { run = "npm ci\nnpm test" } }
            [[setup.preparation]]
            do = { files = [{ path = "/etc/motd", content = { text = "hello" } }] }
            continue_on_error = true
            [setup.assistant]
            permission_mode = "all"
            "#,
        )
        .unwrap();
        let text = toml::to_string_pretty(&spec).unwrap();
        assert_eq!(read("web.toml", &text), Ok(spec), "{text}");
    }
}
