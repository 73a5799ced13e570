//! Listening: sockets in, protocols told apart by their first byte.
//!
//! ```text
//! accept ──► pending (≤ 64, 5 s) ──first byte──► `{` line protocol
//!                                            └─► RPC over HTTP/2
//! ```
//!
//! Owns every connection and the limits on them. A connection is pending until it has shown what it
//! wants and, over TCP, proven the token; the oldest pending one gives way to a new one, so a flood
//! of silent callers cannot lock out the host.

mod agent;
mod limits;
mod line;
mod listener;
mod rpc;
mod socket;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use aetherium_agent_proto::AgentTransport;
use tokio::task::JoinSet;

pub(crate) use agent::{Agent, Doors, Identity};
pub(crate) use listener::{Listener, vsock_is_there};

use limits::Admission;
use socket::Socket;

/// How long a caller may take to say what it wants and who it is.
const PROOF_DEADLINE: Duration = Duration::from_secs(5);
/// How long to pause when the guest has no descriptor left to accept with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One accepted connection on its way to a protocol.
struct Caller {
    socket: Socket,
    admission: Admission,
    /// The token must be proven.
    must_prove: bool,
}

/// Accepts until the agent ends, then waits for the connections to finish.
pub(crate) async fn accept_forever(listener: Arc<Listener>, agent: Arc<Agent>) {
    let mut connections = JoinSet::new();
    let must_prove = listener.transport() == AgentTransport::Tcp;
    let mut doors = agent.doors();
    loop {
        let now = *doors.borrow_and_update();
        if now == Doors::Closed {
            break;
        }
        tokio::select! {
            _ = doors.changed() => {}
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if now == Doors::Open => match accepted {
                Ok(socket) => {
                    let Some(admission) = agent.limits().admit() else { continue };
                    let (pending, agent) = (admission.pending(), agent.clone());
                    let task = connections.spawn(async move {
                        serve(Caller { socket, admission, must_prove }, agent).await;
                    });
                    pending.can_be_ended_by(task);
                }
                // A caller that hung up is no news; without descriptors a pause frees some.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(mut caller: Caller, agent: Arc<Agent>) {
    let first = tokio::time::timeout(PROOF_DEADLINE, caller.socket.first_byte());
    let mut doors = agent.doors();
    let first = tokio::select! {
        first = first => first,
        _ = doors.wait_for(|doors| *doors != Doors::Open) => return,
    };
    // Whoever says nothing, or leaves, is owed nothing.
    let Ok(Ok(Some(first))) = first else { return };
    if first == aetherium_agent_proto::line::FIRST_BYTE {
        line::serve(caller, agent).await;
    } else {
        rpc::serve(caller, agent).await;
    }
}
