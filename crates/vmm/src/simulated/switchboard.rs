//! The one socket over which all modelled guests are reached.
//!
//! It answers as Firecracker's vsock does: `CONNECT <port>\n` is answered by `OK <n>\n` where an agent
//! listens, and else the connection just closes. The port is the guest's number.

use super::guest::Guest;
use crate::{VmmError, spawn::check_socket_path, supervise::remove_if_there};
use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// How long a caller may take to say whom it wants.
const ASKING: Duration = Duration::from_secs(5);
/// The longest such line, in bytes.
const MAX_LINE: usize = 32;
/// How long nobody is let in when there are no more file descriptors.
const FULL: Duration = Duration::from_millis(20);

type Guests = Arc<Mutex<HashMap<u32, Weak<Guest>>>>;

/// The socket, and who is behind it. Closed when dropped.
pub(super) struct Switchboard {
    guests: Guests,
    next: AtomicU32,
    serving: JoinHandle<()>,
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        // With it go the connections that it holds.
        self.serving.abort();
    }
}

impl Switchboard {
    pub(super) fn open(socket: &Path) -> Result<Self, VmmError> {
        check_socket_path(socket)?;
        remove_if_there(socket)?;
        let listener = UnixListener::bind(socket).map_err(VmmError::io("listen on", socket))?;
        let guests = Guests::default();
        let serving = tokio::spawn(serve(listener, Arc::clone(&guests)));
        Ok(Self { guests, next: AtomicU32::new(1), serving })
    }

    /// The number of the next guest.
    pub(super) fn next_number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets a guest be reached for as long as somebody has it.
    pub(super) fn enter(&self, number: u32, guest: &Arc<Guest>) {
        let mut guests = lock(&self.guests);
        // Now and then those that have gone are forgotten, so that there are never twice as many.
        if guests.len() == guests.capacity() {
            guests.retain(|_, guest| guest.strong_count() > 0);
        }
        guests.insert(number, Arc::downgrade(guest));
    }
}

fn lock(guests: &Guests) -> std::sync::MutexGuard<'_, HashMap<u32, Weak<Guest>>> {
    // Each use is one operation, which a panic elsewhere cannot leave half done.
    guests.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: UnixListener, guests: Guests) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(calls.spawn(call(socket, Arc::clone(&guests)))),
                Err(error) => {
                    tracing::warn!(%error, "a modelled guest could not be reached");
                    sleep(FULL).await;
                }
            },
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn call(mut socket: UnixStream, guests: Guests) {
    let Ok(Some(number)) = timeout(ASKING, asked_for(&mut socket)).await else { return };
    let Some(guest) = lock(&guests).get(&number).and_then(Weak::upgrade) else { return };
    if guest.listens() && socket.write_all(format!("OK {number}\n").as_bytes()).await.is_ok() {
        guest.serve(socket).await;
    }
}

/// Reads the line; what follows it is the session's.
async fn asked_for(socket: &mut UnixStream) -> Option<u32> {
    let mut line = Vec::with_capacity(MAX_LINE);
    while line.len() < MAX_LINE {
        match socket.read_u8().await.ok()? {
            b'\n' => {
                let line = std::str::from_utf8(&line).ok()?;
                return line.strip_prefix("CONNECT ")?.parse().ok();
            }
            byte => line.push(byte),
        }
    }
    None
}
