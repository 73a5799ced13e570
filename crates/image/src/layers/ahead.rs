//! Reads a layer ahead, in a thread of its own: its bytes are unpacked and their digests taken while
//! those that came before become files.
//!
//! ```text
//! bytes ─► digest ─► gzip│zstd│plain ─► limits ─► digest ─► channel, bounded ─► Ahead
//! ```
//! The thread ends with the layer, with the first thing that is wrong with it, or when its reader is
//! gone. It must never touch the tree.

use super::{
    Layer, Limits, Problem,
    codec::{self, Packing},
    limits::Flow,
    problem::OnHost as _,
};
use crate::digest;
use sha2::{Digest as _, Sha256};
use std::{
    io::{self, BufReader, Cursor, Read},
    sync::mpsc::{self, Receiver, SyncSender},
    thread::{self, Scope, ScopedJoinHandle},
};

/// Bytes that are handed over at once: enough that handing over costs nothing beside unpacking them.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait at most, 2 MiB: some small files' worth, in which either side may be slower.
const CHUNKS_AHEAD: usize = 32;

/// What a layer unpacks to, as far as it was read ahead.
pub(super) struct Ahead {
    chunks: Receiver<Result<Vec<u8>, Problem>>,
    chunk: Cursor<Vec<u8>>,
    broken: Option<Problem>,
}

/// The digests of a layer that was read to its end, in hexadecimal; those that nobody wants are absent.
#[derive(Debug, Default)]
pub(super) struct Digests {
    packed: Option<String>,
    unpacked: Option<String>,
}

/// The thread that reads.
pub(super) type Reading<'scope> = ScopedJoinHandle<'scope, Digests>;

impl Ahead {
    /// Begins to read. The thread ends at the latest when the [`Ahead`] is dropped.
    pub(super) fn of<'scope>(
        scope: &'scope Scope<'scope, '_>,
        layer: &'scope Layer,
        bytes: impl Read + Send + 'scope,
        limits: Limits,
    ) -> Result<(Self, Reading<'scope>), Problem> {
        let (sender, chunks) = mpsc::sync_channel(CHUNKS_AHEAD);
        let reading = thread::Builder::new()
            .name("layer".to_owned())
            .spawn_scoped(scope, move || read(layer, bytes, limits, &sender))
            .host("start a thread that reads")?;
        Ok((Self { chunks, chunk: Cursor::default(), broken: None }, reading))
    }

    /// What is wrong, given what reading ended with: what the thread found, if it did.
    pub(super) fn explain(&mut self, problem: Problem) -> Problem {
        self.broken.take().unwrap_or(problem)
    }
}

impl Read for Ahead {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(part)?;
            if read > 0 || part.is_empty() {
                return Ok(read);
            }
            match self.chunks.recv() {
                Ok(Ok(chunk)) => self.chunk = Cursor::new(chunk),
                Ok(Err(problem)) => {
                    self.broken = Some(problem);
                    return Err(io::Error::other("the layer cannot be read on"));
                }
                // The thread has come to the end.
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
    }
}

impl Digests {
    /// Compares them with what the layer is said to have.
    pub(super) fn check(self, layer: &Layer) -> Result<(), Problem> {
        compare("unpacked digest", layer.unpacked.as_deref(), self.unpacked)?;
        compare("digest", layer.packed.as_deref(), self.packed)
    }
}

fn compare(
    what: &'static str,
    expected: Option<&str>,
    found: Option<String>,
) -> Result<(), Problem> {
    match expected.zip(found) {
        Some((expected, found)) if expected != found => {
            Err(Problem::Digest { what, expected: expected.to_owned(), found })
        }
        _ => Ok(()),
    }
}

/// Why the thread stops before the end.
enum Stop {
    Broken(Problem),
    /// Whoever wanted to know found something wrong, and says so.
    NobodyReads,
}

fn read(
    layer: &Layer,
    bytes: impl Read,
    limits: Limits,
    chunks: &SyncSender<Result<Vec<u8>, Problem>>,
) -> Digests {
    match unpack(layer, bytes, limits, chunks) {
        Ok(digests) => digests,
        Err(Stop::NobodyReads) => Digests::default(),
        Err(Stop::Broken(problem)) => {
            // Fails only if nobody reads any more.
            let _nobody_reads = chunks.send(Err(problem));
            Digests::default()
        }
    }
}

fn unpack(
    layer: &Layer,
    bytes: impl Read,
    limits: Limits,
    chunks: &SyncSender<Result<Vec<u8>, Problem>>,
) -> Result<Digests, Stop> {
    let broken = |error| Stop::Broken(Problem::Unreadable(error));
    let flow = Flow::new(limits);
    // Of a layer that is not packed, this digest is both.
    let wanted = layer.packed.is_some() || layer.unpacked.is_some();
    let mut packed = Hashing::new(flow.packed(bytes), wanted);
    let input = BufReader::with_capacity(CHUNK_BYTES, &mut packed);
    let (packing, unpacked) = codec::unpack(input).map_err(broken)?;
    let wanted = layer.unpacked.is_some() && packing == Packing::Packed;
    let mut unpacked = Hashing::new(flow.unpacked(unpacked), wanted);
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = match unpacked.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(|it| Stop::Broken(flow.explain(Problem::Unreadable(it))))?,
        };
        if read == 0 {
            break;
        }
        chunk.truncate(read);
        chunks.send(Ok(chunk)).map_err(|_| Stop::NobodyReads)?;
    }
    let unpacked = unpacked.digest();
    // What follows the end of what is packed counts for the digest.
    io::copy(&mut packed, &mut io::sink()).map_err(broken)?;
    let packed = packed.digest();
    let unpacked = if packing == Packing::Plain { packed.clone() } else { unpacked };
    Ok(Digests { packed, unpacked })
}

/// Computes the digest of what is read through it, where one is wanted.
struct Hashing<R> {
    inner: R,
    hash: Option<Sha256>,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R, wanted: bool) -> Self {
        Self { inner, hash: wanted.then(Sha256::new) }
    }

    fn digest(self) -> Option<String> {
        self.hash.map(|hash| digest::hex(&hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(chunk)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk[..read]);
        }
        Ok(read)
    }
}
