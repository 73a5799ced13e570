//! The operations listener of a role: bound before anything is started, served once there is something
//! to watch, and ended last.

use crate::error::{CliError, local};
use aetherium_telemetry::{Operations, Process};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A listener that answers nobody yet.
pub(crate) struct Bound(TcpListener);

/// A listener that answers.
pub(crate) struct Serving {
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Bound {
    pub(crate) async fn at(address: SocketAddr) -> Result<Self, CliError> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            local(format!("cannot listen on {address}"), error)
                .remedy("choose another address with --operations-listen")
        })?;
        let address =
            listener.local_addr().map_err(|error| local("the listener's address", error))?;
        tracing::info!(%address, "operations: /metrics, /health and /ready");
        Ok(Self(listener))
    }

    /// Serves what `watch` adds to the process itself.
    pub(crate) fn serve(
        self,
        role: &'static str,
        watch: impl FnOnce(Operations) -> Operations,
    ) -> Serving {
        let operations = watch(Operations::default().watch(Process::new(role)));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(operations.serve(self.0, stop.clone()));
        Serving { stop, serving: AbortOnDropHandle::new(serving) }
    }
}

impl Serving {
    /// Answers what it was asked, and ends.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the operations listener did not end well");
        }
    }
}
