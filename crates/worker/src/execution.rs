//! Commands that somebody waits for: run at once, without the queue, and recorded like queued ones.

use crate::{
    host::{self, Host},
    prompt,
    run::{self, PIECES, Piece},
    secrets,
    vm::{Hold, VmHandle},
    workspace,
};
use aetherium_agent_client::{Process, Signaller, Stdin};
use aetherium_model::{
    Code, ExecutionId, Fault, VmId, WorkspaceId,
    interactive::{
        CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, Captured, ClientFrame, Open, ServerFrame,
    },
    limits::MAX_OUTPUT_BYTES,
    output::Stream,
    run::{Command, Execution, RunState},
};
use aetherium_secrets::Masks;
use aetherium_store::RunRef;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long a client may take to say what it wants once it has connected.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Runs a command and collects its output.
pub(crate) async fn captured(
    host: &Arc<Host>,
    place: Place,
    command: Command,
) -> Result<Captured, Fault> {
    let (vm, _hold, command) = Box::pin(place.take(host, &command)).await?;
    let (id, process, masks) = begin(host, &vm, &command, false).await?;
    let cancelled = CancellationToken::new();
    let (pieces, incoming) = mpsc::channel(PIECES);
    let (state, output) = tokio::join!(
        run::follow(process.into(), &masks, pieces, &cancelled, host.settings.cancel_grace),
        collect(incoming),
    );
    secrets::forget(&vm, RunRef::Execution(id), &command.secrets).await;
    let RunState::Completed { exit } = state else {
        return Err(finished(host, id, state).await);
    };
    settle(host, id, RunState::Completed { exit: exit.clone() }).await;
    Ok(Captured {
        execution_id: id,
        result: exit,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        truncated: output.truncated,
    })
}

/// Checks the command, waits for the VM, and starts it, while its record is being written: nobody
/// ever repeats these commands, so the record need not be there before. Both are, when this returns.
async fn begin(
    host: &Arc<Host>,
    vm: &VmHandle,
    command: &Command,
    stdin: bool,
) -> Result<(ExecutionId, Process, Masks), Fault> {
    if host.draining.is_cancelled() {
        return Err(host::stopping());
    }
    host.tenure.check()?;
    command.validate().map_err(|error| Fault::new(Code::InvalidRequest, error.to_string()))?;
    let agent = vm.agent().await?;
    let (id, now) = (ExecutionId::new(), host.now());
    let complete = run::traced(vm.complete(command));
    let run = RunRef::Execution(id);
    let delivered = secrets::deliver(host, vm.id(), &agent, run, &complete).await?;
    let execution = Execution {
        id,
        vm_id: vm.id(),
        command: command.clone(),
        state: RunState::Running,
        created_at: now,
        started_at: Some(now),
        finished_at: None,
    };
    let (recorded, started) = tokio::join!(
        host.queue.create_execution(&execution, None, None),
        agent.exec(delivered.spec(&complete, stdin)),
    );
    recorded?;
    match started {
        Ok(process) => Ok((id, process, delivered.masks)),
        Err(error) => {
            secrets::forget(vm, run, &command.secrets).await;
            Err(finished(host, id, run::not_run(&error)).await)
        }
    }
}

/// Writes a run's end.
async fn settle(host: &Arc<Host>, id: ExecutionId, state: RunState) {
    let run = RunRef::Execution(id);
    host.metrics.run_ended(run, &state);
    if let Err(error) = host.queue.finish_run(run, state, host.now()).await {
        tracing::error!(execution = %id, %error, "the end of an execution could not be recorded");
    }
}

/// Writes the end of a run that has no result, and returns why.
async fn finished(host: &Arc<Host>, id: ExecutionId, state: RunState) -> Fault {
    let fault = match &state {
        RunState::Failed { fault } | RunState::Interrupted { fault } => fault.clone(),
        _ => Fault::new(Code::Cancelled, format!("{id} was cancelled")),
    };
    settle(host, id, state).await;
    fault
}

#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

async fn collect(mut incoming: mpsc::Receiver<Piece>) -> Output {
    let most = usize::try_from(MAX_OUTPUT_BYTES).unwrap_or(usize::MAX);
    let mut output = Output::default();
    while let Some(piece) = incoming.recv().await {
        let Piece::Output(stream, bytes, _) = piece else {
            output.truncated = true;
            continue;
        };
        let kept = match stream {
            Stream::Stdout => &mut output.stdout,
            Stream::Stderr => &mut output.stderr,
        };
        let room = most - kept.len();
        output.truncated |= bytes.len() > room;
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    output
}

/// Where a command runs that somebody is attached to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// In a VM.
    Vm(VmId),
    /// In a workspace, which is woken for it, as its prompts do.
    Workspace(WorkspaceId),
}

impl Place {
    /// Its VM, held, and the command as it is run there.
    async fn take(
        self,
        host: &Arc<Host>,
        command: &Command,
    ) -> Result<(VmHandle, Hold, Command), Fault> {
        match self {
            Self::Vm(vm) => {
                let vm = host.vm_to_come(vm).await?;
                let hold = vm.hold()?;
                Ok((vm, hold, command.clone()))
            }
            Self::Workspace(id) => {
                let workspace = workspace::ready(host, id).await?;
                let (vm, hold) = workspace::ensure_vm(host, id, None).await?;
                let command = prompt::in_workspace(host, &vm, &workspace, command.clone()).await?;
                Ok((vm, hold, command))
            }
        }
    }
}

/// Serves one interactive command over a WebSocket. A client that goes away ends the command.
pub(crate) async fn interactive(host: Arc<Host>, place: Place, socket: WebSocket) {
    let (mut to_client, mut from_client) = socket.split();
    let last = match Box::pin(converse(&host, place, &mut to_client, &mut from_client)).await {
        Ok(Some(frame)) => frame,
        Ok(None) => return,
        Err(fault) => ServerFrame::Fault { fault },
    };
    // A client that is gone already needs no goodbye.
    let _ = send(&mut to_client, &last).await;
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = to_client.send(Message::Close(Some(close))).await;
}

type ToClient = SplitSink<WebSocket, Message>;
type FromClient = SplitStream<WebSocket>;

/// The whole conversation; returns the last frame, or none if the client has gone.
async fn converse(
    host: &Arc<Host>,
    place: Place,
    to_client: &mut ToClient,
    from_client: &mut FromClient,
) -> Result<Option<ServerFrame>, Fault> {
    let Some(open) = opening(from_client).await? else { return Ok(None) };
    let (vm, _hold, command) = Box::pin(place.take(host, &open.command)).await?;
    let (id, mut process, masks) = begin(host, &vm, &command, open.stdin).await?;
    let started = ServerFrame::Started { execution_id: id, pid: process.pid() };
    let stdin = process.stdin();
    let signaller = process.signaller();
    let state = if send(to_client, &started).await.is_ok() {
        Box::pin(exchange(host, process, &masks, stdin, signaller, to_client, from_client)).await
    } else {
        RunState::Cancelled
    };
    secrets::forget(&vm, RunRef::Execution(id), &command.secrets).await;
    settle(host, id, state.clone()).await;
    Ok(match state {
        RunState::Completed { exit } => Some(ServerFrame::Exit { result: exit }),
        RunState::Failed { fault } | RunState::Interrupted { fault } => {
            Some(ServerFrame::Fault { fault })
        }
        _ => None,
    })
}

/// Carries output to the client and input to the process until either ends.
async fn exchange(
    host: &Arc<Host>,
    process: Process,
    masks: &Masks,
    stdin: Option<Stdin>,
    signaller: Signaller,
    to_client: &mut ToClient,
    from_client: &mut FromClient,
) -> RunState {
    let cancelled = CancellationToken::new();
    let (pieces, incoming) = mpsc::channel(PIECES);
    let following =
        run::follow(process.into(), masks, pieces, &cancelled, host.settings.cancel_grace);
    let output = async {
        if deliver(incoming, to_client).await.is_err() {
            cancelled.cancel();
        }
    };
    let input = async {
        // Ends only when the client has gone; the command's end drops it.
        feed(from_client, stdin, &signaller).await;
        cancelled.cancel();
        std::future::pending::<()>().await;
    };
    let run = async { tokio::join!(following, output).0 };
    tokio::select! {
        state = run => state,
        () = input => RunState::Cancelled,
    }
}

async fn deliver(
    mut incoming: mpsc::Receiver<Piece>,
    to_client: &mut ToClient,
) -> Result<(), axum::Error> {
    while let Some(piece) = incoming.recv().await {
        // Never for a process that ends with its connection.
        let Piece::Output(stream, bytes, _) = piece else { continue };
        let channel = match stream {
            Stream::Stdout => CHANNEL_STDOUT,
            Stream::Stderr => CHANNEL_STDERR,
        };
        let mut frame = Vec::with_capacity(bytes.len() + 1);
        frame.push(channel);
        frame.extend_from_slice(&bytes);
        to_client.send(Message::Binary(frame.into())).await?;
    }
    Ok(())
}

/// Takes the client's frames until it goes away. What it sends after the process has closed its
/// input is dropped, as by a pipe that nobody reads.
async fn feed(from_client: &mut FromClient, mut stdin: Option<Stdin>, signaller: &Signaller) {
    while let Some(Ok(message)) = from_client.next().await {
        match message {
            Message::Binary(frame) if frame.first() == Some(&CHANNEL_STDIN) => {
                if let Some(input) = &mut stdin
                    && input.write(frame.slice(1..)).await.is_err()
                {
                    stdin = None;
                }
            }
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ClientFrame::CloseStdin) => {
                    if let Some(input) = stdin.take() {
                        let _ = input.close().await;
                    }
                }
                Ok(ClientFrame::Signal { signal }) => {
                    if let Err(error) = signaller.signal(signal).await {
                        tracing::debug!(%error, signal, "a client's signal was not delivered");
                    }
                }
                Err(error) => tracing::debug!(%error, "a client sent a frame that is not known"),
            },
            Message::Close(_) => return,
            _ => {}
        }
    }
}

/// The client's first frame; `None` if it left without one.
async fn opening(from_client: &mut FromClient) -> Result<Option<Open>, Fault> {
    let first = timeout(OPEN_DEADLINE, from_client.next()).await.map_err(|_| {
        Fault::new(
            Code::DeadlineExceeded,
            format!("no opening frame came within {} s", OPEN_DEADLINE.as_secs()),
        )
        .remedy("send {\"command\":{\"argv\":[…]}} as the first text frame")
    })?;
    match first {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).map(Some).map_err(|error| {
            Fault::new(Code::InvalidRequest, format!("the opening frame: {error}"))
                .remedy("send {\"command\":{\"argv\":[…]},\"stdin\":false}")
        }),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Ok(None),
        Some(Ok(_)) => Err(Fault::new(Code::InvalidRequest, "the opening frame must be text")),
    }
}

async fn send(to_client: &mut ToClient, frame: &ServerFrame) -> Result<(), axum::Error> {
    let text = serde_json::to_string(frame).map_err(axum::Error::new)?;
    to_client.send(Message::Text(text.into())).await
}
