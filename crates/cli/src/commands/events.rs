//! `aetherium events`, `aetherium webhook …` and `aetherium project …`.

use super::{more, page};
use crate::{
    args::{Args, EventsArgs, FilterArgs, ProjectCommand, WebhookCommand},
    client::Client,
    error::CliError,
    print,
};
use aetherium_gateway::api::{ChangeWebhook, CreateWebhook, CreatedWebhook};
use aetherium_model::{
    Fault,
    event::{Actor, Event, EventFilter, EventPage},
    page::Page,
    project::{Limits, Project},
    webhook::{Delivery, Webhook},
    workspace::Workspace,
};

pub(crate) async fn events(args: &Args, events: &EventsArgs) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    let filter = query(&events.filter);
    if events.follow {
        return client.follow_events(&filter, events.after, |event| show(args, event)).await;
    }
    let after = events.after.unwrap_or(0);
    let path = format!("/events?limit={}&after={after}{filter}", events.limit);
    let page: EventPage = client.get(&path).await?;
    if args.json {
        return print::json(&page);
    }
    for event in &page.items {
        println!("{}", line(event));
    }
    Ok(())
}

fn show(args: &Args, event: &Event) -> Result<(), CliError> {
    if args.json {
        println!("{}", serde_json::to_string(event).map_err(Fault::internal)?);
    } else {
        println!("{}", line(event));
    }
    Ok(())
}

/// An event on one line.
fn line(event: &Event) -> String {
    let actor = match &event.actor {
        Actor::ApiKey(key) => format!("key {key}"),
        Actor::Worker(id) => id.to_string(),
        Actor::System => "aetherium".to_owned(),
    };
    let reason = event.data.reason.as_ref().map(|it| format!("  {}: {}", it.code, it.detail));
    let code = event.data.exit_code.map(|code| format!("  exit code {code}"));
    format!(
        "{:>6}  {}  {:<22} {}  by {actor}{}{}",
        event.seq,
        event.at,
        event.kind.as_str(),
        event.subject.id(),
        code.unwrap_or_default(),
        reason.unwrap_or_default()
    )
}

fn query(filter: &FilterArgs) -> String {
    let types: Vec<_> = filter.types.iter().map(|kind| kind.as_str()).collect();
    let given = [
        ("subject", filter.subject.map(|kind| kind.as_str().to_owned())),
        ("id", filter.id.clone()),
        ("workspace", filter.workspace.clone()),
        ("type", (!types.is_empty()).then(|| types.join(","))),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", value?)));
    given.collect()
}

pub(crate) async fn webhook(args: &Args, verb: &WebhookCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    match verb {
        WebhookCommand::Create { address, filter } => {
            let workspace_id = match &filter.workspace {
                Some(name) => {
                    Some(client.get::<Workspace>(&format!("/workspaces/{name}")).await?.id)
                }
                None => None,
            };
            let filter = EventFilter {
                subject: filter.subject,
                id: filter.id.clone(),
                workspace_id,
                types: filter.types.clone(),
            };
            let request = CreateWebhook { url: address.clone(), filter, active: true };
            let created: CreatedWebhook = client.post("/webhooks", &request).await?;
            if args.json {
                return print::json(&created);
            }
            println!("{}", created.webhook.id);
            println!("secret (shown this once): {}", created.secret);
        }
        WebhookCommand::List(list) => {
            let webhooks: Page<Webhook> = client.get(&format!("/webhooks?{}", page(list))).await?;
            if args.json {
                return print::json(&webhooks);
            }
            let row = |it: &Webhook| {
                let state = it.state.as_str().to_owned();
                vec![it.id.to_string(), state, it.failures.to_string(), it.url.clone()]
            };
            let rows: Vec<_> = webhooks.items.iter().map(row).collect();
            print::table(&["ID", "STATE", "FAILURES", "URL"], &rows);
            more(webhooks.next_cursor.as_ref());
        }
        WebhookCommand::Show { webhook } => {
            print::json(&client.get::<Webhook>(&format!("/webhooks/{webhook}")).await?)?;
        }
        WebhookCommand::Pause { webhook } => activate(args, &client, webhook, false).await?,
        WebhookCommand::Activate { webhook } => activate(args, &client, webhook, true).await?,
        WebhookCommand::Delete { webhook } => {
            client.remove(&format!("/webhooks/{webhook}")).await?;
            println!("{webhook} is gone");
        }
        WebhookCommand::Deliveries { webhook, list } => {
            let path = format!("/webhooks/{webhook}/deliveries?{}", page(list));
            let deliveries: Page<Delivery> = client.get(&path).await?;
            if args.json {
                return print::json(&deliveries);
            }
            let rows: Vec<_> = deliveries.items.iter().map(delivery).collect();
            print::table(&["ID", "STATE", "ATTEMPTS", "EVENT", "TYPE", "REFUSAL"], &rows);
            more(deliveries.next_cursor.as_ref());
        }
        WebhookCommand::Redeliver { webhook, delivery } => {
            let path = format!("/webhooks/{webhook}/deliveries/{delivery}/redeliver");
            let now: Delivery = client.post(&path, &serde_json::json!({})).await?;
            println!("{} is {}", now.id, now.state.as_str());
        }
    }
    Ok(())
}

fn delivery(it: &Delivery) -> Vec<String> {
    vec![
        it.id.to_string(),
        it.state.as_str().to_owned(),
        it.attempts.to_string(),
        it.event.seq.to_string(),
        it.event.kind.to_string(),
        it.refusal.as_ref().map(|refusal| refusal.detail.clone()).unwrap_or_default(),
    ]
}

async fn activate(args: &Args, client: &Client, id: &str, active: bool) -> Result<(), CliError> {
    let change = ChangeWebhook { active: Some(active), ..ChangeWebhook::default() };
    let webhook: Webhook = client.patch(&format!("/webhooks/{id}"), &change).await?;
    if args.json {
        return print::json(&webhook);
    }
    println!("{} is {}", webhook.id, webhook.state.as_str());
    Ok(())
}

pub(crate) async fn project(args: &Args, verb: &ProjectCommand) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    let project: Project = match verb {
        ProjectCommand::Show { project } => client.get(&format!("/projects/{project}")).await?,
        ProjectCommand::Limit { project, vms, vcpus, memory_mib, workspaces, queued_prompts } => {
            let limits = Limits {
                vms: *vms,
                vcpus: *vcpus,
                memory_mib: *memory_mib,
                workspaces: *workspaces,
                queued_prompts: *queued_prompts,
            };
            client.post(&format!("/projects/{project}/limits"), &limits).await?
        }
    };
    if args.json {
        return print::json(&project);
    }
    let (limits, usage) = (project.limits, project.usage);
    let row = |name: &str, used: u64, most: Option<u64>| {
        let most = most.map_or_else(|| "no limit".to_owned(), |most| most.to_string());
        vec![name.to_owned(), used.to_string(), most]
    };
    let rows = [
        row("VMs", usage.vms, limits.vms),
        row("vCPUs", usage.vcpus, limits.vcpus),
        row("memory MiB", usage.memory_mib, limits.memory_mib),
        row("workspaces", usage.workspaces, limits.workspaces),
        row("queued prompts", usage.queued_prompts, limits.queued_prompts),
    ];
    print::table(&["WHAT", "USED", "LIMIT"], &rows);
    Ok(())
}
