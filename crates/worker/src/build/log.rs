//! What a build that was asked for over the API tells: into its task's log, for any number of readers,
//! and into the worker's.
//!
//! A build tells without waiting, so what it tells is held until it is written, up to a bound. Beyond
//! that output is dropped, and the log says how much of it.

use super::BuildLog;
use crate::{host::Host, run};
use aetherium_image::Progress;
use aetherium_model::{
    TemplateRef,
    build::BuildEvent,
    finding::Finding,
    output::{EventBody, Stream},
};
use aetherium_store::RunRef;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Bytes of output that may wait to be written.
const MAX_HELD_BYTES: usize = 1 << 20;
/// Bytes of output that one entry has: as many as a piece of the agent's.
const MAX_ENTRY_BYTES: usize = 64 << 10;

/// The log of one build.
pub(super) struct TaskLog<'a> {
    host: &'a Arc<Host>,
    log: RunRef,
    template: &'a TemplateRef,
    held: Mutex<Held>,
    more: Notify,
}

impl<'a> TaskLog<'a> {
    pub(super) fn new(host: &'a Arc<Host>, log: RunRef, template: &'a TemplateRef) -> Self {
        Self { host, log, template, held: Mutex::default(), more: Notify::new() }
    }

    /// Does some work and writes what it tells meanwhile; all of it, before this returns.
    pub(super) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let done = tokio::select! {
            done = work => done,
            never = self.keep_writing() => match never {},
        };
        self.write().await;
        done
    }

    async fn keep_writing(&self) -> Infallible {
        loop {
            self.more.notified().await;
            self.write().await;
        }
    }

    async fn write(&self) {
        let bodies = std::mem::take(&mut *self.held()).bodies;
        run::append(self.host, self.log, bodies).await;
    }

    fn tell(&self, body: EventBody) {
        self.held().push(body);
        self.more.notify_one();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BuildLog for TaskLog<'_> {
    fn event(&self, event: BuildEvent) {
        let template = self.template;
        match &event {
            BuildEvent::Output { step, text, .. } => {
                tracing::debug!(%template, step, text = text.trim_end(), "output");
            }
            other => tracing::info!(%template, event = ?other, "build"),
        }
        self.tell(event.into());
    }
}

impl Progress for TaskLog<'_> {
    fn step(&self, label: &str) {
        tracing::info!(template = %self.template, label, "build");
        self.tell(status("stage", label.to_owned()));
    }

    fn total(&self, label: &str, _bytes: Option<u64>) {
        self.step(label);
    }

    fn advance(&self, _bytes: u64) {}

    fn done(&self) {}

    fn warn(&self, finding: &Finding) {
        let Finding { found, why, .. } = finding;
        tracing::warn!(template = %self.template, found, why, "build");
        self.tell(status("warning", format!("{found}: {why}")));
    }
}

fn status(stage: &str, message: String) -> EventBody {
    EventBody::Status { stage: stage.to_owned(), message }
}

/// Entries that wait to be written.
#[derive(Debug, Default)]
struct Held {
    bodies: Vec<EventBody>,
    output_bytes: usize,
}

impl Held {
    fn push(&mut self, body: EventBody) {
        let EventBody::Output { stream, text } = body else {
            self.bodies.push(body);
            return;
        };
        if self.output_bytes + text.len() > MAX_HELD_BYTES {
            self.drop_output(stream, text.len() as u64);
            return;
        }
        self.output_bytes += text.len();
        match self.bodies.last_mut() {
            // A program that prints byte by byte must not fill the log with entries of a byte.
            Some(EventBody::Output { stream: last, text: before })
                if *last == stream && before.len() + text.len() <= MAX_ENTRY_BYTES =>
            {
                before.push_str(&text);
            }
            _ => self.bodies.push(EventBody::Output { stream, text }),
        }
    }

    fn drop_output(&mut self, stream: Stream, more: u64) {
        match self.bodies.last_mut() {
            Some(EventBody::Missing { stream: last, bytes }) if *last == stream => *bytes += more,
            _ => self.bodies.push(EventBody::Missing { stream, bytes: more }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &str) -> EventBody {
        EventBody::Output { stream: Stream::Stdout, text: text.to_owned() }
    }

    #[test]
    fn output_is_joined_up_to_an_entrys_size_and_never_across_what_happened_between() {
        let mut held = Held::default();
        let step = EventBody::from(BuildEvent::StepEnded { step: 1, wall_ms: 2 });
        for body in [output("a"), output("b"), step.clone(), output("c")] {
            held.push(body);
        }
        assert_eq!(held.bodies, [output("ab"), step, output("c")]);
        let half = "x".repeat(MAX_ENTRY_BYTES / 2 + 1);
        let mut held = Held::default();
        held.push(output(&half));
        held.push(output(&half));
        assert_eq!(held.bodies.len(), 2);
    }

    #[test]
    fn what_nobody_could_write_in_time_is_dropped_and_told_of_and_what_is_no_output_is_kept() {
        let mut held = Held::default();
        held.push(output(&"x".repeat(MAX_HELD_BYTES)));
        held.push(output("abc"));
        held.push(output("de"));
        let step = EventBody::from(BuildEvent::StepEnded { step: 1, wall_ms: 2 });
        held.push(step.clone());
        let missing = EventBody::Missing { stream: Stream::Stdout, bytes: 5 };
        assert_eq!(held.bodies[1..], [missing, step]);
    }
}
