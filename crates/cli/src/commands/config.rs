//! `aetherium config schema`: what can be configured, read off the grammar of the command line, so that
//! it cannot say anything else than what the program takes.

use crate::{
    args::{Args, ConfigCommand},
    error::CliError,
    print,
};
use aetherium_model::Fault;
use clap::{Arg, ArgAction, Command, CommandFactory as _};
use serde::Serialize;
use std::collections::BTreeMap;

/// The verbs that a deployment runs.
const ROLES: [&[&str]; 5] =
    [&["up"], &["gateway"], &["worker"], &["migrate"], &["host", "prepare"]];

/// What is read from the environment by no option: its name, and what it does.
const VARIABLES: [(&str, &str); 1] =
    [("AETHERIUM_LOG", "What the log shows: `error`, `warn`, `info`, `debug`, or by module")];

/// What can be configured.
#[derive(Debug, Serialize)]
struct Schema {
    /// The program's version.
    version: &'static str,
    /// The options of each role, by the role's verb.
    roles: BTreeMap<String, Vec<Setting>>,
    /// Variables of the environment that belong to no option, with what each does.
    environment: BTreeMap<&'static str, &'static str>,
}

/// One option.
#[derive(Debug, Serialize)]
struct Setting {
    /// How it is written on the command line.
    option: String,
    /// The environment variable that stands for it.
    env: Option<String>,
    /// What its value is: `flag` for none, else the name of its value.
    r#type: String,
    /// The values it takes, where they are few.
    values: Vec<String>,
    /// What it is unless given.
    default: Option<String>,
    /// Whether it may be given more than once.
    repeated: bool,
    /// Whether its value is not to be shown.
    secret: bool,
    /// What it does.
    help: String,
}

pub(crate) fn dispatch(verb: &ConfigCommand) -> Result<(), CliError> {
    match verb {
        ConfigCommand::Schema => print::json(&schema()?),
    }
}

fn schema() -> Result<Schema, Fault> {
    let mut program = Args::command();
    // Gives each verb the options that all have.
    program.build();
    let role = |path: &[&str]| {
        let verb = path.iter().try_fold(&program, |it, name| it.find_subcommand(name));
        let verb = verb.ok_or_else(|| Fault::internal(format!("no verb {path:?}")))?;
        Ok((path.join(" "), settings(verb)))
    };
    Ok(Schema {
        version: env!("CARGO_PKG_VERSION"),
        roles: ROLES.into_iter().map(role).collect::<Result<_, Fault>>()?,
        environment: BTreeMap::from(VARIABLES),
    })
}

fn settings(verb: &Command) -> Vec<Setting> {
    let asks_for_help =
        |arg: &Arg| matches!(arg.get_action(), ArgAction::Help | ArgAction::Version);
    verb.get_arguments().filter(|arg| !asks_for_help(arg)).filter_map(setting).collect()
}

/// An option, as opposed to an argument without a name.
fn setting(arg: &Arg) -> Option<Setting> {
    let option = format!("--{}", arg.get_long()?);
    let text = |it: &std::ffi::OsStr| it.to_string_lossy().into_owned();
    let takes_value = arg.get_action().takes_values();
    let name = arg.get_value_names().and_then(|names| names.first()).map(|it| it.as_str());
    let values = arg.get_possible_values();
    Some(Setting {
        env: arg.get_env().map(text),
        r#type: match (takes_value, name) {
            (false, _) => "flag".to_owned(),
            (true, name) => name.unwrap_or("VALUE").to_owned(),
        },
        values: if takes_value {
            values.iter().map(|it| it.get_name().to_owned()).collect()
        } else {
            Vec::new()
        },
        default: arg.get_default_values().first().filter(|_| takes_value).map(|it| text(it)),
        repeated: matches!(arg.get_action(), ArgAction::Append),
        secret: arg.is_hide_env_values_set(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        option,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_its_options_and_those_of_all() {
        let schema = schema().unwrap();
        let find = |role: &str, option: &str| {
            schema.roles[role].iter().find(|it| it.option == option).unwrap()
        };
        let listen = find("gateway", "--listen");
        assert_eq!(listen.env.as_deref(), Some("AETHERIUM_LISTEN"));
        assert_eq!(listen.r#type, "ADDRESS");
        assert_eq!(listen.default.as_deref(), Some("127.0.0.1:7070"));
        assert!(find("worker", "--database").secret);
        assert_eq!(find("worker", "--no-slots").r#type, "flag");
        assert_eq!(find("host prepare", "--data-dir").env.as_deref(), Some("AETHERIUM_DATA_DIR"));
        assert!(find("migrate", "--log-format").values.contains(&"json".to_owned()));
        for (role, settings) in &schema.roles {
            assert!(settings.iter().all(|it| !it.help.is_empty()), "{role}: {settings:#?}");
        }
    }
}
