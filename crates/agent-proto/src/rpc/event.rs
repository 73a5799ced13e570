//! A process's events on their way out.

use bytes::{BufMut as _, Bytes, BytesMut};
use connectrpc::{CodecFormat, ConnectError, Encodable, EncodedBody};

use super::wire;
use super::wire::__buffa::oneof::process_event::Event;
use crate::{ExitReport, StreamOffsets};

/// An event of a process on its way out: output is handed over by reference, never copied.
#[derive(Debug, Clone)]
pub enum OutgoingEvent {
    /// Bytes of stdout.
    Stdout(Bytes),
    /// Bytes of stderr.
    Stderr(Bytes),
    /// Anything small.
    Message(Box<wire::ProcessEvent>),
}

impl OutgoingEvent {
    /// The process runs under this id.
    #[must_use]
    pub fn started(pid: u32) -> Self {
        let started = wire::Started { pid, ..wire::Started::default() };
        Self::message(Event::Started(Box::new(started)))
    }

    /// The process could not be started.
    #[must_use]
    pub fn failed(code: &str, detail: &str) -> Self {
        let failed = wire::SpawnFailed {
            code: code.to_owned(),
            detail: detail.to_owned(),
            ..wire::SpawnFailed::default()
        };
        Self::message(Event::Failed(Box::new(failed)))
    }

    /// The process ended.
    #[must_use]
    pub fn exited(report: &ExitReport) -> Self {
        Self::message(Event::Exited(Box::new(report.into())))
    }

    /// The process was found; its output follows from these offsets on.
    #[must_use]
    pub fn attached(pid: u32, offsets: StreamOffsets, terminal: bool) -> Self {
        let attached = wire::Attached {
            pid,
            offsets: wire::StreamOffsets::from(offsets).into(),
            terminal,
            ..wire::Attached::default()
        };
        Self::message(Event::Attached(Box::new(attached)))
    }

    /// So many bytes are gone.
    #[must_use]
    pub fn skipped(bytes: StreamOffsets) -> Self {
        let bytes = wire::StreamOffsets::from(bytes).into();
        Self::message(Event::Skipped(Box::new(wire::Skipped { bytes, ..wire::Skipped::default() })))
    }

    /// The stream ends here for the sake of an upgrade.
    #[must_use]
    pub fn handed_over(offsets: StreamOffsets) -> Self {
        let offsets = wire::StreamOffsets::from(offsets).into();
        Self::message(Event::HandedOver(Box::new(wire::HandedOver {
            offsets,
            ..wire::HandedOver::default()
        })))
    }

    fn message(event: Event) -> Self {
        Self::Message(Box::new(wire::ProcessEvent {
            event: Some(event),
            ..wire::ProcessEvent::default()
        }))
    }

    /// Writes the event as the segments of one `ProcessEvent` message.
    fn segments(&self) -> Vec<Bytes> {
        use buffa::Message as _;
        // A bytes field is its tag (number << 3 | 2), a varint length, and the bytes.
        match self {
            Self::Stdout(data) => vec![bytes_field_head(3, data.len()), data.clone()],
            Self::Stderr(data) => vec![bytes_field_head(4, data.len()), data.clone()],
            Self::Message(message) => vec![message.encode_to_bytes()],
        }
    }
}

pub(super) fn bytes_field_head(number: u8, mut len: usize) -> Bytes {
    let mut head = BytesMut::with_capacity(11);
    head.put_u8(number << 3 | 2);
    while len >= 0x80 {
        head.put_u8((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    head.put_u8(len as u8);
    head.freeze()
}

impl Encodable<wire::ProcessEvent> for OutgoingEvent {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        self.encode_segments(codec).map(EncodedBody::into_contiguous)
    }

    fn encode_segments(&self, codec: CodecFormat) -> Result<EncodedBody, ConnectError> {
        match codec {
            CodecFormat::Proto => Ok(EncodedBody::from_segments(self.segments())),
            _ => Err(ConnectError::unimplemented("the agent speaks protobuf, not JSON")),
        }
    }
}
