//! WebSockets: the upgrade is asked of the worker, and then bytes pass both ways unread.
//!
//! The gateway never looks into a frame, so client and worker keep their own limits and flow
//! control: a slow reader on one side stalls the writer on the other, through two small buffers.

use crate::{Error, Gateway, edge::RequestId};
use aetherium_model::worker::Worker;
use axum::{extract::Request, response::Response};
use http::{HeaderMap, HeaderName, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, copy, split};

/// What of a client's request goes to the worker: the handshake (RFC 6455, section 4.1), no keys.
const FORWARDED: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];
/// After one side has ended, what the other may still say.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the client's side may take to switch after our 101.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Joins the client's connection with one to `path` of `worker`.
pub(crate) async fn join(
    gateway: &Gateway,
    worker: &Worker,
    path: &str,
    mut request: Request,
) -> Result<Response, Error> {
    let permit = gateway.stream_permit()?;
    let client = client_side(&mut request)?;
    let answer = gateway.workers().upgrade(worker, path, handshake(&request)).await?;

    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT]
        .into_iter()
        .chain([header::SEC_WEBSOCKET_PROTOCOL, header::SEC_WEBSOCKET_EXTENSIONS])
    {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let server = hyper::upgrade::on(answer);
    let stopping = gateway.stopping().clone();
    gateway.tasks().spawn(async move {
        stopping.run_until_cancelled(switch_and_carry(client, server)).await;
        drop(permit);
    });
    Ok(response)
}

async fn switch_and_carry(client: OnUpgrade, server: OnUpgrade) {
    let both = async { tokio::try_join!(client, server) };
    match tokio::time::timeout(SWITCH_TIMEOUT, both).await {
        Ok(Ok((client, server))) => carry(client, server).await,
        Ok(Err(error)) => tracing::debug!(%error, "a WebSocket was not switched"),
        Err(_) => tracing::debug!("a WebSocket was not switched in time"),
    }
}

fn client_side(request: &mut Request) -> Result<OnUpgrade, Error> {
    let headers = request.headers();
    let is_websocket = headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.contains_key(header::SEC_WEBSOCKET_KEY);
    if !is_websocket {
        return Err(Error::field("Upgrade", "this route speaks WebSocket only"));
    }
    request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| Error::field("Upgrade", "the connection cannot be upgraded: use HTTP/1.1"))
}

fn handshake(request: &Request) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in FORWARDED {
        if let Some(value) = request.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(RequestId(id)) = request.extensions().get() {
        headers.insert(crate::edge::REQUEST_ID, id.clone());
    }
    headers
}

/// Carries bytes both ways until both sides have ended, or one has and the other keeps silent.
async fn carry(client: Upgraded, server: Upgraded) {
    let (client_read, client_write) = split(TokioIo::new(client));
    let (server_read, server_write) = split(TokioIo::new(server));
    let up = one_way(client_read, server_write);
    let down = one_way(server_read, client_write);
    tokio::pin!(up, down);
    let ended = tokio::select! {
        ended = &mut up => ended.and(last_words(down).await),
        ended = &mut down => ended.and(last_words(up).await),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a WebSocket broke");
    }
}

async fn last_words(way: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(LAST_WORDS, way).await.unwrap_or(Ok(()))
}

async fn one_way(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
) -> io::Result<()> {
    let copied = copy(&mut from, &mut to).await;
    to.shutdown().await?;
    copied.map(drop)
}
