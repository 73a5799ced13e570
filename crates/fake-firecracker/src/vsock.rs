//! The vsock device: a Unix socket that opens ports of the guest, for the host alone to dial.
//!
//! `CONNECT <port>\n` is answered by `OK <host port>\n` once the guest has accepted, and by the end
//! of the connection where nobody listens. Known ports: the agent's.

use crate::{guest::Guest, settings::VsockKind};
use std::{io, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The port that the agent listens on.
const AGENT_PORT: u32 = 9999;
/// The longest request that is read, in bytes, as Firecracker's own.
const MAX_REQUEST: usize = 32;
/// Firecracker's own limit.
const MAX_CONNECTIONS: usize = 1023;
/// The first port that Firecracker gives the host's end.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Who is behind the device; nobody while there is no agent.
pub(crate) type Backend = watch::Receiver<Option<Arc<Guest>>>;

/// A device that is served. Its socket's file stays when it is dropped, as Firecracker's does.
#[derive(Debug)]
pub(crate) struct Device {
    server: JoinHandle<()>,
    /// Counts what all connections so far have not survived.
    cuts: watch::Sender<u64>,
    kind: watch::Sender<VsockKind>,
}

impl Device {
    /// Binds the socket, which must not be there, and serves it.
    pub(crate) fn bind(path: &Path, backend: Backend, kind: VsockKind) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let (cuts, kind) = (watch::Sender::new(0), watch::Sender::new(kind));
        let serve = serve(listener, backend, kind.subscribe(), cuts.subscribe());
        Ok(Self { server: tokio::spawn(serve), cuts, kind })
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Changes how it behaves towards new connections.
    pub(crate) fn behave(&self, kind: VsockKind) {
        self.kind.send_replace(kind);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    listener: UnixListener,
    backend: Backend,
    kind: watch::Receiver<VsockKind>,
    cuts: watch::Receiver<u64>,
) {
    let mut connections = JoinSet::new();
    let mut host_port = FIRST_HOST_PORT;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((caller, _)) = accepted else { continue };
                let now = *kind.borrow();
                if connections.len() >= MAX_CONNECTIONS || now == VsockKind::Closed {
                    continue;
                }
                let (backend, mut cuts) = (backend.clone(), cuts.clone());
                cuts.mark_unchanged();
                let port = host_port;
                host_port += 1;
                connections.spawn(async move {
                    tokio::select! {
                        // However a connection ends, its caller sees it end.
                        _ = connection(caller, backend, now, port) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    mut caller: UnixStream,
    backend: Backend,
    kind: VsockKind,
    host_port: u32,
) -> io::Result<()> {
    let wanted = requested_port(&mut caller).await?;
    if kind == VsockKind::Silent {
        return std::future::pending().await;
    }
    let guest = backend.borrow().clone();
    let Some(guest) = guest.filter(|_| wanted == AGENT_PORT) else { return Ok(()) };
    let mut agent = guest.connect().await?;
    caller.write_all(format!("OK {host_port}\n").as_bytes()).await?;
    copy_bidirectional(&mut caller, &mut agent).await?;
    Ok(())
}

async fn requested_port(caller: &mut UnixStream) -> io::Result<u32> {
    let mut request = Vec::new();
    // Byte by byte: what follows the line belongs to the guest.
    while request.last() != Some(&b'\n') && request.len() < MAX_REQUEST {
        request.push(caller.read_u8().await?);
    }
    parse(&request).ok_or_else(|| io::Error::other("no request for a port"))
}

fn parse(request: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(request).ok()?.split_whitespace();
    let connects = words.next()?.eq_ignore_ascii_case("connect");
    words.next()?.parse().ok().filter(|_| connects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_word_and_a_port() {
        assert_eq!(parse(b"CONNECT 9999\n"), Some(9999));
        assert_eq!(parse(b"connect 52\n"), Some(52));
        for text in ["CONNECT\n", "CONNECT x\n", "HELLO 9999\n", ""] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
