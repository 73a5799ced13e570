//! MCP servers of a prompt: their texts with their variables' values, in its assistant's own form.
//!
//! Values of secrets reach the assistant in a file in the guest's memory that its user alone may read, or, for
//! a program that believes root's files alone, that user's group, and that goes with the prompt. An assistant that takes its configuration as an argument gets none with
//! secrets in it: everybody in the guest sees arguments.

use crate::{host::Host, secrets, vm::VmHandle};
use aetherium_agent_client::{AgentClient, Attributes, FileMode, Ownership};
use aetherium_catalog::{AssistantDefinition, McpConfig};
use aetherium_model::{
    Code, Fault,
    secret::{SecretName, SecretUses},
    setup::{
        McpServer,
        variables::{Piece, pieces},
    },
};
use aetherium_secrets::SecretValue;
use aetherium_store::RunRef;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The name of the file, beside those of the run's secrets.
const FILE: &str = "AETHERIUM_MCP_CONFIG";

/// The mode of root's file, which its user reads as one of the group.
const GROUP_READS: u32 = 0o440;

/// What one prompt's assistant is told of its MCP servers.
pub(crate) struct Asked<'a> {
    pub(crate) servers: &'a BTreeMap<String, McpServer>,
    /// The prompt's variables.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Its secrets, which go before.
    pub(crate) secrets: &'a SecretUses,
    pub(crate) user: Option<&'a str>,
}

/// What stands for `{mcp_config}`: the configuration, or the path of its file, which [`forget`] removes.
///
/// # Errors
/// `invalid_request`: a variable that nobody set, or a secret that would be in an argument; or why secrets
/// could not be read or written.
pub(crate) async fn config(
    host: &Arc<Host>,
    vm: &VmHandle,
    agent: &AgentClient,
    run: RunRef,
    assistant: &AssistantDefinition,
    asked: &Asked<'_>,
) -> Result<Option<String>, Fault> {
    if asked.servers.is_empty() || !assistant.takes_mcp_servers() {
        return Ok(None);
    }
    let named = secrets_named(asked.servers, asked.secrets);
    let values = secrets::texts(host, vm.id(), run, &named).await?;
    let servers = expanded(asked, &values)?;
    match assistant.mcp_config(&servers) {
        None => Ok(None),
        Some(McpConfig::Inline(text)) => match named.iter().next() {
            None => Ok(Some(text)),
            Some((variable, _)) => {
                let name = assistant.name.as_str();
                let detail = format!(
                    "the MCP servers name the secret {variable}, and {name} takes their configuration as an argument, which everybody in the guest sees"
                );
                Err(Fault::new(Code::InvalidRequest, detail)
                    .remedy("have the server read the secret from its environment, or take another assistant"))
            }
        },
        Some(McpConfig::File(text)) => {
            written(agent, run, text, asked.user).await.map(Some).map_err(not_written)
        }
        Some(McpConfig::RootFile(text)) => {
            let path = written(agent, run, text, asked.user).await.map_err(not_written)?;
            let given = give_to_root(agent, &path).await;
            given.map(|()| Some(path)).map_err(not_written)
        }
    }
}

/// Writes the file for its user, and returns its path.
async fn written(
    agent: &AgentClient,
    run: RunRef,
    text: String,
    user: Option<&str>,
) -> Result<String, String> {
    let name = file().map_err(|fault| fault.detail)?;
    let text = SecretValue::new(text.into_bytes());
    secrets::write_text(agent, run, &name, &text, user).await
}

/// Makes the file root's, for the group of the user that it was written for.
async fn give_to_root(agent: &AgentClient, path: &str) -> Result<(), String> {
    let ownership = Ownership { user: Some("0".to_owned()), group: None };
    let attributes = Attributes { mode: Some(FileMode::of_stat(GROUP_READS)), ownership };
    let given = agent.files().set_attributes(path, attributes).await;
    given.map(drop).map_err(|error| error.to_string())
}

fn not_written(error: String) -> Fault {
    let detail = format!(
        "the MCP servers' configuration could not be written into the guest's memory: {error}"
    );
    Fault::new(Code::SecretNotDelivered, detail).remedy(
        "it needs a VM of its own, which the process driver has not; else read the VM's console",
    )
}

/// Removes what [`config`] has written.
pub(crate) async fn forget(vm: &VmHandle, run: RunRef, servers: &BTreeMap<String, McpServer>) {
    if let (false, Ok(name)) = (servers.is_empty(), file()) {
        secrets::forget(vm, run, &SecretUses::from_iter([(name.clone(), name)])).await;
    }
}

fn file() -> Result<SecretName, Fault> {
    FILE.parse().map_err(Fault::internal)
}

/// Those of a prompt's secrets that stand in its servers' texts.
fn secrets_named(servers: &BTreeMap<String, McpServer>, uses: &SecretUses) -> SecretUses {
    let texts: Vec<_> = servers.values().flat_map(McpServer::texts).collect();
    let named: BTreeSet<&str> = texts
        .iter()
        // What cannot be read is told of where it is expanded.
        .flat_map(|(_, text)| pieces(text).unwrap_or_default())
        .filter_map(|piece| match piece {
            Piece::Variable { name, .. } => Some(name),
            Piece::Text(_) => None,
        })
        .collect();
    let named = uses.iter().filter(|(variable, _)| named.contains(variable.as_str()));
    named.map(|(variable, secret)| (variable.clone(), secret.clone())).collect()
}

fn expanded(
    asked: &Asked<'_>,
    secrets: &BTreeMap<String, SecretValue>,
) -> Result<BTreeMap<String, McpServer>, Fault> {
    let value = |name: &str| {
        let secret = secrets.get(name).and_then(SecretValue::reveal_text);
        secret.or_else(|| asked.env.get(name).map(String::as_str))
    };
    let expand = |(name, server): (&String, &McpServer)| {
        let server = server.expanded(value).map_err(|error| {
            Fault::new(Code::InvalidRequest, format!("the MCP server {name:?}: {error}")).remedy(
                "set the variable in the setup's env or name it among the secrets, or give it a default: ${NAME:-default}",
            )
        })?;
        Ok((name.clone(), server))
    };
    asked.servers.iter().map(expand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn servers(json: serde_json::Value) -> BTreeMap<String, McpServer> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_secrets_that_the_servers_name_are_read_and_they_go_before_variables() {
        let servers = servers(json!({
            "web": { "type": "http", "url": "https://${HOST}/", "headers": { "Authorization": "Bearer ${TOKEN}" } },
        }));
        let uses: SecretUses = serde_json::from_value(json!(["TOKEN", "OTHER"])).unwrap();
        let named = secrets_named(&servers, &uses);
        assert_eq!(named, serde_json::from_value(json!(["TOKEN"])).unwrap());
        let env = BTreeMap::from([
            ("HOST".to_owned(), "example.org".to_owned()),
            ("TOKEN".to_owned(), "not this".to_owned()),
        ]);
        let values = BTreeMap::from([("TOKEN".to_owned(), SecretValue::new(b"hidden".to_vec()))]);
        let asked = Asked { servers: &servers, env: &env, secrets: &uses, user: None };
        let McpServer::Http { url, headers } = &expanded(&asked, &values).unwrap()["web"] else {
            panic!("another kind of server")
        };
        assert_eq!(
            (url.as_str(), headers["Authorization"].as_str()),
            ("https://example.org/", "Bearer hidden")
        );
        let env = BTreeMap::new();
        let fault = expanded(&Asked { env: &env, ..asked }, &values).unwrap_err();
        assert!(fault.detail.contains("HOST") && fault.detail.contains("web"), "{fault}");
    }
}
