//! Arguments of the event log, webhooks and projects.

use super::{ListArgs, duration};
use aetherium_gateway::{GatewayConfig, WebhookPolicy};
use aetherium_model::{
    event::{EventType, SubjectKind},
    project::ProjectId,
};
use aetherium_store::LogBounds;
use clap::{Args as ClapArgs, Subcommand};
use std::time::Duration;

/// What a gateway keeps of events, and whom it tells of them.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct EventLogArgs {
    /// Forget events older than this.
    #[arg(
        long,
        env = "AETHERIUM_EVENTS_KEEP",
        default_value = "168h",
        value_parser = duration,
        value_name = "TIME"
    )]
    pub(crate) events_keep: Duration,
    /// Keep so many events at most, the newest.
    #[arg(long, env = "AETHERIUM_EVENTS_MAX", default_value_t = 1_000_000, value_name = "COUNT")]
    pub(crate) events_max: u64,
    /// Let webhooks point to private, loopback and link-local addresses: whoever has an API key can
    /// then have this gateway speak to its own network.
    #[arg(long, env = "AETHERIUM_ALLOW_PRIVATE_WEBHOOKS")]
    pub(crate) allow_private_webhooks: bool,
}

impl Default for EventLogArgs {
    fn default() -> Self {
        let LogBounds { age, events } = LogBounds::default();
        Self { events_keep: age, events_max: events, allow_private_webhooks: false }
    }
}

impl EventLogArgs {
    /// The configuration with what they say.
    pub(crate) fn applied_to(&self, config: GatewayConfig) -> GatewayConfig {
        let webhooks =
            WebhookPolicy { allow_private: self.allow_private_webhooks, ..config.webhooks };
        let event_log = LogBounds { age: self.events_keep, events: self.events_max };
        GatewayConfig { event_log, webhooks, ..config }
    }
}

/// Arguments of `events`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on, or after `--after`, until Ctrl-C.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin after the event of this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<i64>,
    /// At most this many, without `--follow`.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Which events.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct FilterArgs {
    /// Only those about this kind of thing, such as `vm`.
    #[arg(long, value_name = "KIND")]
    pub(crate) subject: Option<SubjectKind>,
    /// Only those about the thing of this id, or the template of this name.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Only those about this workspace and what belongs to it.
    #[arg(long, value_name = "WORKSPACE")]
    pub(crate) workspace: Option<String>,
    /// Only those of this type, such as `vm.failed`; may be repeated.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<EventType>,
}

/// Verbs on webhooks.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Have an address told of events; prints the secret that signs them, this once.
    #[command(after_help = "\
Example:
  aetherium webhook create https://example.com/hook --type vm.failed --type prompt.completed")]
    Create {
        /// Where events are posted to.
        #[arg(value_name = "URL")]
        address: String,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// List them.
    List(ListArgs),
    /// Show one.
    Show {
        /// Its id.
        webhook: String,
    },
    /// Tell one nothing for now.
    Pause {
        /// Its id.
        webhook: String,
    },
    /// Tell one that was paused or disabled again.
    Activate {
        /// Its id.
        webhook: String,
    },
    /// Remove one.
    Delete {
        /// Its id.
        webhook: String,
    },
    /// List what one was told, and how that went.
    Deliveries {
        /// Its id.
        webhook: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Send a delivery once more.
    Redeliver {
        /// The webhook's id.
        webhook: String,
        /// The delivery's id.
        delivery: String,
    },
}

/// Verbs on projects.
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Show what one may use, and uses.
    Show {
        /// Its name.
        #[arg(default_value_t)]
        project: ProjectId,
    },
    /// Set all limits of one; what is not given has none.
    Limit {
        /// Its name.
        #[arg(default_value_t)]
        project: ProjectId,
        /// VMs that have not ended.
        #[arg(long, value_name = "COUNT")]
        vms: Option<u64>,
        /// Their virtual CPUs.
        #[arg(long, value_name = "COUNT")]
        vcpus: Option<u64>,
        /// Their memory, in MiB.
        #[arg(long, value_name = "MIB")]
        memory_mib: Option<u64>,
        /// Workspaces.
        #[arg(long, value_name = "COUNT")]
        workspaces: Option<u64>,
        /// Prompts that wait for their turn.
        #[arg(long, value_name = "COUNT")]
        queued_prompts: Option<u64>,
    },
}
