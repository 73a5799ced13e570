//! A connection of any transport, with its first byte looked at and put back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

/// The stream below. One type for all, so that the protocols are compiled once.
pub(crate) enum Stream {
    /// Unix, and vsock, which behaves the same once it is connected.
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection.
pub(crate) struct Socket {
    /// There until it is dropped.
    stream: Option<Stream>,
    first: Option<u8>,
    left: Option<oneshot::Sender<Stream>>,
}

/// How long a peer gets to notice that everything has been said.
const LINGER_TIME: Duration = Duration::from_secs(1);

impl Stream {
    /// Hangs up without cutting the peer short. A socket closed under a peer that still writes, if
    /// only to acknowledge, loses what the peer has not read yet.
    pub(crate) async fn linger(mut self) {
        let last_words = async {
            let mut rest = [0; 4096];
            match &mut self {
                Self::Unix(stream) => {
                    stream.shutdown().await?;
                    while stream.read(&mut rest).await? > 0 {}
                }
                Self::Tcp(stream) => {
                    stream.shutdown().await?;
                    while stream.read(&mut rest).await? > 0 {}
                }
            }
            io::Result::Ok(())
        };
        // A peer that is gone needs no patience.
        let _ = tokio::time::timeout(LINGER_TIME, last_words).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(stream), Some(left)) = (self.stream.take(), self.left.take()) {
            // Nobody waits for it when the connection's task was ended.
            let _ = left.send(stream);
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), first: None, left: None }
    }

    /// A way to the stream once the connection has been dropped.
    pub(crate) fn giving_back(mut self) -> (Self, oneshot::Receiver<Stream>) {
        let (left, stream) = oneshot::channel();
        self.left = Some(left);
        (self, stream)
    }

    /// Waits for the first byte without taking it from the reader; `None` at the end.
    pub(crate) async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = match &mut self.stream {
            Some(Stream::Unix(stream)) => stream.read(&mut byte).await?,
            Some(Stream::Tcp(stream)) => stream.read(&mut byte).await?,
            None => 0,
        };
        self.first = (read == 1).then_some(byte[0]);
        Ok(self.first)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(byte) = self.first.take()
        {
            buffer.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Some(Stream::Unix(stream)) => Pin::new(stream).poll_read(cx, buffer),
            Some(Stream::Tcp(stream)) => Pin::new(stream).poll_read(cx, buffer),
            None => Poll::Ready(Err(gone())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(Stream::Unix(stream)) => Pin::new(stream).poll_write(cx, data),
            Some(Stream::Tcp(stream)) => Pin::new(stream).poll_write(cx, data),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(Stream::Unix(stream)) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Some(Stream::Tcp(stream)) => Pin::new(stream).poll_write_vectored(cx, pieces),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(Stream::Unix(stream)) => Pin::new(stream).poll_flush(cx),
            Some(Stream::Tcp(stream)) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(Stream::Unix(stream)) => Pin::new(stream).poll_shutdown(cx),
            Some(Stream::Tcp(stream)) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Err(gone())),
        }
    }
}
