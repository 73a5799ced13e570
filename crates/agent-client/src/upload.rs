//! A stream of pieces to the agent that ends with one answer.
//!
//! Owns the task that carries the call. Dropped before the answer, the call is cancelled, and the
//! agent sees an upload that ended without its commit.

use aetherium_agent_proto::rpc::MAX_CHUNK_BYTES;
use bytes::Bytes;
use connectrpc::ConnectError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::{AgentClient, AgentError};

/// How many pieces wait to be sent.
const QUEUE: usize = 2;

/// The pieces as the call takes them.
pub(crate) type Pieces<P> = futures::stream::BoxStream<'static, P>;

/// An upload of pieces `P` that is answered with `A`.
pub(crate) struct Upload<P, A> {
    client: AgentClient,
    /// Gone once the call takes no more.
    pieces: Option<mpsc::Sender<P>>,
    call: Call<A>,
}

/// The task of a call. Dropped, it is stopped.
struct Call<A> {
    task: Option<JoinHandle<Result<A, AgentError>>>,
}

impl<A> Drop for Call<A> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<P: Send + 'static, A: Send + 'static> Upload<P, A> {
    /// Begins a call. Nothing is sent before the first piece.
    pub(crate) fn open<F>(
        client: AgentClient,
        connection: Connection,
        name: &'static str,
        call: impl FnOnce(Pieces<P>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<A, ConnectError>> + Send + 'static,
    {
        let (pieces, mut queue) = mpsc::channel(QUEUE);
        let stream: Pieces<P> = Box::pin(futures::stream::poll_fn(move |cx| queue.poll_recv(cx)));
        let answer = call(stream);
        let task =
            tokio::spawn(async move { answer.await.map_err(|e| connection.error(name, &e)) });
        Self { client, pieces: Some(pieces), call: Call { task: Some(task) } }
    }

    /// Sends one piece; waits while the guest is slow.
    pub(crate) async fn send(&mut self, piece: P) -> Result<(), AgentError> {
        let sent = match &self.pieces {
            Some(pieces) => self.client.unless_ended(pieces.send(piece)).await?.is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        // The call is over; its answer says why.
        self.pieces = None;
        match self.answer().await {
            Err(error) => Err(error),
            Ok(_) => Err(broken("the agent answered before the upload was complete")),
        }
    }

    /// Sends bytes as pieces of a size the agent takes.
    pub(crate) async fn send_data(
        &mut self,
        mut data: Bytes,
        piece: impl Fn(Bytes) -> P,
    ) -> Result<(), AgentError> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(MAX_CHUNK_BYTES));
            self.send(piece(chunk)).await?;
        }
        Ok(())
    }

    /// Ends the pieces and waits for the answer, as long as the guest lives: a disk may be slow.
    pub(crate) async fn finish(mut self) -> Result<A, AgentError> {
        self.pieces = None;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<A, AgentError> {
        let Some(task) = &mut self.call.task else { return Err(broken("it failed before")) };
        let answer = self.client.unless_ended(task).await?;
        self.call.task = None;
        answer.unwrap_or_else(|_| Err(broken("the call was stopped")))
    }
}

fn broken(detail: &str) -> AgentError {
    AgentError::Agent { call: "upload", code: "unexpected_event".into(), detail: detail.into() }
}
