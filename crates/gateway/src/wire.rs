//! Ways to a worker: the Unix socket of one on this machine, or the address of one on a network.

use aetherium_model::{Code, Fault, worker::Worker};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use std::{
    fmt::Write as _,
    io,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_util::either::Either;

/// Machines of one fleet are near each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Follows a socket's path in hexadecimal where HTTP wants a host. No host of a network has it.
const SOCKET: &str = ".socket";

/// Where a worker's internal API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket on this machine: whoever can open it is admitted.
    Socket(PathBuf),
    /// Host and port: every request needs a pass.
    Network(String),
}

impl Address {
    /// The address in a worker's row.
    pub(crate) fn of(worker: &Worker) -> Result<Self, Fault> {
        let given = &worker.internal_address;
        let socket = given.strip_prefix("unix:").filter(|path| path.starts_with('/'));
        let network = given.strip_prefix("http://").filter(|it| it.contains(':'));
        match (socket, network) {
            (Some(path), _) => Ok(Self::Socket(path.into())),
            (None, Some(host)) => Ok(Self::Network(host.to_owned())),
            (None, None) => Err(Fault::new(
                Code::Unavailable,
                format!("{given:?} is not a worker's address"),
            )
            .remedy(
                "restart the worker: it registers as unix:/path/worker.sock or http://host:port",
            )),
        }
    }

    /// What stands for it in a URI: the pool keeps its connections under this, and [`Connector`] reads
    /// from it where to dial.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Network(host) => host.clone(),
            Self::Socket(path) => {
                let mut authority = String::new();
                for byte in path.as_os_str().as_encoded_bytes() {
                    let _ = write!(authority, "{byte:02x}");
                }
                authority + SOCKET
            }
        }
    }

    fn from_authority(authority: &str) -> Option<Self> {
        let Some(hex) = authority.strip_suffix(SOCKET) else {
            return Some(Self::Network(authority.to_owned()));
        };
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
        Some(Self::Socket(String::from_utf8(bytes?).ok()?.into()))
    }

    /// Connects.
    pub(crate) async fn dial(&self) -> io::Result<Wire> {
        let dialling = async {
            match self {
                Self::Socket(path) => UnixStream::connect(path).await.map(Either::Left),
                Self::Network(host) => {
                    let stream = TcpStream::connect(host.as_str()).await?;
                    // Requests are small and whole: waiting for more to send would only delay them.
                    stream.set_nodelay(true)?;
                    Ok(Either::Right(stream))
                }
            }
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, dialling)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        stream.map(Wire).map_err(|error| match self {
            Self::Socket(path) => {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            }
            Self::Network(host) => io::Error::new(error.kind(), format!("{host}: {error}")),
        })
    }
}

/// Dials the address that a request's authority stands for.
#[derive(Clone, Copy)]
pub(crate) struct Connector;

type Dialing = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Dialing {
        Box::pin(async move {
            let address = uri.authority().and_then(|it| Address::from_authority(it.as_str()));
            let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            address.dial().await.map(TokioIo::new)
        })
    }
}

/// A connection to a worker.
pub(crate) struct Wire(Either<UnixStream, TcpStream>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_leads_back_to_its_address() {
        for address in [
            Address::Socket("/var/lib/ä b/worker.sock".into()),
            Address::Network("10.0.0.1:7071".into()),
            Address::Network("[::1]:7071".into()),
        ] {
            let uri = Uri::try_from(format!("http://{}/x", address.authority())).unwrap();
            let authority = uri.authority().unwrap().as_str();
            assert_eq!(Address::from_authority(authority), Some(address));
        }
    }
}
