//! `aetherium quickstart`: the main job from nothing, as a caller of the HTTP API would do it.

use super::{template, ws};
use crate::{
    args::{Args, QuickstartArgs},
    attach::Terminal,
    client::Client,
    datadir::DataDir,
    error::CliError,
    print,
    progress::Bars,
    server::{Server, ServerConfig},
    stdio::{self, EXIT_NO_READER},
};
use aetherium_gateway::api::{CreatePrompt, CreateWorkspace};
use aetherium_model::{
    Code, Fault, Name,
    run::{ExitReport, RunState},
    task::Task,
    vm::Vm,
    workspace::{Prompt, Workspace},
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// How long the workspace may take to be gone.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(60);

/// One line of the table of timings.
struct Stage {
    name: &'static str,
    ms: u64,
    note: String,
}

pub(crate) async fn quickstart(args: &Args, wanted: &QuickstartArgs) -> Result<ExitCode, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let mut stages = Vec::new();
    if let Some(seconds) = wanted.build_seconds {
        stages.push(Stage {
            name: "build",
            ms: seconds * 1000,
            note: "programs and guest agent".to_owned(),
        });
    }
    stages.push(ensure_template(&data, wanted).await?);

    let began = Instant::now();
    let config = ServerConfig::private(data, wanted.driver.clone());
    let server = Server::start(config).await?;
    stages.push(Stage {
        name: "server",
        ms: template::elapsed_ms(began),
        note: server.url().to_owned(),
    });

    let client = server.client()?;
    let told = tokio::select! {
        told = story(&client, wanted) => Some(told),
        _ = tokio::signal::ctrl_c() => {
            let fault = Fault::new(Code::Cancelled, "interrupted");
            Some(Err(CliError::new(fault).exiting_with(130)))
        }
        () = stdio::reader_gone() => None,
    };
    let began = Instant::now();
    server.stop().await;
    let Some(told) = told else { return Ok(EXIT_NO_READER.into()) };
    let (vm, exit, total_ms) = told?;
    stages.extend(vm_stages(&vm, &exit));
    stages.push(Stage {
        name: "stop",
        ms: template::elapsed_ms(began),
        note: "nothing is left running".to_owned(),
    });
    show(&stages, total_ms);
    Ok(super::exit_code(exit.exit_code))
}

async fn ensure_template(data: &DataDir, wanted: &QuickstartArgs) -> Result<Stage, CliError> {
    let name: Name = aetherium_gateway::api::DEFAULT_TEMPLATE.parse().map_err(Fault::internal)?;
    let began = Instant::now();
    let store = template::open(data)?;
    let note = if let Ok(found) = store.get(&name) {
        format!("kept: {}, kernel {}", found.manifest.rootfs.origin, found.manifest.kernel.release)
    } else {
        let bars = Bars::new();
        let made =
            template::make(data, &template::defaults(name, wanted.driver.agent.clone()), &bars)
                .await;
        bars.clear();
        let manifest = made?.manifest;
        format!("made: {}, kernel {}", manifest.rootfs.origin, manifest.kernel.release)
    };
    Ok(Stage { name: "template", ms: template::elapsed_ms(began), note })
}

/// Workspace, prompt, output, result, clean-up: what anybody would do with curl.
async fn story(
    client: &Client,
    wanted: &QuickstartArgs,
) -> Result<(Vm, ExitReport, u64), CliError> {
    let name = format!("quickstart-{}", std::process::id()).parse().map_err(Fault::internal)?;
    let workspace: Workspace = client.post("/workspaces", &CreateWorkspace::named(name)).await?;
    let path = format!("/workspaces/{}", workspace.id);
    let told = tell(client, &path, wanted).await;
    let removal: Task = client.delete(&path).await?;
    let deadline = Instant::now() + REMOVAL_DEADLINE;
    while !client.get::<Task>(&format!("/tasks/{}", removal.id)).await?.state.is_terminal() {
        if Instant::now() > deadline {
            return Err(Fault::new(
                Code::DeadlineExceeded,
                format!("{} was not removed in time", workspace.id),
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    told
}

async fn tell(
    client: &Client,
    path: &str,
    wanted: &QuickstartArgs,
) -> Result<(Vm, ExitReport, u64), CliError> {
    eprintln!("prompt: {}", wanted.prompt);
    let began = Instant::now();
    let request = CreatePrompt::of(wanted.prompt.clone());
    let prompt: Prompt = client.post(&format!("{path}/prompts"), &request).await?;
    let path = format!("{path}/prompts/{}", prompt.id);
    let mut terminal = Terminal::waiting("booting a VM");
    let state =
        client.follow(&format!("{path}/events"), |event| ws::show(&mut terminal, event)).await?;
    drop(terminal);
    let total_ms = template::elapsed_ms(began);
    let exit = match state {
        RunState::Completed { exit } => exit,
        RunState::Failed { fault } | RunState::Interrupted { fault } => return Err(fault.into()),
        _ => return Err(Fault::new(Code::Cancelled, format!("{} was cancelled", prompt.id)).into()),
    };
    let done: Prompt = client.get(&path).await?;
    let vm = done.vm_id.ok_or_else(|| Fault::internal("a prompt that ran names no VM"))?;
    Ok((client.get(&format!("/vms/{vm}")).await?, exit, total_ms))
}

fn vm_stages(vm: &Vm, exit: &ExitReport) -> Vec<Stage> {
    let timings = vm.timings.unwrap_or_default();
    let machine = match (vm.driver, &vm.accelerator) {
        (Some(driver), Some(accelerator)) => format!("{driver}, {accelerator}"),
        _ => String::new(),
    };
    let transport =
        vm.agent_transport.map_or_else(String::new, |it| format!("over {}", it.as_str()));
    vec![
        Stage {
            name: "prepare",
            ms: timings.prepare_ms,
            note: "disk and initramfs of this VM".to_owned(),
        },
        Stage { name: "boot", ms: timings.boot_ms, note: machine },
        Stage { name: "agent ready", ms: timings.agent_ms, note: transport },
        Stage { name: "exec", ms: exit.wall_ms, note: format!("exit code {}", exit.exit_code) },
    ]
}

fn show(stages: &[Stage], total_ms: u64) {
    eprintln!();
    for stage in stages {
        eprintln!("  {:<12} {:>12}   {}", stage.name, print::millis(stage.ms), stage.note);
    }
    eprintln!(
        "  {:<12} {:>12}   from the prompt to its last output",
        "prompt",
        print::millis(total_ms)
    );
}
