//! A part of a stream on its way out: bulk data is handed over by reference, never copied.

use bytes::Bytes;
use connectrpc::{CodecFormat, ConnectError, Encodable, EncodedBody};

use super::event::bytes_field_head;
use super::wire;

/// A message that carries bulk data in one of its fields.
pub trait CarriesData: buffa::Message {
    /// The number of that field, below 16.
    const DATA_FIELD: u8;
}

impl CarriesData for wire::ReadPart {
    const DATA_FIELD: u8 = 2;
}

impl CarriesData for wire::TarPart {
    const DATA_FIELD: u8 = 1;
}

impl CarriesData for wire::TunnelOutput {
    const DATA_FIELD: u8 = 2;
}

/// A part of a stream of `M`.
#[derive(Debug, Clone)]
pub enum Outgoing<M> {
    /// Bulk data.
    Data(Bytes),
    /// Anything small.
    Message(Box<M>),
}

impl<M: CarriesData> Encodable<M> for Outgoing<M> {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        self.encode_segments(codec).map(EncodedBody::into_contiguous)
    }

    fn encode_segments(&self, codec: CodecFormat) -> Result<EncodedBody, ConnectError> {
        match (codec, self) {
            (CodecFormat::Proto, Self::Data(data)) => Ok(EncodedBody::from_segments(vec![
                bytes_field_head(M::DATA_FIELD, data.len()),
                data.clone(),
            ])),
            (CodecFormat::Proto, Self::Message(message)) => {
                Ok(EncodedBody::from_segments(vec![message.encode_to_bytes()]))
            }
            _ => Err(ConnectError::unimplemented("the agent speaks protobuf, not JSON")),
        }
    }
}
