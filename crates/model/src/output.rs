//! The output log of a prompt or an execution: append-only, numbered from 1, bounded.

use crate::{Timestamp, assistant::AssistantEvent, build::BuildEvent, run::RunState};
use serde::{Deserialize, Serialize};

/// Which of a process's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What one entry of the log says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBody {
    /// Something about the run's progress, such as `vm_booting` or `running`.
    Status {
        /// A stable word.
        stage: String,
        /// A sentence for people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// Output that is valid UTF-8.
    Output {
        /// The stream it came from.
        stream: Stream,
        /// The text.
        text: String,
    },
    /// Something about a template's build; what its steps print is output.
    Build {
        /// What.
        #[serde(flatten)]
        event: BuildEvent,
    },
    /// What an assistant says and does, read from its output, which stays in the log as it is.
    Assistant {
        /// What.
        #[serde(flatten)]
        event: AssistantEvent,
    },
    /// Output that is not valid UTF-8.
    OutputBytes {
        /// The stream it came from.
        stream: Stream,
        /// The bytes in hexadecimal.
        hex: String,
    },
    /// So much of a stream is missing here: it was written while the worker was away, and the guest
    /// keeps only the end of what nobody takes; or faster than the log could take it.
    Missing {
        /// The stream it was written to.
        stream: Stream,
        /// How much.
        bytes: u64,
    },
    /// Values of secrets in the output before this are shown as `***`; it was longer by so much.
    Masked {
        /// The stream it was written to.
        stream: Stream,
        /// By how much.
        bytes: u64,
    },
    /// The log is full: what follows of this run's output is dropped.
    Truncated {
        /// The bytes kept.
        kept_bytes: u64,
    },
    /// The last entry: how the run ended.
    End {
        /// The terminal state.
        #[serde(flatten)]
        state: RunState,
    },
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OutputEvent {
    /// Its number, from 1 without gaps; `Last-Event-ID` takes it.
    pub seq: i64,
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Cuts a stream of bytes into events without cutting a character in two.
///
/// Holds back at most three bytes of an unfinished character until the next chunk or [`finish`].
///
/// [`finish`]: Utf8Chunker::finish
#[derive(Debug)]
pub struct Utf8Chunker {
    stream: Stream,
    held: Vec<u8>,
}

impl Utf8Chunker {
    /// A chunker for one stream.
    pub const fn new(stream: Stream) -> Self {
        Self { stream, held: Vec::new() }
    }

    /// Takes the next bytes and returns what can be said of them now, if anything.
    pub fn push(&mut self, bytes: &[u8]) -> Option<EventBody> {
        self.held.extend_from_slice(bytes);
        let complete = match std::str::from_utf8(&self.held) {
            Ok(_) => self.held.len(),
            // An error without a length is a character that may still be completed.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.held.len(),
        };
        let rest = self.held.split_off(complete);
        let ready = std::mem::replace(&mut self.held, rest);
        self.event(ready)
    }

    /// The stream has ended: returns what was held back.
    pub fn finish(&mut self) -> Option<EventBody> {
        let ready = std::mem::take(&mut self.held);
        self.event(ready)
    }

    fn event(&self, bytes: Vec<u8>) -> Option<EventBody> {
        if bytes.is_empty() {
            return None;
        }
        let stream = self.stream;
        Some(match String::from_utf8(bytes) {
            Ok(text) => EventBody::Output { stream, text },
            Err(error) => EventBody::OutputBytes { stream, hex: to_hex(error.as_bytes()) },
        })
    }
}

impl EventBody {
    /// The output bytes this entry carries, with their stream.
    pub fn output(&self) -> Option<(Stream, Vec<u8>)> {
        match self {
            Self::Output { stream, text } => Some((*stream, text.clone().into_bytes())),
            Self::OutputBytes { stream, hex } => Some((*stream, from_hex(hex))),
            _ => None,
        }
    }
}

impl EventBody {
    /// How much of which stream this entry stands for, in bytes: what it carries, or says is missing
    /// or hidden.
    pub fn extent(&self) -> Option<(Stream, u64)> {
        match self {
            Self::Output { stream, text } => Some((*stream, text.len() as u64)),
            Self::OutputBytes { stream, hex } => Some((*stream, hex.len() as u64 / 2)),
            Self::Missing { stream, bytes } | Self::Masked { stream, bytes } => {
                Some((*stream, *bytes))
            }
            Self::Status { .. }
            | Self::Build { .. }
            | Self::Assistant { .. }
            | Self::Truncated { .. }
            | Self::End { .. } => None,
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_cut_in_two_arrives_whole() {
        let mut chunker = Utf8Chunker::new(Stream::Stdout);
        assert_eq!(chunker.push(&"ä".as_bytes()[..1]), None);
        let event = chunker.push(&"ä!".as_bytes()[1..]);
        assert_eq!(event, Some(EventBody::Output { stream: Stream::Stdout, text: "ä!".into() }));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_reordered_however_the_stream_is_cut(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..20)
        ) {
            let mut chunker = Utf8Chunker::new(Stream::Stderr);
            let mut events: Vec<_> = chunks.iter().filter_map(|chunk| chunker.push(chunk)).collect();
            events.extend(chunker.finish());
            let stands_for: u64 = events.iter().map(|event| event.extent().unwrap().1).sum();
            let out: Vec<u8> = events.iter().flat_map(|event| event.output().unwrap().1).collect();
            prop_assert_eq!(stands_for, out.len() as u64);
            prop_assert_eq!(out, chunks.concat());
        }
    }
}
