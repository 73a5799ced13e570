//! Environments: what workspaces are made from, kept under a name and in versions.

use crate::{
    EnvironmentId, Name, Timestamp,
    assistant::AssistantName,
    placement::Placement,
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus},
    secret::{MAX_USES, SecretUses},
    setup::{Objection, Setup},
    template_ref::TemplateRef,
    workspace::IdleAction,
};
use serde::{Deserialize, Serialize};

/// The longest idle timeout: a week, in seconds.
pub const MAX_IDLE_TIMEOUT_S: u32 = 7 * 24 * 3600;
/// So many of the newest versions of an environment are kept. Of those before them only the first is, and
/// what workspaces were made from.
pub const KEPT_VERSIONS: u32 = 1000;
/// The largest setup, in bytes of JSON: each workspace has a copy, which its lists show.
const MAX_SETUP_BYTES: usize = 256 * 1024;
/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 1000;

/// What a workspace is made of. What is absent is left to the workspace, and then to the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1000)]
    pub description: String,
    /// What turns prompts into commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ai_assistant: Option<AssistantName>,
    /// The template of its VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Vcpus>,
    /// Guest memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<MemoryMib>,
    /// Writable disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<DiskMib>,
    /// What its VMs may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkMode>,
    /// Secrets that each prompt gets.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
    /// Its VM is hibernated or stopped after so many seconds without work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub idle_timeout_s: Option<u32>,
    /// Which of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_action: Option<IdleAction>,
    /// Which workers may have it.
    #[serde(default, skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// What is put into it before its first prompt, and given to each.
    #[serde(default, skip_serializing_if = "Setup::is_empty")]
    pub setup: Setup,
}

impl EnvironmentSpec {
    /// What a workspace is made of that says `over` of itself: lists one after the other, maps together,
    /// single values in each other's place.
    ///
    /// # Errors
    /// The list that has become too long.
    pub fn with(&self, over: &Self) -> Result<Self, Objection> {
        let described = if over.description.is_empty() { self } else { over };
        Ok(Self {
            description: described.description.clone(),
            ai_assistant: over.ai_assistant.clone().or_else(|| self.ai_assistant.clone()),
            template: over.template.clone().or_else(|| self.template.clone()),
            vcpus: over.vcpus.or(self.vcpus),
            memory_mib: over.memory_mib.or(self.memory_mib),
            disk_mib: over.disk_mib.or(self.disk_mib),
            network: over.network.or(self.network),
            secrets: self.secrets.with(&over.secrets),
            idle_timeout_s: over.idle_timeout_s.or(self.idle_timeout_s),
            idle_action: over.idle_action.or(self.idle_action),
            placement: self.placement.with(&over.placement),
            setup: self.setup.with(&over.setup).map_err(|it| it.within("setup"))?,
        })
    }

    /// What is not allowed of it, but for variables of MCP servers that nothing gives
    /// ([`Setup::unknown_variables`]).
    pub fn objections(&self) -> Vec<Objection> {
        let object = |field: &str, problem| Objection { field: field.to_owned(), problem };
        let mut found: Vec<_> =
            self.setup.objections().into_iter().map(|it| it.within("setup")).collect();
        let characters = self.description.chars().count();
        if characters > MAX_DESCRIPTION || self.description.contains('\0') {
            let problem = format!("must be text of at most {MAX_DESCRIPTION} characters");
            found.push(object("description", problem));
        }
        // Our own types always encode; what would not takes no room either.
        let bytes = serde_json::to_vec(&self.setup).map_or(0, |json| json.len());
        if bytes > MAX_SETUP_BYTES {
            let problem = format!("takes {bytes} bytes as JSON; at most {MAX_SETUP_BYTES}");
            found.push(object("setup", problem));
        }
        if self.secrets.len() > MAX_USES {
            let problem = format!("asks for {}; at most {MAX_USES}", self.secrets.len());
            found.push(object("secrets", problem));
        }
        if let Some(s) = self.idle_timeout_s.filter(|s| !(1..=MAX_IDLE_TIMEOUT_S).contains(s)) {
            let problem = format!("{s} is not allowed: give 1 to {MAX_IDLE_TIMEOUT_S} seconds");
            found.push(object("idle_timeout_s", problem));
        }
        found
    }

    /// The variables that its MCP servers want and nothing gives them.
    pub fn unknown_variables(&self) -> Vec<Objection> {
        let unknown = self.setup.unknown_variables(&self.secrets).into_iter();
        unknown.map(|it| it.within("setup")).collect()
    }
}

/// A version of an environment. Each change makes the next; workspaces keep what they were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Environment {
    /// Its id, the same in all versions.
    pub id: EnvironmentId,
    /// Its name, unique among environments.
    pub name: Name,
    /// Which version this is, from 1.
    pub version: u32,
    /// What it says.
    #[serde(flatten)]
    pub spec: EnvironmentSpec,
    /// When it was first made.
    pub created_at: Timestamp,
    /// When this version was.
    pub updated_at: Timestamp,
}

impl Environment {
    /// Which version of which environment this is.
    pub fn reference(&self) -> MadeFrom {
        MadeFrom { id: self.id, name: self.name.clone(), version: self.version }
    }
}

/// Which version of which environment a workspace was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MadeFrom {
    /// The environment, which may be gone.
    pub id: EnvironmentId,
    /// Its name at that time.
    pub name: Name,
    /// Its version.
    pub version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> EnvironmentSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_a_workspace_says_goes_before_what_its_environment_does() {
        let environment = spec(json!({
            "description": "for the web",
            "ai_assistant": "claude-code", "template": "base", "vcpus": 2, "memory_mib": 512,
            "secrets": ["TOKEN", "KEY"],
            "placement": {"zone": "a", "labels": {"disk": "nvme", "gpu": "no"}},
            "setup": {
                "repository": {"url": "https://h/a", "branch": "one"},
                "tools": ["git", "nodejs@18"],
                "env": {"A": "1", "B": "1"},
                "mcp_servers": {
                    "x": {"type": "stdio", "command": "x"}, "y": {"type": "stdio", "command": "y"},
                },
                "preparation": [{"do": {"script": {"run": "first"}}}],
                "assistant": {"model": "small", "permission_mode": "plan"},
            },
        }));
        let workspace = spec(json!({
            "vcpus": 4, "disk_mib": 4096, "idle_timeout_s": 60, "idle_action": "stop", "network": "egress",
            "secrets": {"KEY": {"secret": "OTHER"}},
            "placement": {"zone": "b", "labels": {"gpu": "yes"}},
            "setup": {
                "repository": {"url": "https://h/b"},
                "working_directory": "/srv",
                "tools": ["nodejs@20", "python"],
                "env": {"B": "2", "C": "2"},
                "mcp_servers": {"y": {"type": "stdio", "command": "z"}},
                "preparation": [{"do": {"script": {"run": "second"}}}],
                "user": "dev",
                "assistant": {"model": "large"},
            },
        }));
        let both = spec(json!({
            "description": "for the web",
            "ai_assistant": "claude-code", "template": "base", "vcpus": 4, "memory_mib": 512,
            "disk_mib": 4096, "idle_timeout_s": 60, "idle_action": "stop", "network": "egress",
            "secrets": {"TOKEN": {"secret": "TOKEN"}, "KEY": {"secret": "OTHER"}},
            "placement": {"zone": "b", "labels": {"disk": "nvme", "gpu": "yes"}},
            "setup": {
                "repository": {"url": "https://h/b"},
                "working_directory": "/srv",
                "tools": ["git", "nodejs@20", "python"],
                "env": {"A": "1", "B": "2", "C": "2"},
                "mcp_servers": {
                    "x": {"type": "stdio", "command": "x"}, "y": {"type": "stdio", "command": "z"},
                },
                "preparation": [
                    {"do": {"script": {"run": "first"}}}, {"do": {"script": {"run": "second"}}},
                ],
                "user": "dev",
                "assistant": {"model": "large", "permission_mode": "plan"},
            },
        }));
        assert_eq!(environment.with(&workspace), Ok(both));
    }

    #[test]
    fn lists_that_are_too_long_together_are_named() {
        let steps = |many| {
            let step = json!({"do": {"script": {"run": "true"}}});
            spec(json!({"setup": {"preparation": vec![step; many]}}))
        };
        let error = steps(200).with(&steps(57)).unwrap_err();
        assert_eq!(error.field, "setup.preparation");
        assert!(error.problem.contains("257"), "{}", error.problem);
        assert!(steps(200).with(&steps(56)).is_ok());
    }

    #[test]
    fn what_is_beyond_its_bounds_is_named() {
        let file = json!({"path": "/x", "content": {"text": "x".repeat(100_000)}});
        let step = json!({"do": {"files": [file]}});
        for (value, field) in [
            (json!({"description": "x".repeat(1001)}), "description"),
            (json!({"idle_timeout_s": 0}), "idle_timeout_s"),
            (json!({"idle_timeout_s": 604_801}), "idle_timeout_s"),
            (json!({"secrets": (0..65).map(|n| format!("S{n}")).collect::<Vec<_>>()}), "secrets"),
            (json!({"setup": {"preparation": vec![step; 3]}}), "setup"),
            (json!({"setup": {"repository": {"url": "x"}}}), "setup.repository.url"),
        ] {
            let found = spec(value).objections();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].field, field);
        }
    }

    proptest! {
        #[test]
        fn who_says_nothing_changes_nothing(
            tools in prop::collection::btree_set("[a-z]{1,3}", 0..4),
            env in prop::collection::btree_map("[A-Z]{1,2}", "[a-z]{0,2}", 0..4),
            vcpus in prop::option::of(1u8..4),
            user in prop::option::of("[a-z]{1,4}"),
        ) {
            let mut value = json!({"setup": {"tools": tools, "env": env}});
            if let Some(vcpus) = vcpus {
                value["vcpus"] = vcpus.into();
            }
            if let Some(user) = user {
                value["setup"]["user"] = user.into();
            }
            let (some, nothing) = (spec(value), EnvironmentSpec::default());
            prop_assert_eq!(some.with(&nothing), Ok(some.clone()));
            prop_assert_eq!(nothing.with(&some), Ok(some.clone()));
            // Nor does it matter when it is said twice, but for lists of what is done.
            prop_assert_eq!(some.with(&some), Ok(some));
        }
    }
}
