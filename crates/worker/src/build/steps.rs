//! Steps, done in a guest by its agent.

use super::BuildLog;
use crate::{
    run::{exec_spec, exit_report},
    tail::Tail,
};
use aetherium_agent_client::{AgentClient, AgentError, ProcessEvent};
use aetherium_agent_proto::files::{Attributes, FileMode, Ownership, Reach, WriteOptions};
use aetherium_image::recipe::{Action, Content, Entry, Kind, Step};
use aetherium_model::{
    Code, Fault,
    build::BuildEvent,
    output::{EventBody, Stream, Utf8Chunker},
    recipe::Owner,
    run::{Command, Exit},
};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::{path::Path, time::Instant};
use tokio::io::AsyncReadExt as _;

/// What is read of a file at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// What stands for bytes that are no text.
const REPLACEMENT: &str = "\u{fffd}";
/// Who owns a file whose recipe does not say.
const ROOT: &str = "0";

/// Does steps in order, up to the first that fails.
pub(super) async fn run(
    agent: &AgentClient,
    steps: &[Step],
    log: &dyn BuildLog,
) -> Result<(), Fault> {
    for step in steps {
        let began = Instant::now();
        log.event(BuildEvent::StepStarted { step: step.number, label: step.label.clone() });
        match &step.action {
            Action::Copy(entries) => {
                for entry in entries {
                    make(agent, entry).await.map_err(|error| not_made(step, entry, error))?;
                }
            }
            Action::Run(command) => execute(agent, step, command, log).await?,
        }
        let wall_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        log.event(BuildEvent::StepEnded { step: step.number, wall_ms });
    }
    Ok(())
}

async fn execute(
    agent: &AgentClient,
    step: &Step,
    command: &Command,
    log: &dyn BuildLog,
) -> Result<(), Fault> {
    let number = step.number;
    let lost = |error: &AgentError| {
        failed(step, format!("could not be run to its end: {error}"))
            .remedy("check the command, its directory and its user against what the base has")
    };
    let mut process = agent.exec(exec_spec(command, false)).await.map_err(|e| lost(&e))?;
    let (mut stdout, mut stderr) =
        (Utf8Chunker::new(Stream::Stdout), Utf8Chunker::new(Stream::Stderr));
    let mut tail = Tail::default();
    let mut tell = |body: Option<EventBody>| {
        let (stream, text) = match body {
            Some(EventBody::Output { stream, text }) => (stream, text),
            Some(EventBody::OutputBytes { stream, .. }) => (stream, REPLACEMENT.to_owned()),
            _ => return,
        };
        tail.push(&text);
        log.event(BuildEvent::Output { step: number, stream, text });
    };
    let report = loop {
        match process.next().await.map_err(|error| lost(&error))? {
            Some(ProcessEvent::Stdout(bytes)) => tell(stdout.push(&bytes)),
            Some(ProcessEvent::Stderr(bytes)) => tell(stderr.push(&bytes)),
            // Told to viewers only, and this is the starter.
            Some(ProcessEvent::Skipped(_)) => {}
            Some(ProcessEvent::Exited(report)) => break exit_report(report),
            None => return Err(failed(step, "ended without a result".to_owned())),
        }
    };
    tell(stdout.finish());
    tell(stderr.finish());
    let how = match report.exit {
        Exit::Exited { code: 0 } => return Ok(()),
        Exit::Exited { code } => format!("ended with exit code {code}"),
        Exit::Signaled { signal } => format!("was ended by signal {signal}"),
        Exit::TimedOut => "did not end within its time".to_owned(),
    };
    Err(failed(step, how)
        .evidence(tail.lines())
        .remedy("read what the step printed; correct the recipe, and steps before it are kept"))
}

async fn make(agent: &AgentClient, entry: &Entry) -> Result<(), NotMade> {
    let files = agent.files();
    let ownership = Ownership {
        user: Some(entry.owner.as_ref().map_or(ROOT, Owner::user).to_owned()),
        group: match &entry.owner {
            Some(owner) => owner.group().map(str::to_owned),
            None => Some(ROOT.to_owned()),
        },
    };
    let mode = |bits: u32| FileMode::new(bits & 0o7777).ok();
    match &entry.kind {
        Kind::Directory(bits) => {
            files.make_dir(&entry.dest, mode(*bits)).await?;
            let attributes = Attributes { mode: mode(*bits), ownership };
            files.set_attributes(&entry.dest, attributes).await?;
        }
        Kind::Link(target) => {
            // One that is there gives way, as a file would.
            let _ = files.remove(&entry.dest, Reach::Itself).await;
            files.symlink(target, &entry.dest).await?;
            let attributes = Attributes { mode: None, ownership };
            files.set_attributes(&entry.dest, attributes).await?;
        }
        Kind::File(content, bits) => {
            let options = WriteOptions {
                mode: mode(*bits),
                ownership,
                make_parents: true,
                ..WriteOptions::default()
            };
            let mut writer = files.write(&entry.dest, options).await?;
            match content {
                Content::Inline(bytes) => writer.write(Bytes::from(bytes.clone())).await?,
                Content::Host(path, sha256) => send(path, sha256, &mut writer).await?,
            }
            writer.commit().await?;
        }
    }
    Ok(())
}

/// Sends a file, which must still be what was planned: else the step's key would lie.
async fn send(
    path: &Path,
    sha256: &str,
    writer: &mut aetherium_agent_client::FileWriter,
) -> Result<(), NotMade> {
    let mut file = tokio::fs::File::open(path).await.map_err(NotMade::Source)?;
    let mut hash = Sha256::new();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        if file.read_buf(&mut chunk).await.map_err(NotMade::Source)? == 0 {
            break;
        }
        hash.update(&chunk);
        writer.write(Bytes::from(chunk)).await?;
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == sha256 { Ok(()) } else { Err(NotMade::Changed) }
}

/// Why an entry was not made.
#[derive(Debug, thiserror::Error)]
enum NotMade {
    #[error("its source cannot be read: {0}")]
    Source(std::io::Error),
    #[error("its source has changed since the build began")]
    Changed,
    #[error(transparent)]
    Guest(#[from] AgentError),
}

fn not_made(step: &Step, entry: &Entry, error: NotMade) -> Fault {
    failed(step, format!("could not make {}: {error}", entry.dest.display()))
        .remedy("check the entry's source, its owner and its place against what the base has")
}

fn failed(step: &Step, how: String) -> Fault {
    Fault::new(Code::StepFailed, format!("step {} ({}) {how}", step.number, step.label))
}
