//! The internal API over a network: the same routes, for requests that show a pass.
//!
//! A pass is looked at before anything else of a request. See [`aetherium_model::pass`].

use crate::{api, host::Host};
use aetherium_model::{
    Code, Fault,
    pass::{Asked, FleetKey},
};
use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where gateways on other machines reach this worker.
pub struct Remote {
    /// Where it listens.
    pub listener: TcpListener,
    /// The host and port under which gateways find it.
    pub address: String,
    /// What they prove to know.
    pub key: FleetKey,
}

impl Remote {
    /// The address for the registry of workers.
    pub(crate) fn registered(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Serves until `shutdown`, then lets requests under way finish.
pub(crate) async fn serve(host: Arc<Host>, remote: Remote, shutdown: CancellationToken) {
    let admission = Arc::new(Admission { host: Arc::clone(&host), key: remote.key });
    let router = api::router(host).layer(middleware::from_fn_with_state(admission, admit));
    let served =
        axum::serve(remote.listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the internal API ended");
    }
}

struct Admission {
    host: Arc<Host>,
    key: FleetKey,
}

async fn admit(State(it): State<Arc<Admission>>, request: Request, next: Next) -> Response {
    let path = request.uri().path_and_query().map_or("", |it| it.as_str());
    let asked = Asked { worker: it.host.id, method: request.method().as_str(), path };
    let pass = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Pass "));
    let refused = match pass.map(|pass| it.key.admit(pass, asked, it.host.now())) {
        Some(Ok(())) => return next.run(request).await,
        Some(Err(why)) => why.to_string(),
        None => "the request carries no pass".to_owned(),
    };
    tracing::warn!(worker = %it.host.id, refused, "a request to the internal API was turned away");
    let fault = Fault::new(Code::Unauthorized, refused)
        .remedy("give gateway and worker the same fleet key, and ask through the gateway");
    (StatusCode::UNAUTHORIZED, Json(fault)).into_response()
}
