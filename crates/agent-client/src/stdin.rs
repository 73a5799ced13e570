//! A process's stdin as its caller writes it.
//!
//! ```text
//! write ──► queue ──► call ──► agent ──► pipe
//!                      └─ sent, not known to be taken: kept, and sent again after a handover
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::{GUEST_STREAM_WINDOW, MAX_CHUNK_BYTES};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::{Connection, SEND_BUFFER};
use crate::{AgentClient, AgentError};

/// How many pieces of input wait to be sent.
const QUEUE: usize = 2;
/// How much that was sent may not have been taken by the process: what the buffers and the window
/// between hold, with a piece on either side.
const UNCERTAIN_BYTES: usize = SEND_BUFFER + GUEST_STREAM_WINDOW as usize + 4 * MAX_CHUNK_BYTES;

/// A process's stdin.
pub struct Stdin {
    /// Gone once closed.
    pieces: Option<mpsc::Sender<Bytes>>,
    /// The task that sends the pieces; it ends when the agent has closed the pipe.
    feeding: Option<JoinHandle<Result<(), AgentError>>>,
}

/// What is on its way, shared between the task and the call under way.
struct Feed {
    queue: mpsc::Receiver<Bytes>,
    /// To be sent before the queue.
    again: VecDeque<Bytes>,
    /// Sent in this call, the oldest dropped once the agent must have taken it.
    sent: VecDeque<Bytes>,
    /// How many bytes of this call are older than `sent`.
    certain: u64,
    sent_bytes: usize,
    /// Which call may take pieces. One that was handed over may not any more.
    call: u32,
    /// Wakes the call under way, to be told when it may not take pieces any more.
    waiting: Option<Waker>,
}

impl Stdin {
    /// Opens the stdin of a process. Uses `connection` while that lasts.
    pub(crate) fn open(client: &AgentClient, connection: Option<Connection>, pid: u32) -> Self {
        let (pieces, queue) = mpsc::channel(QUEUE);
        let feeding = tokio::spawn(feed(client.clone(), connection, pid, Feed::new(queue)));
        Self { pieces: Some(pieces), feeding: Some(feeding) }
    }

    /// Sends input; waits while the process is slow to read.
    ///
    /// # Errors
    /// [`AgentError::StdinClosed`] or [`AgentError::NoSuchProcess`] when the process takes no more.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), AgentError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_CHUNK_BYTES));
            let sent = match &self.pieces {
                Some(pieces) => pieces.send(piece).await.is_ok(),
                None => false,
            };
            if !sent {
                self.pieces = None;
                return Err(self.why_closed().await);
            }
        }
        Ok(())
    }

    /// Closes the pipe after all input has been delivered.
    ///
    /// # Errors
    /// As [`Stdin::write`], when the process did not take everything.
    pub async fn close(mut self) -> Result<(), AgentError> {
        self.pieces = None;
        match self.feeding.take() {
            Some(feeding) => feeding.await.unwrap_or_else(|_| Err(closed("the call was stopped"))),
            None => Err(closed("it failed before")),
        }
    }

    async fn why_closed(&mut self) -> AgentError {
        match self.feeding.take() {
            Some(feeding) => match feeding.await {
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => closed("the agent closed it"),
            },
            None => closed("it failed before"),
        }
    }
}

fn closed(detail: &str) -> AgentError {
    AgentError::StdinClosed { detail: detail.to_owned() }
}

/// Sends input until its end, over as many calls as the agent's upgrades make of it.
async fn feed(
    client: AgentClient,
    connection: Option<Connection>,
    pid: u32,
    feed: Feed,
) -> Result<(), AgentError> {
    let feed = Arc::new(Mutex::new(feed));
    let mut next = connection;
    loop {
        let connection = match next.take() {
            Some(connection) => connection,
            None => client.connection().await?,
        };
        let call = lock(&feed).call;
        let pieces = {
            let feed = feed.clone();
            // The agent learns from the first piece whose stdin this is, also if no input ever comes.
            let mut first = Some(Bytes::new());
            futures::stream::poll_fn(move |cx| {
                let piece = match first.take() {
                    Some(first) => Poll::Ready(Some(first)),
                    None => lock(&feed).poll(call, cx),
                };
                piece.map(|piece| piece.map(|data| request(pid, data)))
            })
        };
        let answer = client.unless_ended(connection.wire().write_stdin(pieces)).await?;
        let answer = answer.map_err(|error| connection.error("write_stdin", &error))?.into_owned();
        if !answer.handed_over {
            return Ok(());
        }
        lock(&feed).resume(answer.taken)?;
        next = Some(client.redial(&connection).await?);
    }
}

fn request(pid: u32, data: Bytes) -> wire::StdinRequest {
    wire::StdinRequest { pid, data: data.into(), ..wire::StdinRequest::default() }
}

fn lock(feed: &Mutex<Feed>) -> MutexGuard<'_, Feed> {
    feed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    fn new(queue: mpsc::Receiver<Bytes>) -> Self {
        let (again, sent) = (VecDeque::new(), VecDeque::new());
        Self { queue, again, sent, certain: 0, sent_bytes: 0, call: 0, waiting: None }
    }

    /// The next piece for a call.
    fn poll(&mut self, call: u32, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if call != self.call {
            return Poll::Ready(None);
        }
        let piece = match self.again.pop_front() {
            Some(piece) => Poll::Ready(Some(piece)),
            None => self.queue.poll_recv(cx),
        };
        if piece.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        if let Poll::Ready(Some(piece)) = &piece {
            self.sent_bytes += piece.len();
            self.sent.push_back(piece.clone());
            while let Some(oldest) = self.sent.front()
                && self.sent_bytes - oldest.len() >= UNCERTAIN_BYTES
            {
                self.sent_bytes -= oldest.len();
                self.certain += oldest.len() as u64;
                self.sent.pop_front();
            }
        }
        piece
    }

    /// Prepares the next call after one of which the process has taken `taken` bytes.
    fn resume(&mut self, taken: u64) -> Result<(), AgentError> {
        let known = taken.checked_sub(self.certain).and_then(|it| usize::try_from(it).ok());
        let Some(mut known) = known.filter(|known| *known <= self.sent_bytes) else {
            return Err(closed("the agent took another amount of input than can be"));
        };
        // What waits to be sent again was sent after all of this.
        let mut again = VecDeque::new();
        for mut piece in self.sent.drain(..) {
            let dropped = known.min(piece.len());
            known -= dropped;
            let rest = piece.split_off(dropped);
            if !rest.is_empty() {
                again.push_back(rest);
            }
        }
        again.append(&mut self.again);
        self.again = again;
        (self.certain, self.sent_bytes) = (0, 0);
        self.call += 1;
        // Its half of the stream would else stay open, and with it the connection.
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(feed: &mut Feed, call: u32) -> Option<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        match feed.poll(call, &mut cx) {
            Poll::Ready(piece) => piece,
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_was_not_taken_is_sent_again_and_nothing_else() {
        let (pieces, queue) = mpsc::channel(8);
        let mut feed = Feed::new(queue);
        for text in ["abc", "def", "ghi"] {
            pieces.try_send(Bytes::from(text)).unwrap();
        }
        assert_eq!(poll(&mut feed, 0).unwrap(), "abc");
        assert_eq!(poll(&mut feed, 0).unwrap(), "def");
        feed.resume(4).unwrap();
        assert_eq!(poll(&mut feed, 0), None, "the old call takes nothing more");
        assert_eq!(poll(&mut feed, 1).unwrap(), "ef");
        assert_eq!(poll(&mut feed, 1).unwrap(), "ghi");
        assert!(feed.resume(6).is_err(), "more than was ever sent");
    }

    #[test]
    fn only_what_may_be_on_its_way_is_kept() {
        let (pieces, queue) = mpsc::channel(1);
        let mut feed = Feed::new(queue);
        let piece = Bytes::from(vec![0; MAX_CHUNK_BYTES]);
        for _ in 0..100 {
            pieces.try_send(piece.clone()).unwrap();
            assert!(poll(&mut feed, 0).is_some());
        }
        assert!(feed.sent_bytes < UNCERTAIN_BYTES + MAX_CHUNK_BYTES);
        assert!(feed.resume(0).is_err());
        assert!(feed.resume(100 * MAX_CHUNK_BYTES as u64).is_ok());
    }
}
