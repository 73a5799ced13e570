//! From accepted to begun: prompts at a steady rate, and the moment at which each one's handler starts.

use super::{Ground, now};
use crate::{
    args::ApiBenchArgs,
    client::Client,
    commands::bench::{Figure, ms, percentile},
    error::CliError,
    progress::Bars,
};
use aetherium_gateway::api::CreatePrompt;
use aetherium_model::{
    Code, Fault, PromptId, WorkerId,
    run::{Exit, ExitReport, RunState},
    task::{Task, TaskKind},
    workspace::{Prompt, WorkspaceState},
};
use aetherium_queue::{Consumer, Handler, Outcome, Queue, TaskContext};
use aetherium_store::RunRef;
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

/// Prompts that come first and are not counted: connections and caches are made with them.
const WARM_UP: u32 = 50;
/// How long the last prompts may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends prompts at the rate and says how long after its acceptance each began.
pub(super) async fn dispatch(
    ground: &Ground,
    wanted: &ApiBenchArgs,
    on_postgres: bool,
) -> Result<Vec<Figure>, CliError> {
    let worker_id = WorkerId::new();
    let begun = Arc::new(Begun::default());
    let handler = Ender { queue: ground.queue.clone(), begun: Arc::clone(&begun) };
    let consumer = Consumer {
        store: ground.queue.store().clone(),
        bus: ground.queue.bus().clone(),
        worker_id,
        handler: Arc::new(handler),
        max_in_flight: 64,
        grace: Duration::ZERO,
    };
    let stop = CancellationToken::new();
    let consuming = tokio::spawn(consumer.run(stop.clone()));
    let paths = ground.workspaces(worker_id).await?;
    let bars = Bars::new();
    bars.spin(&format!("{} prompts a second for {:?}", wanted.rate, wanted.seconds));
    let sent = send(&ground.front.client()?, &paths, wanted).await?;
    let waits = begun.waits(sent).await;
    bars.clear();
    stop.cancel();
    consuming.await.map_err(Fault::internal)?.map_err(Fault::from)?;
    let Waits { mut from_answer, mut from_request } = waits?;
    let (median, slowest) = if on_postgres { (5.0, 25.0) } else { (2.0, 10.0) };
    let figure = |name: &str, percent: f64, samples: &mut Vec<f64>| {
        Figure::new(name, percentile(samples, percent), "ms")
    };
    Ok(vec![
        figure("api.dispatch.p50", 50.0, &mut from_answer).value_at_most(median),
        figure("api.dispatch.p99", 99.0, &mut from_answer).value_at_most(slowest),
        figure("api.request_to_begun.p50", 50.0, &mut from_request),
        figure("api.request_to_begun.p99", 99.0, &mut from_request),
    ])
}

/// A prompt as its sender saw it.
struct Sent {
    id: PromptId,
    requested: Instant,
    answered: Instant,
}

/// How long prompts waited until their handlers began, in milliseconds.
struct Waits {
    /// Since the caller had the answer; 0 where the handler was sooner.
    from_answer: Vec<f64>,
    /// Since the caller asked.
    from_request: Vec<f64>,
}

async fn send(
    client: &Client,
    paths: &[String],
    wanted: &ApiBenchArgs,
) -> Result<Vec<Sent>, CliError> {
    let total = WARM_UP + (wanted.seconds.as_secs_f64() * f64::from(wanted.rate)) as u32;
    let mut ticks = interval(Duration::from_secs(1) / wanted.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = JoinSet::new();
    for path in paths.iter().cycle().take(total as usize) {
        ticks.tick().await;
        requests.spawn(one(client.clone(), path.clone()));
    }
    let sent: Result<Vec<Sent>, CliError> = requests.join_all().await.into_iter().collect();
    let mut sent = sent?;
    sent.sort_by_key(|prompt| prompt.requested);
    Ok(sent.split_off(WARM_UP as usize))
}

async fn one(client: Client, path: String) -> Result<Sent, CliError> {
    let request = CreatePrompt::of("true");
    let requested = Instant::now();
    let prompt: Prompt = client.post(&path, &request).await?;
    Ok(Sent { id: prompt.id, requested, answered: Instant::now() })
}

/// When handlers began.
#[derive(Default)]
struct Begun(Mutex<HashMap<PromptId, Instant>>);

impl Begun {
    fn note(&self, id: PromptId) {
        let began = Instant::now();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, began);
    }

    fn when(&self, id: PromptId) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    /// Waits until all have begun, and says how long each waited.
    async fn waits(&self, sent: Vec<Sent>) -> Result<Waits, CliError> {
        let deadline = Instant::now() + PATIENCE;
        while sent.iter().any(|prompt| self.when(prompt.id).is_none()) {
            if Instant::now() >= deadline {
                let detail = format!("an accepted prompt has not begun within {PATIENCE:?}");
                return Err(Fault::new(Code::DeadlineExceeded, detail).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let since = |moment: fn(&Sent) -> Instant| {
            let wait = |prompt: &Sent| Some(self.when(prompt.id)? - moment(prompt));
            sent.iter().filter_map(wait).map(ms).collect()
        };
        Ok(Waits {
            from_answer: since(|prompt| prompt.answered),
            from_request: since(|prompt| prompt.requested),
        })
    }
}

/// Ends every prompt at once.
struct Ender {
    queue: Queue,
    begun: Arc<Begun>,
}

#[async_trait]
impl Handler for Ender {
    async fn handle(&self, task: Task, _context: TaskContext) -> Outcome {
        let done = match task.kind {
            TaskKind::PromptExecute { prompt_id, .. } => {
                self.begun.note(prompt_id);
                let end = RunState::Completed { exit: nothing_ran() };
                self.queue.finish_run(RunRef::Prompt(prompt_id), end, now()).await.map(drop)
            }
            TaskKind::WorkspaceCreate { workspace_id } => {
                self.queue.set_workspace_state(workspace_id, &WorkspaceState::Ready, now()).await
            }
            _ => Ok(()),
        };
        done.map_or_else(|error| Outcome::Failed(error.into()), |()| Outcome::Done)
    }
}

fn nothing_ran() -> ExitReport {
    let exit = Exit::Exited { code: 0 };
    ExitReport { exit, exit_code: 0, wall_ms: 0, user_ms: 0, system_ms: 0, max_rss_kib: 0 }
}
