//! `aetherium template build -f … --remote`: the recipe goes to the server, one of its workers builds
//! the template, and what it tells is followed here as if it were built here.

use super::build::{BuildReport, EXIT_INTERRUPTED, plan, story};
use crate::{
    args::{Args, BuildArgs},
    client::Client,
    error::{CliError, local},
};
use aetherium_gateway::api::BuildTemplate;
use aetherium_image::{
    ImageError,
    recipe::{parse, with_contents},
};
use aetherium_model::{
    Code, Fault, TaskId,
    build::BuildEvent,
    finding::Finding,
    output::{EventBody, OutputEvent},
    recipe::{Recipe, Sizes},
    run::RunState,
    task::Task,
    template::Template,
};
use aetherium_worker::BuildLog;
use std::path::Path;

pub(crate) async fn build(args: &Args, build: &BuildArgs, file: &Path) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    let report = BuildReport::begin(args);
    let text = std::fs::read_to_string(file).map_err(|error| local(file.display(), error))?;
    let recipe = parse(file, &text).map_err(ImageError::from).map_err(Fault::from)?;
    let steps = plan(&recipe, file)?.steps();
    let dir = file.parent().unwrap_or_else(|| Path::new(""));
    let recipe = sized(with_contents(&recipe, dir).map_err(Fault::from)?, build);
    let request = BuildTemplate { name: build.name.clone(), recipe, replace: build.replace };
    let task: Task = client.post("/templates", &request).await?;
    let log = story(args, steps);
    let ended = follow(&client, task.id, log.as_ref()).await;
    log.done();
    match ended? {
        RunState::Completed { .. } => {}
        RunState::Failed { fault } | RunState::Interrupted { fault } => return Err(fault.into()),
        _ => {
            let fault = Fault::new(Code::Cancelled, "the build was cancelled");
            return Err(CliError::new(fault).exiting_with(EXIT_INTERRUPTED));
        }
    }
    let built: Template = client.get(&format!("/templates/{}", build.name)).await?;
    report.end(&built);
    Ok(())
}

/// The recipe with the sizes that the arguments give.
fn sized(recipe: Recipe, args: &BuildArgs) -> Recipe {
    let Sizes { vcpus, memory_mib, disk_mib } = recipe.resources;
    let resources = Sizes {
        vcpus: args.vcpus.or(vcpus),
        memory_mib: args.memory_mib.or(memory_mib),
        disk_mib: args.disk_mib.or(disk_mib),
    };
    Recipe { resources, ..recipe }
}

/// Follows the task to its end. The first Ctrl-C cancels it, and its end is waited for.
async fn follow(client: &Client, task: TaskId, log: &dyn BuildLog) -> Result<RunState, CliError> {
    let (events, cancel) = (format!("/tasks/{task}/events"), format!("/tasks/{task}/cancel"));
    let mut retelling = Retelling { log, step: 0 };
    let mut following = Box::pin(client.follow(&events, |event| retelling.tell(event)));
    let mut cancelled = false;
    loop {
        tokio::select! {
            ended = &mut following => return ended,
            Ok(()) = tokio::signal::ctrl_c(), if !cancelled => {
                cancelled = true;
                client.post::<Task>(&cancel, &serde_json::json!({})).await?;
            }
        }
    }
}

/// Tells a log what a task's events say.
struct Retelling<'a> {
    log: &'a dyn BuildLog,
    /// The step that what is printed comes from.
    step: usize,
}

impl Retelling<'_> {
    fn tell(&mut self, event: &OutputEvent) {
        match &event.body {
            EventBody::Build { event } => {
                if let BuildEvent::StepStarted { step, .. } = event {
                    self.step = *step;
                }
                self.log.event(event.clone());
            }
            EventBody::Status { stage, message } if stage == "warning" => {
                self.log.warn(&Finding::warn(
                    "template.build",
                    message,
                    "the server's worker says so",
                    "",
                ));
            }
            EventBody::Status { message, .. } => self.log.step(message),
            EventBody::Missing { .. } | EventBody::Truncated { .. } => {
                self.log.step("some of what the step prints is not in the log");
            }
            body => {
                if let Some((stream, bytes)) = body.output() {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    self.log.event(BuildEvent::Output { step: self.step, stream, text });
                }
            }
        }
    }
}
