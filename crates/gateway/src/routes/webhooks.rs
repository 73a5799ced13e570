//! Webhooks: addresses that are told of events, and the record of telling them.

use crate::{
    Error, Gateway,
    api::{ChangeWebhook, CreateWebhook, CreatedWebhook, ListQuery},
    extract::{At, Json, Query, page},
    gateway::now,
    webhooks::Guard,
};
use aetherium_model::{
    DeliveryId, WebhookId,
    page::Page,
    webhook::{Delivery, Webhook, WebhookSecret, WebhookState},
};
use axum::extract::State;
use http::StatusCode;

/// Create a webhook
///
/// It is told of every event from now on that meets its filter: a POST with the event as JSON, signed in
/// the header `Aetherium-Signature: t=TIME,v1=HMAC` with the HMAC-SHA256, in hexadecimal, of `TIME.BODY`.
/// The secret is in this answer and in no other.
#[utoipa::path(
    post, path = "/api/v1/webhooks", tag = "webhooks", request_body = CreateWebhook,
    responses((status = 201, body = CreatedWebhook))
)]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    Json(body): Json<CreateWebhook>,
) -> Result<(StatusCode, axum::Json<CreatedWebhook>), Error> {
    check(&gateway, &body.url)?;
    let (now, secret) = (now(), WebhookSecret::of(rand::random()));
    let webhook = Webhook {
        id: WebhookId::new(),
        url: body.url,
        filter: body.filter,
        state: if body.active { WebhookState::Active } else { WebhookState::Paused },
        reached: 0,
        failures: 0,
        created_at: now,
        updated_at: now,
    };
    let webhook = gateway.store().create_webhook(&webhook, &secret).await?;
    let secret = secret.reveal().to_owned();
    Ok((StatusCode::CREATED, axum::Json(CreatedWebhook { webhook, secret })))
}

/// List webhooks
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/webhooks", tag = "webhooks", params(ListQuery),
    responses((status = 200, body = Page<Webhook>))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Webhook>>, Error> {
    let page = page(query.limit, query.cursor)?;
    Ok(axum::Json(gateway.store().webhooks(&page).await?))
}

/// Get a webhook
#[utoipa::path(
    get, path = "/api/v1/webhooks/{webhook}", tag = "webhooks",
    params(("webhook" = WebhookId, Path, description = "The webhook's id.")),
    responses((status = 200, body = Webhook))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    At(id): At<WebhookId>,
) -> Result<axum::Json<Webhook>, Error> {
    Ok(axum::Json(gateway.store().webhook(id).await?))
}

/// Change a webhook
///
/// What is absent stays. Deliveries that wait go to the new address.
#[utoipa::path(
    patch, path = "/api/v1/webhooks/{webhook}", tag = "webhooks", request_body = ChangeWebhook,
    params(("webhook" = WebhookId, Path, description = "The webhook's id.")),
    responses((status = 200, body = Webhook))
)]
pub(crate) async fn change(
    State(gateway): State<Gateway>,
    At(id): At<WebhookId>,
    Json(body): Json<ChangeWebhook>,
) -> Result<axum::Json<Webhook>, Error> {
    if let Some(url) = &body.url {
        check(&gateway, url)?;
    }
    let ChangeWebhook { url, filter, active } = body;
    let change = aetherium_store::ChangeWebhook { url, filter, active };
    Ok(axum::Json(gateway.store().change_webhook(id, &change, now()).await?))
}

/// Delete a webhook
///
/// With its deliveries; those that wait are not sent.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/{webhook}", tag = "webhooks",
    params(("webhook" = WebhookId, Path, description = "The webhook's id.")),
    responses((status = 204, description = "It is gone."))
)]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    At(id): At<WebhookId>,
) -> Result<StatusCode, Error> {
    gateway.store().delete_webhook(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List a webhook's deliveries
///
/// Newest first: what was sent, how often it was tried and how that ended. Finished ones are kept for a
/// week.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("webhook" = WebhookId, Path, description = "The webhook's id."), ListQuery),
    responses((status = 200, body = Page<Delivery>))
)]
pub(crate) async fn deliveries(
    State(gateway): State<Gateway>,
    At(id): At<WebhookId>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Page<Delivery>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let webhook = gateway.store().webhook(id).await?;
    Ok(axum::Json(gateway.store().deliveries(webhook.id, &page).await?))
}

/// Send a delivery again
///
/// Under the same id, with as many tries as a new one. One that is still pending stays as it is.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver", tag = "webhooks",
    params(
        ("webhook" = WebhookId, Path, description = "The webhook's id."),
        ("delivery" = DeliveryId, Path, description = "The delivery's id."),
    ),
    responses((status = 202, body = Delivery))
)]
pub(crate) async fn redeliver(
    State(gateway): State<Gateway>,
    At(webhook): At<WebhookId>,
    At(id): At<DeliveryId>,
) -> Result<(StatusCode, axum::Json<Delivery>), Error> {
    let delivery = gateway.store().redeliver(webhook, id, now()).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(delivery)))
}

fn check(gateway: &Gateway, url: &str) -> Result<(), Error> {
    let guard = Guard { allow_private: gateway.config().webhooks.allow_private };
    guard.check(url).map(drop).map_err(|refused| Error::field("url", refused))
}
