//! Running a command in a VM: the start mark before, the output during, the result after.
//!
//! Three ways in, one way through. A prompt or queued execution writes its output to the log, a
//! captured one collects it, an interactive one sends it on; each is a consumer of the same bounded
//! channel, so that whoever is slow slows the command and nothing else.
//!
//! What is logged runs detached in the guest under its run's id, and is found again by that: see
//! [`crate::rejoin`]. What somebody waits for ends when nobody waits any more.

use crate::{assistant::Reader, host::Host, rejoin::Followed, tail::Tail};
use aetherium_agent_client::{AgentError, ProcessEvent, StreamOffsets};
use aetherium_agent_proto::{ExecSpec, ExitStatus, Program, SpawnErrorKind, Stdio};
use aetherium_model::{
    Code, Fault, limits,
    output::{EventBody, Stream, Utf8Chunker},
    run::{Command, Exit, ExitReport, RunState},
};
use aetherium_secrets::{Masked, Masker, Masks};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// What came, with secrets masked, and by how many bytes it was longer.
    Output(Stream, Bytes, u64),
    /// So much of each stream never will.
    Missing(StreamOffsets),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Output(_, bytes, _) => bytes,
            Self::Missing(_) => &[],
        }
    }

    fn read_by(&self, reader: &mut Reader) -> Vec<EventBody> {
        match self {
            Self::Output(Stream::Stdout, bytes, _) => reader.read(bytes),
            Self::Missing(gone) if gone.stdout > 0 => {
                reader.gap();
                Vec::new()
            }
            Self::Output(Stream::Stderr, ..) | Self::Missing(_) => Vec::new(),
        }
    }

    fn hidden(&self) -> u64 {
        match self {
            Self::Output(_, _, hidden) => *hidden,
            Self::Missing(_) => 0,
        }
    }
}

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

/// The command with its place in the trace in its environment, where somebody keeps the trace and the
/// caller did not say otherwise.
pub(crate) fn traced(mut command: Command) -> Command {
    if let Some(here) = aetherium_telemetry::here().filter(|here| here.sampled) {
        let name = aetherium_telemetry::TRACEPARENT.to_ascii_uppercase();
        command.env.entry(name).or_insert_with(|| here.to_string());
    }
    command
}

/// Follows a command to its end, with its output going to its run's log, and what `reader` reads in it
/// beside it, and returns how it ended.
pub(crate) async fn log_to_end(
    host: &Arc<Host>,
    run: RunRef,
    process: Followed,
    masks: &Masks,
    reader: &mut Reader,
    cancelled: &CancellationToken,
) -> RunState {
    let (pieces, incoming) = mpsc::channel(PIECES);
    let (end, ()) = tokio::join!(
        follow(process, masks, pieces, cancelled, host.settings.cancel_grace),
        write_log(host, run, incoming, |piece| piece.read_by(reader)),
    );
    append(host, run, reader.finish()).await;
    end
}

/// The same for one of several commands of a log; returns the last lines of its output besides.
pub(crate) async fn log_with_tail(
    host: &Arc<Host>,
    run: RunRef,
    process: Followed,
    masks: &Masks,
    cancelled: &CancellationToken,
) -> (RunState, Tail) {
    let (pieces, incoming) = mpsc::channel(PIECES);
    let mut tail = Tail::default();
    let (end, ()) = tokio::join!(
        follow(process, masks, pieces, cancelled, host.settings.cancel_grace),
        write_log(host, run, incoming, |piece| {
            tail.push(&String::from_utf8_lossy(piece.bytes()));
            Vec::new()
        }),
    );
    (end, tail)
}

/// Passes a process's output on until it ends, and sees to it that it does when `cancelled`.
///
/// Takes the sender by value: the consumer learns from its end that nothing follows.
pub(crate) async fn follow(
    process: Followed,
    masks: &Masks,
    pieces: mpsc::Sender<Piece>,
    cancelled: &CancellationToken,
    grace: Duration,
) -> RunState {
    let mut veil = Veil::new(masks);
    let end = pass_on(process, &mut veil, &pieces, cancelled, grace).await;
    for piece in veil.finish() {
        // Nobody may be left to read it.
        let _ = pieces.send(piece).await;
    }
    end
}

/// Both streams of a process, with secrets masked.
struct Veil {
    stdout: Masker,
    stderr: Masker,
}

impl Veil {
    fn new(masks: &Masks) -> Self {
        Self { stdout: masks.masker(), stderr: masks.masker() }
    }

    /// What may be shown of the next bytes of a stream, if anything.
    fn over(&mut self, stream: Stream, bytes: Bytes) -> Option<Piece> {
        let masker = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        piece(stream, masker.push(&bytes))
    }

    /// What was held back, at the end or before a gap.
    fn finish(&mut self) -> impl Iterator<Item = Piece> + use<> {
        let stdout = piece(Stream::Stdout, self.stdout.finish());
        stdout.into_iter().chain(piece(Stream::Stderr, self.stderr.finish()))
    }
}

fn piece(stream: Stream, masked: Masked) -> Option<Piece> {
    let Masked { bytes, hidden } = masked;
    (!bytes.is_empty()).then(|| Piece::Output(stream, bytes.into(), hidden))
}

async fn pass_on(
    mut process: Followed,
    veil: &mut Veil,
    pieces: &mpsc::Sender<Piece>,
    cancelled: &CancellationToken,
    grace: Duration,
) -> RunState {
    let mut kill_at: Option<Instant> = None;
    loop {
        tokio::select! {
            event = process.next() => {
                let shown = match event {
                    Ok(Some(ProcessEvent::Stdout(bytes))) => veil.over(Stream::Stdout, bytes),
                    Ok(Some(ProcessEvent::Stderr(bytes))) => veil.over(Stream::Stderr, bytes),
                    Ok(Some(ProcessEvent::Skipped(gone))) => {
                        for piece in veil.finish() {
                            if pieces.send(piece).await.is_err() {
                                return RunState::Cancelled;
                            }
                        }
                        Some(Piece::Missing(gone))
                    }
                    Ok(Some(ProcessEvent::Exited(_))) if kill_at.is_some() => return RunState::Cancelled,
                    Ok(Some(ProcessEvent::Exited(report))) => {
                        return RunState::Completed { exit: exit_report(report) };
                    }
                    Ok(None) | Err(_) if kill_at.is_some() => return RunState::Cancelled,
                    Ok(None) => return lost("the agent ended the stream without a result"),
                    Err(error) => return lost(&error.to_string()),
                };
                let Some(piece) = shown else { continue };
                // Nobody is left to read it: dropping the process kills it in the guest.
                if pieces.send(piece).await.is_err() {
                    return RunState::Cancelled;
                }
            }
            () = cancelled.cancelled(), if kill_at.is_none() => {
                kill_at = Some(Instant::now() + grace);
                if process.signal(SIGTERM).await.is_err() {
                    return RunState::Cancelled;
                }
            }
            () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                // It may just have ended; one that is attached ends with its stream anyway.
                let _ = process.signal(SIGKILL).await;
                return RunState::Cancelled;
            }
        }
    }
}

/// Writes output to a run's log as it comes, as much at a time as has come.
async fn write_log(
    host: &Arc<Host>,
    run: RunRef,
    mut incoming: mpsc::Receiver<Piece>,
    mut read: impl FnMut(&Piece) -> Vec<EventBody>,
) {
    let mut entries = Entries::new();
    let mut batch: Vec<Piece> = Vec::with_capacity(BATCH);
    while incoming.recv_many(&mut batch, BATCH).await > 0 {
        // In the same transaction as what it was read from, so that it is read once.
        let mut bodies = entries.of(&batch);
        bodies.extend(batch.iter().flat_map(&mut read));
        append(host, run, bodies).await;
        batch.clear();
    }
    append(host, run, entries.finish()).await;
}

/// Makes a log's entries of output.
struct Entries {
    stdout: Utf8Chunker,
    stderr: Utf8Chunker,
}

impl Entries {
    fn new() -> Self {
        Self { stdout: Utf8Chunker::new(Stream::Stdout), stderr: Utf8Chunker::new(Stream::Stderr) }
    }

    /// Joins neighbouring pieces of one stream: a program that prints byte by byte must not fill the
    /// log with entries of a byte.
    fn of(&mut self, batch: &[Piece]) -> Vec<EventBody> {
        let same = |a: &Piece, b: &Piece| match (a, b) {
            (Piece::Output(a, ..), Piece::Output(b, ..)) => a == b,
            _ => false,
        };
        batch.chunk_by(same).flat_map(|pieces| self.joined(pieces)).collect()
    }

    /// The entries of neighbouring pieces of one stream, or of one piece that tells what is missing.
    fn joined(&mut self, pieces: &[Piece]) -> Vec<EventBody> {
        match &pieces[0] {
            Piece::Output(stream, ..) => {
                let bytes: Vec<u8> = pieces.iter().flat_map(Piece::bytes).copied().collect();
                let hidden = pieces.iter().map(Piece::hidden).sum();
                // In the same transaction as what it stands for, so that the log always says how much of
                // the stream has come.
                let masked = EventBody::Masked { stream: *stream, bytes: hidden };
                let shown = self.chunker(*stream).push(&bytes);
                shown.into_iter().chain((hidden > 0).then_some(masked)).collect()
            }
            Piece::Missing(gone) => [(Stream::Stdout, gone.stdout), (Stream::Stderr, gone.stderr)]
                .into_iter()
                .filter(|(_, bytes)| *bytes > 0)
                .flat_map(|(stream, bytes)| {
                    // The rest of a character that was held back is among what is missing.
                    let held = self.chunker(stream).finish();
                    held.into_iter().chain([EventBody::Missing { stream, bytes }])
                })
                .collect(),
        }
    }

    fn chunker(&mut self, stream: Stream) -> &mut Utf8Chunker {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn finish(&mut self) -> Vec<EventBody> {
        self.stdout.finish().into_iter().chain(self.stderr.finish()).collect()
    }
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

/// What becomes of a run whose command was started, and can no longer be followed.
pub(crate) fn lost(detail: &str) -> RunState {
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

    fn piece(stream: Stream, bytes: &'static [u8]) -> Piece {
        Piece::Output(stream, Bytes::from_static(bytes), 0)
    }

    fn output(stream: Stream, text: &str) -> EventBody {
        EventBody::Output { stream, text: text.to_owned() }
    }

    #[test]
    fn neighbouring_pieces_of_one_stream_become_one_entry() {
        let batch = [
            piece(Stream::Stdout, b"a"),
            piece(Stream::Stdout, b"b"),
            piece(Stream::Stderr, b"c"),
            piece(Stream::Stdout, b"d"),
        ];
        assert_eq!(
            Entries::new().of(&batch),
            [
                output(Stream::Stdout, "ab"),
                output(Stream::Stderr, "c"),
                output(Stream::Stdout, "d")
            ]
        );
    }

    #[test]
    fn what_secrets_made_shorter_is_told_beside_it() {
        let masked = |text: &'static str| Piece::Output(Stream::Stdout, text.into(), 9);
        let log = Entries::new().of(&[masked("a ***"), masked("*** b")]);
        let told = EventBody::Masked { stream: Stream::Stdout, bytes: 18 };
        assert_eq!(log, [output(Stream::Stdout, "a ****** b"), told]);
        let extent: u64 = log.iter().map(|entry| entry.extent().unwrap().1).sum();
        assert_eq!(extent, 10 + 18);
    }

    #[test]
    fn what_is_missing_is_told_where_it_is_missing() {
        let batch = [
            piece(Stream::Stdout, &[b'a', 0xc3]),
            Piece::Missing(StreamOffsets { stdout: 7, stderr: 0 }),
            piece(Stream::Stdout, b"b"),
        ];
        assert_eq!(
            Entries::new().of(&batch),
            [
                output(Stream::Stdout, "a"),
                EventBody::OutputBytes { stream: Stream::Stdout, hex: "c3".to_owned() },
                EventBody::Missing { stream: Stream::Stdout, bytes: 7 },
                output(Stream::Stdout, "b")
            ]
        );
    }

    #[test]
    fn a_command_without_a_time_limit_gets_the_default_one() {
        let spec = exec_spec(&Command::new(["true"]), false);
        assert_eq!(spec.timeout_ms, Some(3_600_000));
    }
}
