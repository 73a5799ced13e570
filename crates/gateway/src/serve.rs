//! The listener: accepts connections, bounds them, and ends them in order.
//!
//! Every connection is a task of the gateway's tracker, and [`serve`] returns only when all have
//! ended. HTTP/1.1 only: WebSockets need it, and what terminates TLS in front speaks it.

use crate::{Gateway, chores, router::router, stall::StallGuard, sweep, webhooks};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// The largest request head, in bytes, give or take one read; beyond it the answer is a bare 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// After an accept that failed for want of file descriptors: they come back when others close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `gateway` on `listener` until `shutdown`, then lets requests in flight finish within the
/// configured grace. Event streams and WebSockets are ended at once; clients resume elsewhere.
///
/// # Errors
/// If the listener's address cannot be read; nothing has been served then.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "the gateway listens");
    gateway.tasks().spawn(webhooks::run(gateway.clone()));
    gateway.tasks().spawn(chores::run(gateway.clone()));
    gateway.tasks().spawn(sweep::keep(gateway.clone()));
    let router = router(gateway.clone());
    let slots = Arc::new(Semaphore::new(gateway.config().max_connections));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(stream, gateway.clone(), router.clone());
                    gateway.tasks().spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    tracing::info!("the gateway stops");
    gateway.stop().await;
    Ok(())
}

async fn connection(stream: TcpStream, gateway: Gateway, router: axum::Router) {
    // Answers are small and whole: waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let config = gateway.config();
    let io = TokioIo::new(StallGuard::new(stream, config.write_stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(io, TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = gateway.stopping().cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(config.shutdown_grace, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("a request outlived the shutdown's grace and was cut off");
                    Ok(())
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
