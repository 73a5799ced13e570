//! Unpacks a layer, whatever its media type says: the first bytes tell how it is packed.

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::io::{self, BufRead, Read};

/// RFC 1952, section 2.3.1; RFC 8878, section 3.1.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether a layer's bytes are what it unpacks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Packed,
}

/// The unpacked bytes of `packed`: gzip, zstd or plain.
pub(super) fn unpack<'a>(
    mut packed: impl BufRead + 'a,
) -> io::Result<(Packing, Box<dyn Read + 'a>)> {
    let first = packed.fill_buf()?;
    Ok(if first.starts_with(&GZIP) {
        (Packing::Packed, Box::new(MultiGzDecoder::new(packed)))
    } else if first.starts_with(&ZSTD) {
        (Packing::Packed, Box::new(ZstdFrames { state: Some(State::Between(packed)) }))
    } else {
        (Packing::Plain, Box::new(packed))
    })
}

/// Frames of zstd, one after the other, as parallel compressors write them.
struct ZstdFrames<R: Read> {
    state: Option<State<R>>,
}

enum State<R: Read> {
    Between(R),
    Inside(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        if chunk.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state.take() {
                None => return Ok(0),
                Some(State::Between(mut source)) => {
                    if source.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(source).map_err(io::Error::other)?;
                    self.state = Some(State::Inside(Box::new(frame)));
                }
                Some(State::Inside(mut frame)) => {
                    let read = frame.read(chunk)?;
                    self.state = Some(match read {
                        0 => State::Between(frame.into_inner()),
                        _ => State::Inside(frame),
                    });
                    if read > 0 {
                        return Ok(read);
                    }
                }
            }
        }
    }
}
