//! One TCP connection, carried between a caller and a port of the guest.
//!
//! ```text
//! caller ──data, end──► socket     each direction ends on its own;
//! caller ◄──data, end── socket     the call ends when both have
//! ```
//!
//! Holds one chunk for each direction: a side that is slow to read stalls the other's writer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::{Refusal, RefusalKind};
use bytes::Bytes;
use connectrpc::InboundStream;
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::QUEUE;
use crate::refuse::OrRefuse as _;

/// A port of the guest itself answers at once, or its queue is full.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The most bytes read from a socket at once.
const CHUNK: usize = 64 * 1024;

/// What a socket says.
pub(super) enum Output {
    Data(Bytes),
    /// It says no more.
    End,
}

/// Connects to a port of the guest, over IPv4 or else IPv6.
pub(super) async fn connect(port: u16) -> Result<TcpStream, Refusal> {
    let to = |address: IpAddr| {
        tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect((address, port)))
    };
    let mut connected = to(Ipv4Addr::LOCALHOST.into()).await;
    if matches!(&connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
        && let over_ipv6 @ Ok(Ok(_)) = to(Ipv6Addr::LOCALHOST.into()).await
    {
        connected = over_ipv6;
    }
    let socket = connected.map_err(|_| {
        let after = CONNECT_DEADLINE.as_millis();
        let detail = format!("port {port} of the guest did not answer within {after} ms");
        Refusal::new(RefusalKind::TimedOut, detail)
    })?;
    let socket = socket.or_refuse(format_args!("port {port} of the guest takes no connection"))?;
    // Slower without, not wrong.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// Carries until both directions have ended, one breaks, or the caller leaves.
pub(super) fn carry(
    socket: TcpStream,
    input: InboundStream<wire::TunnelInput>,
) -> mpsc::Receiver<Result<Output, Refusal>> {
    let (sender, output) = mpsc::channel(QUEUE);
    let (reader, writer) = socket.into_split();
    tokio::spawn(async move {
        let both = async { tokio::try_join!(outward(reader, &sender), inward(input, writer)) };
        tokio::select! {
            outcome = both => if let Err(refusal) = outcome {
                let _ = sender.send(Err(refusal)).await;
            },
            () = sender.closed() => {}
        }
    });
    output
}

const CARRY: &str = "the connection to the guest's port broke";

async fn outward(
    reader: OwnedReadHalf,
    sender: &mpsc::Sender<Result<Output, Refusal>>,
) -> Result<(), Refusal> {
    loop {
        // An idle connection holds no buffer.
        reader.readable().await.or_refuse(CARRY)?;
        let mut chunk = Vec::with_capacity(CHUNK);
        let output = match reader.try_read_buf(&mut chunk) {
            Ok(0) => Output::End,
            Ok(_) => Output::Data(chunk.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).or_refuse(CARRY),
        };
        let is_end = matches!(output, Output::End);
        // A caller that has left ends this from outside.
        let _ = sender.send(Ok(output)).await;
        if is_end {
            return Ok(());
        }
    }
}

async fn inward(
    mut input: InboundStream<wire::TunnelInput>,
    mut writer: OwnedWriteHalf,
) -> Result<(), Refusal> {
    use wire::__buffa::view::oneof::tunnel_input::Part;
    while let Some(part) = input.next().await {
        let part = part.map_err(|error| {
            Refusal::new(RefusalKind::Incomplete, format!("the caller left: {error}"))
        })?;
        match &part.view().part {
            Some(Part::Data(data)) => writer.write_all(data).await.or_refuse(CARRY)?,
            Some(Part::End(_)) => break,
            Some(Part::Open(_)) | None => {}
        }
    }
    writer.shutdown().await.or_refuse(CARRY)
}
