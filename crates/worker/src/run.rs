//! Running a command in a VM: the start mark before, the output during, the result after.
//!
//! Three ways in, one way through. A prompt or queued execution writes its output to the log, a
//! captured one collects it, an interactive one sends it on; each is a consumer of the same bounded
//! channel, so that whoever is slow slows the command and nothing else.

use crate::host::Host;
use aetherium_agent_client::{AgentClient, AgentError, Process, ProcessEvent};
use aetherium_agent_proto::{ExecSpec, ExitStatus, Program, SpawnErrorKind, Stdio};
use aetherium_model::{
    Code, Fault, limits,
    output::{EventBody, Stream, Utf8Chunker},
    run::{Command, Exit, ExitReport, RunState},
};
use aetherium_store::RunRef;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Pieces of output that may wait for their consumer; the agent's are at most 64 KiB each.
pub(crate) const PIECES: usize = 16;
/// Pieces written to the log in one transaction.
const BATCH: usize = 64;
/// TERM, see signal(7).
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// A piece of output on its way.
pub(crate) type Piece = (Stream, Bytes);

/// The command as the agent takes it.
pub(crate) fn exec_spec(command: &Command, stdin: bool) -> ExecSpec {
    let default = u64::try_from(limits::DEFAULT_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    ExecSpec {
        program: Program::Argv(command.argv.clone()),
        env: command.env.clone(),
        cwd: command.cwd.clone(),
        user: command.user.clone(),
        timeout_ms: Some(command.timeout_ms.unwrap_or(default)),
        stdio: if stdin { Stdio::InputAndOutput } else { Stdio::Output },
        ..ExecSpec::default()
    }
}

/// Runs a command whose start mark is written, with its output going to its log, and returns how it
/// ended.
pub(crate) async fn run_logged(
    host: &Arc<Host>,
    run: RunRef,
    agent: &AgentClient,
    command: &Command,
    cancelled: &CancellationToken,
) -> RunState {
    let process = match agent.exec(exec_spec(command, false)).await {
        Ok(process) => process,
        Err(error) => return not_run(&error),
    };
    let (pieces, incoming) = mpsc::channel(PIECES);
    let (end, ()) = tokio::join!(
        follow(process, pieces, cancelled, host.settings.cancel_grace),
        write_log(host, run, incoming),
    );
    end
}

/// Passes a process's output on until it ends, and sees to it that it does when `cancelled`.
///
/// Takes the sender by value: the consumer learns from its end that nothing follows.
pub(crate) async fn follow(
    mut process: Process,
    pieces: mpsc::Sender<Piece>,
    cancelled: &CancellationToken,
    grace: Duration,
) -> RunState {
    let mut kill_at: Option<Instant> = None;
    loop {
        tokio::select! {
            event = process.next() => {
                let piece = match event {
                    Ok(Some(ProcessEvent::Stdout(bytes))) => (Stream::Stdout, bytes),
                    Ok(Some(ProcessEvent::Stderr(bytes))) => (Stream::Stderr, bytes),
                    // Told to viewers only, and this is the starter.
                    Ok(Some(ProcessEvent::Skipped(_))) => continue,
                    Ok(Some(ProcessEvent::Exited(_))) if kill_at.is_some() => return RunState::Cancelled,
                    Ok(Some(ProcessEvent::Exited(report))) => {
                        return RunState::Completed { exit: exit_report(report) };
                    }
                    Ok(None) => return lost("the agent ended the stream without a result"),
                    Err(_) if kill_at.is_some() => return RunState::Cancelled,
                    Err(error) => return lost(&error.to_string()),
                };
                // Nobody is left to read it: dropping the process kills it in the guest.
                if pieces.send(piece).await.is_err() {
                    return RunState::Cancelled;
                }
            }
            () = cancelled.cancelled(), if kill_at.is_none() => {
                kill_at = Some(Instant::now() + grace);
                if process.signaller().signal(SIGTERM).await.is_err() {
                    return RunState::Cancelled;
                }
            }
            () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                return RunState::Cancelled;
            }
        }
    }
}

/// Writes output to a run's log as it comes, as much at a time as has come.
async fn write_log(host: &Arc<Host>, run: RunRef, mut incoming: mpsc::Receiver<Piece>) {
    let mut stdout = Utf8Chunker::new(Stream::Stdout);
    let mut stderr = Utf8Chunker::new(Stream::Stderr);
    let mut batch: Vec<Piece> = Vec::with_capacity(BATCH);
    while incoming.recv_many(&mut batch, BATCH).await > 0 {
        let bodies = merged(&batch)
            .filter_map(|(stream, bytes)| match stream {
                Stream::Stdout => stdout.push(&bytes),
                Stream::Stderr => stderr.push(&bytes),
            })
            .collect();
        batch.clear();
        append(host, run, bodies).await;
    }
    append(host, run, stdout.finish().into_iter().chain(stderr.finish()).collect()).await;
}

/// Joins neighbouring pieces of one stream: a program that prints byte by byte must not fill the
/// log with entries of a byte.
fn merged(batch: &[Piece]) -> impl Iterator<Item = (Stream, Vec<u8>)> + '_ {
    batch.chunk_by(|a, b| a.0 == b.0).map(|pieces| {
        let bytes = pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        (pieces[0].0, bytes)
    })
}

/// Appends entries to a run's log and tells its readers.
pub(crate) async fn append(host: &Arc<Host>, run: RunRef, bodies: Vec<EventBody>) {
    if bodies.is_empty() {
        return;
    }
    let now = host.now();
    let events = bodies.into_iter().map(|body| (now, body)).collect();
    // The run goes on without this part of its log: its effects in the guest matter more.
    if let Err(error) = host.queue.append_events(run, events).await {
        tracing::error!(%run, %error, "output could not be written to the log");
    }
}

/// The agent's report in the words of the model.
pub(crate) fn exit_report(report: aetherium_agent_proto::ExitReport) -> ExitReport {
    let exit = match report.status {
        ExitStatus::Code(code) => Exit::Exited { code },
        ExitStatus::Signal(signal) => Exit::Signaled { signal },
        ExitStatus::Timeout => Exit::TimedOut,
        ExitStatus::Oom => Exit::Signaled { signal: SIGKILL },
    };
    ExitReport {
        exit,
        exit_code: exit.shell_code(),
        wall_ms: report.wall_ms,
        user_ms: report.user_ms,
        system_ms: report.sys_ms,
        max_rss_kib: report.max_rss_kib,
    }
}

/// What becomes of a run whose command the agent did not start, as far as one can know.
pub(crate) fn not_run(error: &AgentError) -> RunState {
    if error.may_have_started() {
        return lost(&error.to_string());
    }
    let fault = match error {
        AgentError::Spawn { kind, .. } => Fault::new(spawn_code(*kind), error.to_string())
            .remedy("check the command, its directory and its user against what the guest has"),
        AgentError::VmEnded { reason } => {
            Fault::new(Code::VmGone, format!("the VM ended: {reason}"))
                .remedy("look at the VM's termination, then submit it again")
        }
        other => Fault::new(Code::AgentLost, other.to_string())
            .remedy("read the VM's console; delete the VM if it does not recover"),
    };
    RunState::Failed { fault }
}

const fn spawn_code(kind: SpawnErrorKind) -> Code {
    match kind {
        SpawnErrorKind::NotFound => Code::CommandNotFound,
        SpawnErrorKind::PermissionDenied => Code::CommandNotExecutable,
        _ => Code::SpawnFailed,
    }
}

fn lost(detail: &str) -> RunState {
    RunState::Interrupted {
        fault: Fault::new(
            Code::Interrupted,
            format!("the command may have run, its end is unknown: {detail}"),
        )
        .remedy("look at what it did, then submit it again if that is wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_pieces_of_one_stream_become_one_entry() {
        let piece = |stream, text: &'static str| (stream, Bytes::from_static(text.as_bytes()));
        let batch = [
            piece(Stream::Stdout, "a"),
            piece(Stream::Stdout, "b"),
            piece(Stream::Stderr, "c"),
            piece(Stream::Stdout, "d"),
        ];
        let joined: Vec<_> = merged(&batch).collect();
        assert_eq!(
            joined,
            [
                (Stream::Stdout, b"ab".to_vec()),
                (Stream::Stderr, b"c".to_vec()),
                (Stream::Stdout, b"d".to_vec())
            ]
        );
    }

    #[test]
    fn a_command_without_a_time_limit_gets_the_default_one() {
        let spec = exec_spec(&Command::new(["true"]), false);
        assert_eq!(spec.timeout_ms, Some(3_600_000));
    }
}
