//! Logins: an assistant that its user logs in to by a browser, from a workspace's VM.
//!
//! ```text
//!   internal API ──start──► task of the login ──► VM, held ──► the program on a terminal
//!        │                    │  ▲                                 │ screen: address, code
//!        └──code, callback────┼──┘ ◄───────────────────────────────┘
//!                             └──► row (each state), credentials (once, encrypted)
//! ```
//! - One task does a login from its start to its end ([`attempt`]); `Logins` owns it and joins it. It ends with its
//!   deadline, its VM, a cancellation, or the worker. What a worker that was killed had under way ends as
//!   interrupted when its next process begins; the program ends in the guest with the connection.
//! - [`screen`] makes lines of what the program shows, [`home`] reads and writes the files of a login in the
//!   guest, [`bundle`] decides which of two is the newer, [`keep`] brings VMs and the store in line, and
//!   [`given`] remembers what must not be shown.
//! - What users paste is here on its way to the guest, and is never written or logged.

mod attempt;
mod bundle;
mod given;
mod home;
mod keep;
mod screen;
mod talk;

pub(crate) use given::Given;
pub(crate) use keep::{refresh, restore, tokens_again};

use crate::{
    host::{self, Host},
    workspace,
};
use aetherium_catalog::AssistantDefinition;
use aetherium_model::{
    Code, Fault, LoginId, Timestamp, WorkspaceId,
    login::{CallbackUrl, DEFAULT_TIMEOUT_S, Login, LoginState, Pasted, StartLogin},
};
use attempt::Attempt;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Logins under way on one worker at once.
const MAX_UNDER_WAY: usize = 64;
/// What users brought back that may wait for one login.
const SUBMISSIONS: usize = 4;
/// How long a login may take to take something, or to end.
const ANSWER: Duration = Duration::from_secs(30);

/// What a user brought back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A code, to be typed.
    Code(Pasted),
    /// Where the browser was sent.
    Callback(CallbackUrl),
}

/// What a user brought back, and who waits to hear how it was taken.
struct Submission {
    answer: Answer,
    taken: oneshot::Sender<Result<Login, Fault>>,
}

/// The logins under way on a worker, and their tasks.
#[derive(Default)]
pub(crate) struct Logins {
    under_way: Mutex<HashMap<LoginId, Control>>,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Control {
    submissions: mpsc::Sender<Submission>,
    cancel: CancellationToken,
    over: CancellationToken,
}

impl Logins {
    /// Waits until none is left, once the worker is stopping and begins no more.
    pub(crate) async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn find(&self, id: LoginId) -> Option<Control> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LoginId, Control>> {
        // A panic elsewhere cannot leave the map half changed: each use is one operation.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins a login in a workspace's VM, and returns it as it begins.
///
/// # Errors
/// [`Code::InvalidRequest`]: the assistant has no login; [`Code::Conflict`]: the workspace is not ready, or
/// the assistant is being logged in there; [`Code::Busy`]; [`Code::Unavailable`]: the worker stops.
pub(crate) async fn start(
    host: &Arc<Host>,
    id: WorkspaceId,
    asked: StartLogin,
) -> Result<Login, Fault> {
    if host.draining.is_cancelled() {
        return Err(host::stopping());
    }
    host.tenure.check()?;
    let workspace = workspace::ready(host, id).await?;
    let name = asked.assistant.unwrap_or_else(|| workspace.ai_assistant.clone());
    let definition = host.settings.catalog.assistant(&name)?;
    let how = login_of(host, definition)?;
    if host.logins.lock().len() >= MAX_UNDER_WAY {
        let detail = format!("{MAX_UNDER_WAY} logins are under way on this worker");
        return Err(Fault::new(Code::Busy, detail).remedy("cancel one, or try again later"));
    }
    let (now, timeout_s) = (host.now(), asked.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S));
    let login = Login {
        id: LoginId::new(),
        workspace_id: id,
        assistant: name,
        accepts: how.accepts,
        state: LoginState::Starting,
        revision: 1,
        created_at: now,
        updated_at: now,
        expires_at: Timestamp::from_millis(now.as_millis() + i64::from(timeout_s) * 1000),
    };
    host.queue.create_login(&login, host.id).await?;
    let (submissions, incoming) = mpsc::channel(SUBMISSIONS);
    let (cancel, over) = (CancellationToken::new(), CancellationToken::new());
    let control = Control { submissions, cancel: cancel.clone(), over: over.clone() };
    host.logins.lock().insert(login.id, control);
    let attempt = Attempt {
        host: Arc::clone(host),
        how: how.clone(),
        workspace,
        login: login.clone(),
        submissions: incoming,
    };
    let (tasks, own) = (host.logins.tasks.clone(), Arc::clone(host));
    let (id, within) = (login.id, Duration::from_secs(timeout_s.into()));
    tasks.spawn(async move {
        Box::pin(attempt.run(within, &cancel)).await;
        own.logins.lock().remove(&id);
        over.cancel();
    });
    Ok(login)
}

/// How an assistant is logged in to.
fn login_of<'a>(
    host: &Host,
    definition: &'a AssistantDefinition,
) -> Result<&'a aetherium_catalog::Login, Fault> {
    let name = &definition.name;
    let files = |how: &&aetherium_catalog::Login| !how.credential_files.is_empty();
    definition.login.as_ref().filter(files).ok_or_else(|| {
        let known: Vec<_> = host
            .settings
            .catalog
            .assistants()
            .filter(|it| it.login.as_ref().is_some_and(|how| files(&how)))
            .map(|it| it.name.as_str())
            .collect();
        let remedy = match known.as_slice() {
            [] => "give it its key as a secret".to_owned(),
            known => format!("give it its key as a secret, or name one of {}", known.join(", ")),
        };
        let detail = format!("assistant: {name} is not logged in to by a browser");
        Fault::new(Code::InvalidRequest, detail).remedy(remedy)
    })
}

/// Gives a login what its user brought back, and returns it as it then is.
///
/// # Errors
/// [`Code::NotFound`]; [`Code::Conflict`]: it waits for nothing, or for something else; or why its
/// program did not take it.
pub(crate) async fn submit(
    host: &Arc<Host>,
    workspace: WorkspaceId,
    id: LoginId,
    answer: Answer,
) -> Result<Login, Fault> {
    let login = host.queue.store().login(workspace, id).await?;
    let over = || {
        let detail = format!("{id} is {} and takes nothing", login.state.as_str());
        Fault::new(Code::Conflict, detail).remedy("begin another login")
    };
    let control = host.logins.find(id).ok_or_else(over)?;
    let (taken, answered) = oneshot::channel();
    let submission = Submission { answer, taken };
    control.submissions.try_send(submission).map_err(|_| over())?;
    match tokio::time::timeout(ANSWER, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(over()),
        Err(_) => {
            let detail = format!("{id} did not take it within {} s", ANSWER.as_secs());
            Err(Fault::new(Code::DeadlineExceeded, detail).remedy("look at where it stands"))
        }
    }
}

/// Cancels a login, and returns it as it then is. One that is over stays as it is.
///
/// # Errors
/// [`Code::NotFound`], or the store's.
pub(crate) async fn cancel(
    host: &Arc<Host>,
    workspace: WorkspaceId,
    id: LoginId,
) -> Result<Login, Fault> {
    let login = host.queue.store().login(workspace, id).await?;
    let Some(control) = host.logins.find(id) else { return Ok(login) };
    control.cancel.cancel();
    if tokio::time::timeout(ANSWER, control.over.cancelled()).await.is_err() {
        tracing::warn!(login = %id, "a cancelled login does not end");
    }
    Ok(host.queue.store().login(workspace, id).await?)
}
