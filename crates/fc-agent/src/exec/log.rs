//! What a process has written and is still held: between its pipes and its readers.
//!
//! ```text
//!              ┌─ dropped ─┬───────── held ─────────┐
//! offset       0           start        floor       end        one such line per stream
//!                                         ▲ the starter has read up to here
//! ```
//!
//! Each stream keeps its last [`TAIL_BYTES`] for those who come later, and beyond that everything
//! its starter, while there is one, has not read. A reader is a [`Cursor`]; one that falls behind
//! `start` is told how much it missed. Pure: no I/O, no waiting; when to read and whom to wake is its
//! owner's business.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aetherium_agent_proto::StreamOffsets;
use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use bytes::{Bytes, BytesMut};

/// How much of each stream is kept for later readers.
pub(crate) const TAIL_BYTES: usize = 64 * 1024;
/// How much may wait for the starter before its process has to.
const UNREAD_BYTES: usize = 256 * 1024;
/// What all processes together may have waiting and kept before each gets little.
const BUDGET_BYTES: usize = 8 * 1024 * 1024;
/// The same amounts for one stream when the budget is used up.
const SCARCE_TAIL_BYTES: usize = 4 * 1024;
const SCARCE_UNREAD_BYTES: usize = 16 * 1024;
/// Pieces up to this size are put together with their neighbours, so that small writes cost little
/// more than their bytes.
const SMALL_BYTES: usize = 4 * 1024;

/// One of a process's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamId {
    Stdout,
    Stderr,
}

impl StreamId {
    pub(super) const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    fn other(self) -> Self {
        match self {
            Self::Stdout => Self::Stderr,
            Self::Stderr => Self::Stdout,
        }
    }

    pub(super) fn of(self, offsets: &StreamOffsets) -> u64 {
        match self {
            Self::Stdout => offsets.stdout,
            Self::Stderr => offsets.stderr,
        }
    }

    fn of_mut(self, offsets: &mut StreamOffsets) -> &mut u64 {
        match self {
            Self::Stdout => &mut offsets.stdout,
            Self::Stderr => &mut offsets.stderr,
        }
    }
}

/// What the logs of all processes hold together.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    held: AtomicUsize,
}

impl Budget {
    fn is_used_up(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= BUDGET_BYTES
    }
}

/// One stream.
#[derive(Debug, Default)]
struct Tail {
    /// Never an empty one.
    pieces: VecDeque<Bytes>,
    start: u64,
    end: u64,
    /// A piece may share a buffer much larger than itself.
    loose: bool,
}

impl Tail {
    fn held(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    fn push(&mut self, data: Bytes) {
        self.end += data.len() as u64;
        if data.len() > SMALL_BYTES {
            self.loose = true;
            return self.pieces.push_back(data);
        }
        match self.pieces.back_mut() {
            Some(last) if last.len() + data.len() <= SMALL_BYTES => {
                let mut joined = BytesMut::with_capacity(last.len() + data.len());
                joined.extend_from_slice(last);
                joined.extend_from_slice(&data);
                *last = joined.freeze();
            }
            _ => self.pieces.push_back(Bytes::copy_from_slice(&data)),
        }
    }

    /// Drops what is older than the last `keep` bytes and below `floor`.
    fn trim(&mut self, keep: usize, floor: Option<u64>) {
        let mut start = self.end.saturating_sub(keep as u64).max(self.start);
        if let Some(floor) = floor {
            start = start.min(floor);
        }
        while self.start < start {
            let Some(first) = self.pieces.front_mut() else { return };
            let excess = usize::try_from(start - self.start).unwrap_or(usize::MAX);
            let dropped = first.len().min(excess);
            if dropped == first.len() {
                self.pieces.pop_front();
            } else {
                let _ = first.split_to(dropped);
            }
            self.start += dropped as u64;
        }
    }

    /// The piece at `offset`, which must not be below `start`; `None` at the end.
    fn at(&self, offset: u64) -> Option<Bytes> {
        let mut skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        for piece in &self.pieces {
            if skip < piece.len() {
                return Some(piece.slice(skip..));
            }
            skip -= piece.len();
        }
        None
    }

    /// Puts all that is held into one buffer of its own.
    fn settle(&mut self) {
        if std::mem::take(&mut self.loose) {
            let mut whole = BytesMut::with_capacity(self.held());
            self.pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
            if !whole.is_empty() {
                self.pieces.push_back(whole.freeze());
            }
        }
    }
}

/// Both streams of one process.
#[derive(Debug)]
pub(crate) struct Log {
    stdout: Tail,
    stderr: Tail,
    /// What the starter, if there is one, has not read; it is never dropped.
    floor: Option<StreamOffsets>,
    budget: Arc<Budget>,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Output(StreamId, Bytes),
    /// So much is gone.
    Skipped(StreamOffsets),
}

/// A reader's place.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    at: StreamOffsets,
    /// The stream to look at first, so that a busy one does not hide the other.
    turn: StreamId,
}

impl Cursor {
    pub(super) fn at(&self) -> StreamOffsets {
        self.at
    }
}

impl Log {
    /// The empty log of a process that has a starter.
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        let floor = Some(StreamOffsets::default());
        Self { stdout: Tail::default(), stderr: Tail::default(), floor, budget }
    }

    fn tail(&self, stream: StreamId) -> &Tail {
        match stream {
            StreamId::Stdout => &self.stdout,
            StreamId::Stderr => &self.stderr,
        }
    }

    fn tail_mut(&mut self, stream: StreamId) -> &mut Tail {
        match stream {
            StreamId::Stdout => &mut self.stdout,
            StreamId::Stderr => &mut self.stderr,
        }
    }

    /// How many bytes may be read from the process now; 0 when it must wait for its starter.
    pub(super) fn room(&self, stream: StreamId) -> usize {
        let scarce = self.budget.is_used_up();
        let most = if scarce { SCARCE_UNREAD_BYTES } else { MAX_CHUNK_BYTES };
        let Some(floor) = &self.floor else { return most };
        let unread = self.tail(stream).end - stream.of(floor);
        let limit = if scarce { SCARCE_UNREAD_BYTES } else { UNREAD_BYTES };
        if unread < limit as u64 { most } else { 0 }
    }

    /// Takes what the process wrote.
    pub(super) fn push(&mut self, stream: StreamId, data: Bytes) {
        if !data.is_empty() {
            self.change(stream, |tail| tail.push(data));
            self.trim(stream);
        }
    }

    /// A cursor at `from`, or at the oldest output held if that is gone or nothing is asked for.
    pub(super) fn cursor(&self, from: Option<StreamOffsets>) -> Cursor {
        let from = from.unwrap_or_default();
        let mut at = StreamOffsets::default();
        for stream in StreamId::ALL {
            let tail = self.tail(stream);
            *stream.of_mut(&mut at) = stream.of(&from).clamp(tail.start, tail.end);
        }
        Cursor { at, turn: StreamId::Stdout }
    }

    /// What comes next for a reader; `None` when it has read everything so far.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Option<Piece> {
        let mut skipped = StreamOffsets::default();
        for stream in StreamId::ALL {
            let at = stream.of_mut(&mut cursor.at);
            let gone = self.tail(stream).start.saturating_sub(*at);
            *at += gone;
            *stream.of_mut(&mut skipped) = gone;
        }
        if skipped != StreamOffsets::default() {
            return Some(Piece::Skipped(skipped));
        }
        for stream in [cursor.turn, cursor.turn.other()] {
            let at = stream.of_mut(&mut cursor.at);
            if let Some(data) = self.tail(stream).at(*at) {
                *at += data.len() as u64;
                cursor.turn = stream.other();
                return Some(Piece::Output(stream, data));
            }
        }
        None
    }

    /// The starter has read up to its cursor, or there is no starter any more.
    pub(super) fn set_floor(&mut self, floor: Option<StreamOffsets>) {
        self.floor = floor;
        StreamId::ALL.into_iter().for_each(|stream| self.trim(stream));
    }

    /// Gives back buffers that are larger than what is held in them.
    pub(super) fn settle(&mut self) {
        self.stdout.settle();
        self.stderr.settle();
    }

    pub(super) fn is_loose(&self) -> bool {
        self.stdout.loose || self.stderr.loose
    }

    /// Drops everything.
    pub(super) fn forget(&mut self) {
        for stream in StreamId::ALL {
            self.change(stream, |tail| tail.trim(0, None));
        }
    }

    pub(super) fn floor(&self) -> Option<StreamOffsets> {
        self.floor
    }

    /// Where what is held begins, and its pieces.
    pub(super) fn contents(&self) -> (StreamOffsets, [Vec<Bytes>; 2]) {
        let start = StreamOffsets { stdout: self.stdout.start, stderr: self.stderr.start };
        let pieces = StreamId::ALL.map(|it| self.tail(it).pieces.iter().cloned().collect());
        (start, pieces)
    }

    /// Fills an empty log with what another one held.
    pub(super) fn refill(
        &mut self,
        start: StreamOffsets,
        held: [Bytes; 2],
        floor: Option<StreamOffsets>,
    ) {
        self.floor = floor;
        for (stream, data) in StreamId::ALL.into_iter().zip(held) {
            let at = stream.of(&start);
            (self.tail_mut(stream).start, self.tail_mut(stream).end) = (at, at);
            // A copy: the bytes share one buffer with those of every other process.
            let data = Bytes::copy_from_slice(&data);
            if !data.is_empty() {
                self.change(stream, |tail| tail.push(data));
            }
        }
    }

    fn trim(&mut self, stream: StreamId) {
        let keep = if self.budget.is_used_up() { SCARCE_TAIL_BYTES } else { TAIL_BYTES };
        let floor = self.floor.as_ref().map(|floor| stream.of(floor));
        self.change(stream, |tail| tail.trim(keep, floor));
    }

    /// Changes a stream and keeps the budget's books.
    fn change(&mut self, stream: StreamId, change: impl FnOnce(&mut Tail)) {
        let tail = self.tail_mut(stream);
        let before = tail.held();
        change(tail);
        let after = tail.held();
        self.budget.held.fetch_add(after, Ordering::Relaxed);
        self.budget.held.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let held = self.stdout.held() + self.stderr.held();
        self.budget.held.fetch_sub(held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_at(stream: StreamId, from: u64, len: usize) -> Bytes {
        let salt = if stream == StreamId::Stdout { 0 } else { 101 };
        (from..from + len as u64).map(|at| ((at * 31 + salt) % 251) as u8).collect()
    }

    /// What can happen to a log.
    #[derive(Debug, Clone)]
    enum Act {
        Write(bool, usize),
        Read,
        StarterLeaves,
        StarterReturns,
        View,
        Settle,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (any::<bool>(), prop_oneof![1..64_usize, 1..40_000_usize])
                .prop_map(|(stream, len)| Act::Write(stream, len)),
            4 => Just(Act::Read),
            1 => Just(Act::StarterLeaves),
            1 => Just(Act::StarterReturns),
            2 => Just(Act::View),
            1 => Just(Act::Settle),
        ]
    }

    /// A reader that checks every byte by its offset.
    struct Checked {
        cursor: Cursor,
    }

    impl Checked {
        fn read(&mut self, log: &Log) -> Option<StreamOffsets> {
            let before = self.cursor.at();
            match log.next(&mut self.cursor)? {
                Piece::Output(stream, data) => {
                    let from = stream.of(&before);
                    assert!(data == bytes_at(stream, from, data.len()), "{stream:?} at {from}");
                    assert_eq!(stream.of(&self.cursor.at()), from + data.len() as u64);
                    None
                }
                Piece::Skipped(bytes) => Some(bytes),
            }
        }
    }

    proptest! {
        #[test]
        fn a_starter_loses_nothing_and_a_viewer_knows_what_it_lost(
            acts in prop::collection::vec(act(), 1..200),
        ) {
            let budget = Arc::new(Budget::default());
            let mut log = Log::new(budget.clone());
            let mut starter = Some(Checked { cursor: log.cursor(None) });
            let mut left_at = StreamOffsets::default();
            let mut viewer = Checked { cursor: log.cursor(None) };
            for act in acts {
                match act {
                    Act::Write(is_stdout, len) => {
                        let stream = if is_stdout { StreamId::Stdout } else { StreamId::Stderr };
                        let len = len.min(log.room(stream));
                        let from = log.tail(stream).end;
                        log.push(stream, bytes_at(stream, from, len));
                    }
                    Act::Read => if let Some(starter) = &mut starter {
                        prop_assert_eq!(starter.read(&log), None, "the starter misses nothing");
                        log.set_floor(Some(starter.cursor.at()));
                    },
                    Act::StarterLeaves => if let Some(gone) = starter.take() {
                        left_at = gone.cursor.at();
                        log.set_floor(None);
                    },
                    Act::StarterReturns => if starter.is_none() {
                        let cursor = log.cursor(Some(left_at));
                        for stream in StreamId::ALL {
                            // Where it resumes is told; it is never before where it left.
                            prop_assert!(stream.of(&cursor.at()) >= stream.of(&left_at));
                        }
                        log.set_floor(Some(cursor.at()));
                        starter = Some(Checked { cursor });
                    },
                    Act::View => { viewer.read(&log); }
                    Act::Settle => log.settle(),
                }
                for stream in StreamId::ALL {
                    let tail = log.tail(stream);
                    let held: usize = tail.pieces.iter().map(Bytes::len).sum();
                    prop_assert_eq!(held, tail.held());
                    prop_assert!(held < UNREAD_BYTES + MAX_CHUNK_BYTES);
                    prop_assert!(starter.is_some() || held <= TAIL_BYTES);
                    prop_assert!(tail.pieces.len() < 200, "{} pieces", tail.pieces.len());
                }
            }
            drop(log);
            prop_assert_eq!(budget.held.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_busy_stream_does_not_hide_the_other() {
        let mut log = Log::new(Arc::default());
        for _ in 0..3 {
            log.push(StreamId::Stdout, Bytes::from(vec![1; 5_000]));
        }
        log.push(StreamId::Stderr, Bytes::from_static(b"help"));
        let mut cursor = log.cursor(None);
        let read: Vec<_> = std::iter::from_fn(|| log.next(&mut cursor)).take(2).collect();
        assert!(matches!(&read[1], Piece::Output(StreamId::Stderr, data) if &data[..] == b"help"));
    }

    #[test]
    fn when_the_budget_is_used_up_each_stream_gets_little() {
        let budget = Arc::new(Budget::default());
        let logs: Vec<Log> = (0..BUDGET_BYTES / TAIL_BYTES)
            .map(|_| {
                let mut log = Log::new(budget.clone());
                log.push(StreamId::Stdout, Bytes::from(vec![1; TAIL_BYTES]));
                log
            })
            .collect();
        let mut late = Log::new(budget);
        assert_eq!(late.room(StreamId::Stdout), SCARCE_UNREAD_BYTES);
        late.push(StreamId::Stdout, Bytes::from(vec![1; SCARCE_UNREAD_BYTES]));
        assert_eq!(late.room(StreamId::Stdout), 0, "it waits for its starter");
        late.set_floor(None);
        assert_eq!(late.tail(StreamId::Stdout).held(), SCARCE_TAIL_BYTES);
        drop(logs);
        assert_eq!(late.room(StreamId::Stdout), MAX_CHUNK_BYTES);
    }
}
