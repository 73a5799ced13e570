//! Stands on the fleet's network for a server that listens on the loopback.

use crate::error::Error;
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

/// Connections at once, past all that the fleet can want.
const MOST: usize = 512;

/// Passes bytes on until it is dropped.
pub(crate) struct Relay {
    port: u16,
    listening: JoinHandle<()>,
}

impl Relay {
    /// Listens at `hub` on a free port, for what listens on this port of the loopback.
    pub(crate) async fn start(hub: IpAddr, to: u16) -> Result<Self, Error> {
        let bound = TcpListener::bind((hub, 0)).await;
        let listener = bound.map_err(Error::io("listen", hub))?;
        let port = listener.local_addr().map_err(Error::io("listen", hub))?.port();
        Ok(Self { port, listening: tokio::spawn(accept(listener, to)) })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn accept(listener: TcpListener, to: u16) {
    let room = Arc::new(Semaphore::new(MOST));
    // They end with their connections, and with this.
    let mut passing = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                passing.spawn(async move {
                    // A connection that breaks is what a run is made for.
                    let _ = pass(stream, to).await;
                    drop(permit);
                });
            }
            Err(error) => eprintln!("relay: {error}"),
        }
        while passing.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, to: u16) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
