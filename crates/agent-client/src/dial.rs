//! Opening a connection: every endpoint is tried, the preferred one a little earlier.
//!
//! The first endpoint whose agent answers a greeting wins. An endpoint that fails at once hands its
//! turn on at once; nothing ever waits for a transport that is not there.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aetherium_agent_proto::Hello;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::{AgentError, Endpoint};

/// How much earlier each endpoint starts than the next: long enough for a local vsock to win,
/// short enough not to be noticed when there is none.
pub const HEAD_START: Duration = Duration::from_millis(50);

/// The longest that the preferred endpoint is waited for once another one has answered.
const LONGEST_CHANCE: Duration = Duration::from_millis(500);

/// The most dials of a booting guest at once.
const MAX_DIALS: usize = 32;

/// How long the answer to `CONNECT` is waited for, whoever still wants it: longer than a guest that
/// is starved of its processor may take.
const MAX_ASKING: Duration = Duration::from_secs(120);

/// The longest answer to `CONNECT` worth reading, in bytes.
const MAX_CONNECT_ANSWER: usize = 64;

/// Whom to dial.
#[derive(Clone, Copy)]
pub(crate) struct Dial<'a> {
    pub(crate) endpoints: &'a [Endpoint],
    /// The endpoints' numbers, the preferred one first.
    pub(crate) order: &'a [usize],
    /// How long an agent may be silent once it has answered.
    pub(crate) silence: Duration,
}

/// An endpoint that answered.
pub(crate) struct Winner {
    pub(crate) index: usize,
    pub(crate) connection: Connection,
    pub(crate) hello: Hello,
}

/// Why no endpoint answered.
pub(crate) enum DialError {
    /// Waiting longer cannot help.
    Final(AgentError),
    /// Nobody there yet: each endpoint and what it said.
    NotYet(String),
}

/// Tries the endpoints in their order until one answers or all have failed.
pub(crate) async fn race(dial: Dial<'_>) -> Result<Winner, DialError> {
    let mut waiting = dial.order.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        if running.is_empty() {
            let Some(next) = waiting.next() else { break };
            running.push(attempt(dial, next));
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(outcome) = running.next() => match outcome {
                Ok(winner) => return Ok(winner),
                Err((index, failure)) => {
                    failures.push((index, failure));
                    // The turn passes on at once, even while others are still trying.
                    if let Some(next) = waiting.next() {
                        running.push(attempt(dial, next));
                    }
                }
            },
            () = tokio::time::sleep(HEAD_START), if more => {
                if let Some(next) = waiting.next() {
                    running.push(attempt(dial, next));
                }
            }
        }
    }
    Err(summary(dial.endpoints, failures))
}

/// How to wait for a booting guest.
pub(crate) struct Waiting<'a> {
    /// The longest a single dial may ever hang.
    pub(crate) limit: Duration,
    /// What the endpoints said last, for whoever loses patience.
    pub(crate) last_words: &'a Mutex<Option<String>>,
}

/// Dials again and again until an agent answers. Ends by itself only then, or when waiting cannot
/// help; the caller brings the deadline.
pub(crate) async fn until_ready(
    dial: Dial<'_>,
    waiting: Waiting<'_>,
) -> Result<Winner, AgentError> {
    let mut dials = FuturesUnordered::new();
    let began = Instant::now();
    let mut next = began;
    loop {
        let may_dial = dials.len() < MAX_DIALS;
        tokio::select! {
            Some(outcome) = dials.next() => match outcome {
                Ok(Ok(winner)) => return Ok(preferred(dial, winner, began.elapsed()).await),
                Ok(Err(DialError::Final(error))) => return Err(error),
                Ok(Err(DialError::NotYet(words))) => {
                    *waiting.last_words.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
                    next = next.min(Instant::now() + Rhythm::at(began.elapsed()).after_failure);
                }
                // It hung and was given up; others have been begun since.
                Err(_) => {}
            },
            () = tokio::time::sleep_until(next), if may_dial => {
                let rhythm = Rhythm::at(began.elapsed());
                let limit = rhythm.limit.min(waiting.limit);
                dials.push(tokio::time::timeout(limit, race(dial)));
                next = Instant::now() + rhythm.while_hanging;
            }
        }
    }
}

/// The winner, unless the endpoint that goes before it answers now as well. A forwarded port's dial may
/// have hung since long before the guest was up, and is answered as soon as it is; a vsock is only found
/// by the next dial. It is waited for a fiftieth of the boot at most, and not at all where it is refused.
async fn preferred(dial: Dial<'_>, winner: Winner, waited: Duration) -> Winner {
    let before = dial.order.first().copied().filter(|first| *first != winner.index);
    let Some(before) = before else { return winner };
    let chance = (waited / 50).clamp(HEAD_START, LONGEST_CHANCE);
    match tokio::time::timeout(chance, attempt(dial, before)).await {
        Ok(Ok(better)) => better,
        Ok(Err(_)) | Err(_) => winner,
    }
}

/// When to dial again, and for how long, after having waited some time.
///
/// A forwarded port is accepted on the host long before its guest answers, and what was sent too
/// early may never arrive. So while one dial hangs others are begun. All times grow with the time
/// waited: a guest is noticed about a fiftieth of its boot late, a slow one gets the time it needs to
/// answer, and about six dials hang at once, whatever the time: each that reaches a guest just up
/// costs it the work of an answer.
struct Rhythm {
    /// From a failed dial to the next.
    after_failure: Duration,
    /// From a dial that hangs to the next beside it.
    while_hanging: Duration,
    /// How long a dial may hang.
    limit: Duration,
}

impl Rhythm {
    fn at(waited: Duration) -> Self {
        let millis = Duration::from_millis;
        Self {
            after_failure: (waited / 50).clamp(millis(5), millis(50)),
            while_hanging: (waited / 50).clamp(millis(10), millis(250)),
            limit: (waited / 8).max(millis(250)),
        }
    }
}

enum Failure {
    Io(String),
    Agent(AgentError),
}

fn summary(endpoints: &[Endpoint], failures: Vec<(usize, Failure)>) -> DialError {
    let mut texts = Vec::new();
    for (index, failure) in failures {
        match failure {
            Failure::Io(text) => texts.push(format!("{}: {text}", endpoints[index])),
            Failure::Agent(
                error @ (AgentError::Unauthorized { .. } | AgentError::Incompatible { .. }),
            ) => return DialError::Final(error),
            Failure::Agent(error) => texts.push(format!("{}: {error}", endpoints[index])),
        }
    }
    if texts.is_empty() {
        texts.push("no endpoint was given".to_owned());
    }
    DialError::NotYet(texts.join("; "))
}

async fn attempt(dial: Dial<'_>, index: usize) -> Result<Winner, (usize, Failure)> {
    let endpoint = &dial.endpoints[index];
    let connection =
        open(endpoint, dial.silence).await.map_err(|text| (index, Failure::Io(text)))?;
    let hello = connection.hello().await.map_err(|error| (index, Failure::Agent(error)))?;
    Ok(Winner { index, connection, hello })
}

async fn open(endpoint: &Endpoint, silence: Duration) -> Result<Connection, String> {
    let (name, transport) = (endpoint.to_string(), endpoint.transport());
    let opened = match endpoint {
        Endpoint::Unix { path } => {
            let socket = UnixStream::connect(path).await.map_err(|e| e.to_string())?;
            Connection::open(socket, transport, name, None, silence).await
        }
        Endpoint::Vsock { uds, port } => {
            let socket = connect_vsock(uds, *port).await.map_err(|e| e.to_string())?;
            Connection::open(socket, transport, name, None, silence).await
        }
        Endpoint::Tcp { addr, token } => {
            let socket = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
            socket.set_nodelay(true).map_err(|e| e.to_string())?;
            Connection::open(socket, transport, name, Some(token), silence).await
        }
    };
    opened.map_err(|error| error.to_string())
}

/// Asks for a guest port, and hears the answer even when the dial is given up meanwhile: the helper of
/// QEMU's vsock writes it without a thought of callers that have gone, and dies of the broken pipe, and
/// with it the guest's vsock (vhost-device-vsock 0.3, `VsockConnection::send_pkt`).
async fn connect_vsock(uds: &Path, port: u32) -> io::Result<UnixStream> {
    let uds = uds.to_owned();
    // It ends by itself: with the answer, with the VMM, or with its time.
    let asked =
        tokio::spawn(tokio::time::timeout(MAX_ASKING, async move { ask_vsock(&uds, port).await }));
    match asked.await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) => Err(io::ErrorKind::TimedOut.into()),
        Err(failed) => Err(io::Error::other(failed)),
    }
}

/// Asks a VMM's vsock socket for a guest port. Without a listener in the guest the VMM just closes.
async fn ask_vsock(uds: &Path, port: u32) -> io::Result<UnixStream> {
    let mut socket = UnixStream::connect(uds).await?;
    socket.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(MAX_CONNECT_ANSWER);
    // Byte by byte: what follows the line belongs to the session.
    loop {
        match socket.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) if answer.len() < MAX_CONNECT_ANSWER => answer.push(byte),
            Ok(_) => return Err(refused(port, &answer)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(refused(port, &answer));
            }
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(b"OK ") { Ok(socket) } else { Err(refused(port, &answer)) }
}

fn refused(port: u32, answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer);
    io::Error::new(
        io::ErrorKind::ConnectionRefused,
        format!("guest port {port} is not open (answer `{text}`)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_dial_that_is_given_up_still_hears_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let uds = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&uds).unwrap();
        let dial = tokio::time::timeout(Duration::from_millis(20), connect_vsock(&uds, 9999));
        let (dialled, accepted) = tokio::join!(dial, listener.accept());
        assert!(dialled.is_err(), "nobody has answered it");
        let (mut socket, _) = accepted.unwrap();

        let mut asked = [0; 13];
        socket.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"CONNECT 9999\n");
        socket.write_all(b"OK 9999\n").await.unwrap();
        // Answered, it is closed, as nobody wants it.
        assert_eq!(socket.read(&mut asked).await.unwrap(), 0);
    }
}
