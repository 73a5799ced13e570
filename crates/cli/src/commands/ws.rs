//! `aetherium ws …`: workspaces and their prompts.

use super::{exec, exit_code, login, more, page, prepare};
use crate::{
    args::{Args, PromptArgs, WsCommand, WsCreateArgs},
    attach::{Output, Terminal},
    client::Client,
    error::CliError,
    print,
    progress::Bars,
    told::Told,
};
use aetherium_gateway::api::{Accepted, Assistant, CreatePrompt, CreateWorkspace};
use aetherium_model::{
    Code, Fault, Name, PromptId,
    environment::Environment,
    output::{EventBody, OutputEvent, Stream},
    page::Page,
    run::RunState,
    task::Task,
    workspace::{Lifecycle, Prompt, Workspace},
};
use std::{process::ExitCode, time::Duration};

/// Writing or reading a VM's memory, or a boot: the server's own deadline, and some more.
const REST_DEADLINE: Duration = Duration::from_secs(630);

pub(crate) async fn dispatch(args: &Args, verb: &WsCommand) -> Result<ExitCode, CliError> {
    let client = Client::connect(args)?;
    match verb {
        WsCommand::Prompt(wanted) => return prompt(args, &client, wanted).await,
        WsCommand::Follow { workspace, prompt, raw } => {
            let id = prompt.parse().map_err(|error: aetherium_model::id::InvalidId| {
                Fault::new(Code::InvalidRequest, error.to_string())
            })?;
            return follow(args, &client, workspace, id, *raw).await;
        }
        WsCommand::Create(wanted) => create(args, &client, wanted).await?,
        WsCommand::List(list) => {
            let found: Page<Workspace> = client.get(&format!("/workspaces?{}", page(list))).await?;
            if args.json { print::json(&found)? } else { workspaces(&found) }
        }
        WsCommand::Get { workspace } => {
            print::json(&client.get::<Workspace>(&format!("/workspaces/{workspace}")).await?)?;
        }
        WsCommand::Delete { workspace } => {
            let task: Task = client.delete(&format!("/workspaces/{workspace}")).await?;
            if args.json {
                print::json(&task)?;
            } else {
                println!("{workspace} is being removed ({})", task.id);
            }
        }
        WsCommand::Prepare { prepare, force, setup } => {
            prepare::again(args, &client, prepare, *force, setup.as_deref()).await?;
        }
        WsCommand::Retry { prepare } => {
            prepare::again(args, &client, prepare, false, None).await?;
        }
        WsCommand::Login { workspace, assistant, timeout } => {
            login::log_in(args, &client, workspace, assistant.clone(), *timeout).await?;
        }
        WsCommand::Logins => login::list(args, &client).await?,
        WsCommand::Logout { assistant } => login::log_out(args, &client, assistant).await?,
        WsCommand::Exec { workspace, command } => {
            return exec::in_workspace(&client, workspace, command).await;
        }
        WsCommand::Hibernate { workspace } => {
            rest(args, &client, workspace, "hibernate", "writing its memory").await?;
        }
        WsCommand::Wake { workspace } => {
            rest(args, &client, workspace, "wake", "waking it").await?;
        }
        WsCommand::Disk { verb } => super::disk::dispatch(args, &client, verb).await?,
        WsCommand::Prompts { workspace, list } => {
            let path = format!("/workspaces/{workspace}/prompts?{}", page(list));
            let found: Page<Prompt> = client.get(&path).await?;
            if args.json { print::json(&found)? } else { prompts(&found) }
        }
        WsCommand::Cancel { workspace, prompt } => {
            let path = format!("/workspaces/{workspace}/prompts/{prompt}/cancel");
            let now: Prompt = client.post(&path, &serde_json::json!({})).await?;
            if args.json {
                print::json(&now)?;
            } else {
                println!("{} is {}", now.id, now.state.as_str());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(args: &Args, client: &Client, wanted: &WsCreateArgs) -> Result<(), CliError> {
    let vm = &wanted.vm;
    let environment: Option<Environment> = match &wanted.environment {
        Some(name) if wanted.setup.of_another_repository().is_some() => {
            Some(client.get(&format!("/environments/{name}")).await?)
        }
        _ => None,
    };
    let repository = environment.as_ref().and_then(|it| it.spec.setup.repository.as_ref());
    let setup = wanted
        .setup
        .setup(repository)
        .map_err(|problem| Fault::new(Code::InvalidRequest, problem))?;
    let request = CreateWorkspace {
        environment: wanted.environment.clone(),
        ai_assistant: wanted.assistant.clone(),
        template: vm.template.clone(),
        vcpus: vm.vcpus,
        memory_mib: vm.memory_mib,
        disk_mib: vm.disk_mib,
        balloon_mib: vm.tuning.balloon_mib,
        huge_pages: vm.tuning.huge_pages,
        limits: vm.tuning.limits.limits(),
        network: vm.network,
        transport: vm.transport,
        snapshots: vm.snapshots,
        placement: vm.placement.placement(),
        when_full: vm.placement.when_full(),
        secrets: wanted.secrets.uses(),
        idle_timeout_s: wanted.idle_timeout_s,
        idle_action: wanted.idle_action,
        setup,
        ..CreateWorkspace::named(wanted.name.clone())
    };
    let patience = vm.placement.patience();
    let made: Accepted<Workspace> = client.post_within(patience, "/workspaces", &request).await?;
    let Accepted { item: made, links } = made;
    if let Some(task) = links.get("task").filter(|_| wanted.wait) {
        let task = task.rsplit('/').next().unwrap_or_default();
        return prepare::follow(args, client, made.name.as_str(), task).await;
    }
    if args.json {
        return print::json(&made);
    }
    println!("{} {}", made.id, made.name);
    Ok(())
}

async fn prompt(args: &Args, client: &Client, wanted: &PromptArgs) -> Result<ExitCode, CliError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let request = CreatePrompt {
        timeout_ms: wanted.timeout.map(millis),
        secrets: wanted.secrets.uses(),
        schedule: wanted.schedule.schedule(),
        env: wanted.env.iter().cloned().collect(),
        working_directory: wanted.cwd.clone(),
        assistant: wanted.assistant.options(),
        new_session: wanted.new_session,
        ..CreatePrompt::of(wanted.prompt.clone())
    };
    let path = format!("/workspaces/{}/prompts", wanted.workspace);
    let made: Prompt = client.post(&path, &request).await?;
    if !wanted.detach {
        return follow(args, client, &wanted.workspace, made.id, wanted.raw).await;
    }
    if args.json {
        print::json(&made)?;
    } else {
        println!("{}", made.id);
    }
    Ok(ExitCode::SUCCESS)
}

/// Hibernates or wakes a workspace, and shows what it then is.
async fn rest(
    args: &Args,
    client: &Client,
    workspace: &str,
    verb: &str,
    doing: &str,
) -> Result<(), CliError> {
    let bars = Bars::new();
    bars.spin(doing);
    let path = format!("/workspaces/{workspace}/{verb}");
    let now = client.post_within(REST_DEADLINE, &path, &serde_json::json!({})).await;
    bars.clear();
    let now: Workspace = now?;
    if args.json {
        return print::json(&now);
    }
    println!("{} is {}", now.name, what_is_there(&now));
    Ok(())
}

/// What there is of a workspace besides its disk, for people.
fn what_is_there(workspace: &Workspace) -> String {
    match &workspace.lifecycle {
        Lifecycle::Active { vm_id } => format!("active ({vm_id})"),
        Lifecycle::Hibernated { hibernation } => {
            format!("hibernated ({:.1} MiB)", hibernation.bytes as f64 / 1_048_576.0)
        }
        Lifecycle::Stopped => "stopped".to_owned(),
    }
}

/// Shows what a prompt's assistant says and does as it comes, or its output as it is; ends as the prompt did.
async fn follow(
    args: &Args,
    client: &Client,
    workspace: &str,
    id: PromptId,
    raw: bool,
) -> Result<ExitCode, CliError> {
    let json = args.json;
    let mut told =
        if json || raw || !tells(client, workspace).await? { None } else { Some(Told::default()) };
    let mut terminal = Terminal::waiting("waiting for a VM");
    let path = format!("/workspaces/{workspace}/prompts/{id}/events");
    let followed = client
        .follow(&path, |event| {
            if json {
                return show_json(event);
            }
            let shown = told.as_mut().is_some_and(|told| told.show(&mut terminal, event));
            if !shown {
                show(&mut terminal, event);
            }
        })
        .await;
    if let Some(mut told) = told {
        told.finish(&mut terminal);
    }
    drop(terminal);
    match followed? {
        RunState::Completed { exit } => Ok(exit_code(exit.exit_code)),
        RunState::Failed { fault } | RunState::Interrupted { fault } => Err(fault.into()),
        other => {
            eprintln!("{id} was {}", other.as_str());
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Whether the output of a workspace's assistant is told as events.
async fn tells(client: &Client, workspace: &str) -> Result<bool, CliError> {
    let workspace: Workspace = client.get(&format!("/workspaces/{workspace}")).await?;
    let path = format!("/assistants/{}", workspace.ai_assistant);
    // One that the server has no definition of any more still has its logs.
    Ok(client.get::<Assistant>(&path).await.is_ok_and(|it| it.has_events))
}

/// Shows one entry of a run's log.
pub(crate) fn show(terminal: &mut impl Output, event: &OutputEvent) {
    match &event.body {
        EventBody::Status { stage, .. } if stage == "running" => terminal.started(),
        EventBody::Missing { bytes, .. } => {
            eprintln!("({bytes} bytes of output are missing here: the worker was away)");
        }
        EventBody::Truncated { kept_bytes } => {
            eprintln!("(the log keeps {kept_bytes} bytes; the rest of the output is not shown)");
        }
        body => match body.output() {
            Some((Stream::Stdout, bytes)) => terminal.stdout(&bytes),
            Some((Stream::Stderr, bytes)) => terminal.stderr(&bytes),
            None => {}
        },
    }
}

/// The same as a line of JSON.
pub(crate) fn show_json(event: &OutputEvent) {
    // Our own type always encodes.
    if let Ok(line) = serde_json::to_string(event) {
        println!("{line}");
    }
}

fn workspaces(found: &Page<Workspace>) {
    let rows: Vec<Vec<String>> = found
        .items
        .iter()
        .map(|it| {
            let name: &Name = &it.name;
            vec![
                it.id.to_string(),
                name.to_string(),
                it.state.as_str().to_owned(),
                it.ai_assistant.to_string(),
                what_is_there(it),
            ]
        })
        .collect();
    print::table(&["ID", "NAME", "STATE", "ASSISTANT", "LIFECYCLE"], &rows);
    more(found.next_cursor.as_ref());
}

fn prompts(found: &Page<Prompt>) {
    let rows: Vec<Vec<String>> = found
        .items
        .iter()
        .map(|it| {
            let first = it.prompt.lines().next().unwrap_or_default();
            let exit = match &it.state {
                RunState::Completed { exit } => exit.exit_code.to_string(),
                _ => String::new(),
            };
            let short: String = first.chars().take(50).collect();
            vec![
                it.id.to_string(),
                it.state.as_str().to_owned(),
                exit,
                it.created_at.to_string(),
                short,
            ]
        })
        .collect();
    print::table(&["ID", "STATE", "EXIT", "SUBMITTED", "PROMPT"], &rows);
    more(found.next_cursor.as_ref());
}
