//! How an assistant is told of MCP servers: its own form of their configuration, as a template.

use crate::McpConfig;
use aetherium_model::setup::McpServer;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The form of an assistant's configuration of MCP servers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mcp {
    /// How it is written.
    format: Format,
    /// Whether `{mcp_config}` is the configuration, or the path of a file that has it.
    deliver: Deliver,
    /// The key that the servers are under; none where they are all of it.
    #[serde(default)]
    under: Option<String>,
    /// What a program is: an object in which `"{command}"`, `"{args}"` and `"{env}"` stand for the
    /// server's own. `"{args}"` within a list stands for each of them.
    stdio: Map<String, Value>,
    /// What a server over HTTP is, with `"{url}"` and `"{headers}"`.
    http: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// JSON.
    Json,
    /// A value of TOML on one line.
    TomlInline,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Deliver {
    Inline,
    File,
    RootFile,
}

const STDIO: [&str; 3] = ["{command}", "{args}", "{env}"];
const HTTP: [&str; 2] = ["{url}", "{headers}"];

impl Mcp {
    /// Whether the templates hold nothing unknown, and what a server cannot do without.
    pub(crate) fn check(&self) -> Result<(), String> {
        check("stdio", &self.stdio, &STDIO)?;
        check("http", &self.http, &HTTP)
    }

    /// The configuration of servers.
    pub(crate) fn render(&self, servers: &BTreeMap<String, McpServer>) -> McpConfig {
        let servers = servers.iter().map(|(name, server)| (name.clone(), self.server(server)));
        let mut all = Value::Object(servers.collect());
        if let Some(key) = &self.under {
            all = Value::Object(Map::from_iter([(key.clone(), all)]));
        }
        let text = match self.format {
            Format::Json => all.to_string(),
            Format::TomlInline => toml_inline(&all),
        };
        match self.deliver {
            Deliver::Inline => McpConfig::Inline(text),
            Deliver::File => McpConfig::File(text),
            Deliver::RootFile => McpConfig::RootFile(text),
        }
    }

    fn server(&self, server: &McpServer) -> Value {
        match server {
            McpServer::Stdio { command, args, env } => {
                let env = env.iter().map(|(name, value)| (name.as_str(), value));
                fill_object(
                    &self.stdio,
                    &[
                        ("{command}", Value::from(command.clone())),
                        ("{args}", Value::from(args.clone())),
                        ("{env}", object(env)),
                    ],
                )
            }
            McpServer::Http { url, headers } => fill_object(
                &self.http,
                &[
                    ("{url}", Value::from(url.clone())),
                    (
                        "{headers}",
                        object(headers.iter().map(|(name, value)| (name.as_str(), value))),
                    ),
                ],
            ),
        }
    }
}

fn object<'a>(entries: impl Iterator<Item = (&'a str, &'a String)>) -> Value {
    entries.map(|(name, value)| (name.to_owned(), Value::from(value.clone()))).collect()
}

fn check(key: &str, template: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    let mut used = Vec::new();
    collect(&Value::Object(template.clone()), &mut used);
    if let Some(unknown) = used.iter().find(|it| !known.contains(&it.as_str())) {
        return Err(format!("{key}: {unknown} stands for nothing: give {}", known.join(", ")));
    }
    match known.iter().find(|name| !used.iter().any(|it| it == *name)) {
        Some(missing) => Err(format!("{key}: {missing} is missing")),
        None => Ok(()),
    }
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) if text.starts_with('{') => into.push(text.clone()),
        Value::Array(entries) => entries.iter().for_each(|it| collect(it, into)),
        Value::Object(entries) => entries.values().for_each(|it| collect(it, into)),
        _ => {}
    }
}

type Known<'a> = [(&'a str, Value)];

fn fill(value: &Value, known: &Known<'_>) -> Value {
    match value {
        Value::String(text) => {
            let found = known.iter().find(|(name, _)| name == text);
            found.map_or_else(|| value.clone(), |(_, value)| value.clone())
        }
        Value::Array(entries) => entries
            .iter()
            .flat_map(|entry| match fill(entry, known) {
                // A list within a list is its entries.
                Value::Array(entries) => entries,
                other => vec![other],
            })
            .collect(),
        Value::Object(entries) => fill_object(entries, known),
        other => other.clone(),
    }
}

fn fill_object(entries: &Map<String, Value>, known: &Known<'_>) -> Value {
    entries.iter().map(|(key, value)| (key.clone(), fill(value, known))).collect()
}

/// A value of TOML that has no line breaks. What JSON writes as a string is one in TOML too, but for
/// U+007F, which TOML wants escaped.
fn toml_inline(value: &Value) -> String {
    let string = |text: &str| Value::from(text).to_string().replace('\u{7f}', "\\u007f");
    match value {
        Value::Array(entries) => {
            let entries: Vec<_> = entries.iter().map(toml_inline).collect();
            format!("[{}]", entries.join(", "))
        }
        Value::Object(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{} = {}", string(key), toml_inline(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_template_with_a_word_that_stands_for_nothing_is_refused() {
        let template = |text: &str| serde_json::from_str(text).unwrap();
        let whole = r#"{"command": "{command}", "args": "{args}", "env": "{env}"}"#;
        assert_eq!(check("stdio", &template(whole), &STDIO), Ok(()));
        let typo = r#"{"command": "{comand}", "args": "{args}", "env": "{env}"}"#;
        assert!(check("stdio", &template(typo), &STDIO).unwrap_err().contains("{comand}"));
        let short = r#"{"command": ["{command}", "{args}"]}"#;
        assert!(check("stdio", &template(short), &STDIO).unwrap_err().contains("{env}"));
    }

    proptest! {
        #[test]
        fn toml_reads_what_was_written_inline(
            texts in proptest::collection::btree_map("\\PC*", any::<String>(), 0..4),
            list in proptest::collection::vec(any::<String>(), 0..4),
        ) {
            let value = serde_json::json!({ "texts": texts, "list": list, "yes": true, "n": 7 });
            let line = toml_inline(&value);
            prop_assert!(!line.contains('\n'));
            let read: Value = toml::from_str(&format!("it = {line}")).unwrap();
            prop_assert_eq!(&read["it"], &value);
        }
    }
}
