//! Webhooks: each event becomes one delivery, in one sender's hands at a time.

use crate::support::*;
use aetherium_model::{
    Timestamp, WebhookId, WorkerId,
    event::{EventFilter, EventType},
    page::PageRequest,
    task::TaskKind,
    webhook::{
        Delivery, DeliveryState, MAX_FAILURES, Refusal, Verdict, Webhook, WebhookSecret,
        WebhookState,
    },
};
use aetherium_store::{Attempt, ChangeWebhook, Store, StoreError};
use std::{collections::HashSet, time::Duration};

async fn webhook(store: &Store, types: &[EventType]) -> Webhook {
    let webhook = Webhook {
        id: WebhookId::new(),
        url: "https://example.com/hook".into(),
        filter: EventFilter { types: types.to_vec(), ..EventFilter::default() },
        state: WebhookState::Active,
        reached: 0,
        failures: 0,
        created_at: at(0),
        updated_at: at(0),
    };
    store.create_webhook(&webhook, &WebhookSecret::of([1; 32])).await.unwrap()
}

async fn happen(store: &Store, times: usize) {
    let worker = WorkerId::new();
    for _ in 0..times {
        let vm = vm(worker, None);
        let create = task(worker, TaskKind::VmCreate { vm_id: vm.id });
        store.create_vm(&vm, &create, None).await.unwrap();
    }
}

async fn spread(store: &Store, webhook: &Webhook) {
    while store.spread_events(webhook.id, at(10)).await.unwrap() {}
}

async fn deliveries(store: &Store, webhook: &Webhook) -> Vec<Delivery> {
    store.deliveries(webhook.id, &PageRequest { limit: 200, after: None }).await.unwrap().items
}

async fn one(store: &Store, webhook: &Webhook, now: Timestamp) -> Option<Attempt> {
    store
        .claim_deliveries(webhook, now, now.after(Duration::from_millis(50)), 1)
        .await
        .unwrap()
        .pop()
}

fn refusal() -> Refusal {
    Refusal { status: Some(500), detail: "it answered 500".into() }
}

async fn each_event_from_then_on_becomes_one_delivery_however_many_spread(engine: Engine) {
    let db = Db::fresh(engine).await;
    happen(&db.store, 2).await;
    let webhook = webhook(&db.store, &[EventType::VmCreating]).await;
    assert_eq!(webhook.reached, 4);
    happen(&db.store, 30).await;
    let mut spreaders = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, webhook) = (db.reopened().await, webhook.clone());
        spreaders.spawn(async move { spread(&store, &webhook).await });
    }
    spreaders.join_all().await;
    let made = deliveries(&db.store, &webhook).await;
    let events: HashSet<i64> = made.iter().map(|delivery| delivery.event.seq).collect();
    assert_eq!((made.len(), events.len()), (30, 30));
    assert!(made.iter().all(|delivery| delivery.event.kind == EventType::VmCreating));
    assert_eq!(db.store.webhook(webhook.id).await.unwrap().reached, 64);
}

async fn a_delivery_is_in_one_senders_hands_until_its_lease_ends(engine: Engine) {
    let db = Db::fresh(engine).await;
    let webhook = webhook(&db.store, &[EventType::VmCreating]).await;
    happen(&db.store, 20).await;
    spread(&db.store, &webhook).await;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, webhook) = (db.reopened().await, webhook.clone());
        senders.spawn(async move {
            store.claim_deliveries(&webhook, at(10), at(60), 20).await.unwrap()
        });
    }
    let claims: Vec<Attempt> = senders.join_all().await.into_iter().flatten().collect();
    let ids: HashSet<_> = claims.iter().map(|claim| claim.delivery.id).collect();
    assert_eq!((claims.len(), ids.len()), (20, 20), "one was handed out twice, or not at all");
    assert_eq!(one(&db.store, &webhook, at(59)).await, None);

    // Its sender was killed: it is handed out again, and the first claim is worth nothing.
    let again = one(&db.store, &webhook, at(60)).await.unwrap();
    assert_eq!(again.delivery.attempts, 2);
    let lost = claims.iter().find(|claim| claim.delivery.id == again.delivery.id).unwrap();
    db.store.finish_attempt(lost, &Verdict::Dead(refusal()), at(61)).await.unwrap();
    db.store.finish_attempt(&again, &Verdict::Delivered, at(62)).await.unwrap();
    let kept = deliveries(&db.store, &webhook).await;
    let kept = kept.iter().find(|delivery| delivery.id == again.delivery.id).unwrap();
    assert_eq!((kept.state, kept.finished_at), (DeliveryState::Delivered, Some(at(62))));
}

async fn a_refused_delivery_waits_and_a_finished_one_can_be_sent_again(engine: Engine) {
    let db = Db::fresh(engine).await;
    let webhook = webhook(&db.store, &[EventType::VmCreating]).await;
    happen(&db.store, 1).await;
    spread(&db.store, &webhook).await;
    let first = one(&db.store, &webhook, at(10)).await.unwrap();
    let later = Verdict::Again(Duration::from_millis(90), refusal());
    db.store.finish_attempt(&first, &later, at(10)).await.unwrap();
    assert_eq!(one(&db.store, &webhook, at(99)).await, None);
    let second = one(&db.store, &webhook, at(100)).await.unwrap();
    assert_eq!(second.delivery.refusal, Some(refusal()));
    db.store.finish_attempt(&second, &Verdict::Dead(refusal()), at(100)).await.unwrap();
    assert_eq!(db.store.webhook(webhook.id).await.unwrap().failures, 1);
    assert_eq!(one(&db.store, &webhook, far()).await, None);

    let id = second.delivery.id;
    let stranger = db.store.redeliver(WebhookId::new(), id, at(200)).await.unwrap_err();
    assert!(matches!(stranger, StoreError::NotFound { .. }), "{stranger:?}");
    let again = db.store.redeliver(webhook.id, id, at(200)).await.unwrap();
    assert_eq!((again.state, again.attempts), (DeliveryState::Pending, 0));
    let third = one(&db.store, &webhook, at(200)).await.unwrap();
    assert_eq!(third.delivery.id, id);
    db.store.finish_attempt(&third, &Verdict::Delivered, at(201)).await.unwrap();
    assert_eq!(db.store.webhook(webhook.id).await.unwrap().failures, 0);
}

async fn a_webhook_that_fails_too_often_is_disabled_and_goes_on_where_it_was_left(engine: Engine) {
    let db = Db::fresh(engine).await;
    let webhook = webhook(&db.store, &[EventType::VmCreating]).await;
    happen(&db.store, MAX_FAILURES as usize + 2).await;
    spread(&db.store, &webhook).await;
    for _ in 0..MAX_FAILURES {
        let attempt = one(&db.store, &webhook, at(10)).await.unwrap();
        db.store.finish_attempt(&attempt, &Verdict::Dead(refusal()), at(10)).await.unwrap();
    }
    let disabled = db.store.webhook(webhook.id).await.unwrap();
    assert!(
        matches!(&disabled.state, WebhookState::Disabled { reason } if reason.contains("500")),
        "{disabled:?}"
    );
    assert_eq!(db.store.active_webhooks().await.unwrap(), []);
    happen(&db.store, 1).await;
    assert!(!db.store.spread_events(webhook.id, at(10)).await.unwrap());

    let active = ChangeWebhook { active: Some(true), ..ChangeWebhook::default() };
    let webhook = db.store.change_webhook(webhook.id, &active, at(20)).await.unwrap();
    assert_eq!((&webhook.state, webhook.failures), (&WebhookState::Active, 0));
    spread(&db.store, &webhook).await;
    let pending = deliveries(&db.store, &webhook).await;
    let pending = pending.iter().filter(|it| it.state == DeliveryState::Pending).count();
    assert_eq!(pending, 3);
}

async fn what_happens_while_a_webhook_is_paused_it_is_never_told(engine: Engine) {
    let db = Db::fresh(engine).await;
    let webhook = webhook(&db.store, &[]).await;
    let change = |active| ChangeWebhook { active: Some(active), ..ChangeWebhook::default() };
    db.store.change_webhook(webhook.id, &change(false), at(1)).await.unwrap();
    happen(&db.store, 2).await;
    let webhook = db.store.change_webhook(webhook.id, &change(true), at(2)).await.unwrap();
    assert_eq!(webhook.reached, 4);
    happen(&db.store, 1).await;
    spread(&db.store, &webhook).await;
    assert_eq!(deliveries(&db.store, &webhook).await.len(), 2);
    db.store.delete_webhook(webhook.id).await.unwrap();
    assert_eq!(deliveries(&db.store, &webhook).await, []);
}

async fn a_secret_is_kept_and_old_deliveries_are_not(engine: Engine) {
    let db = Db::fresh(engine).await;
    let webhook = webhook(&db.store, &[]).await;
    let kept = db.store.webhook_secret(webhook.id).await.unwrap();
    assert_eq!(kept, WebhookSecret::of([1; 32]));
    happen(&db.store, 1).await;
    spread(&db.store, &webhook).await;
    let attempt = one(&db.store, &webhook, at(10)).await.unwrap();
    db.store.finish_attempt(&attempt, &Verdict::Delivered, at(11)).await.unwrap();
    let week = 7 * 24 * 3600 * 1000;
    assert_eq!(db.store.prune_deliveries(at(week + 11)).await.unwrap(), 0);
    assert_eq!(db.store.prune_deliveries(at(week + 12)).await.unwrap(), 1);
    assert_eq!(deliveries(&db.store, &webhook).await.len(), 1, "one still waits");
}

on_both_engines! {
    each_event_from_then_on_becomes_one_delivery_however_many_spread
    a_delivery_is_in_one_senders_hands_until_its_lease_ends
    a_refused_delivery_waits_and_a_finished_one_can_be_sent_again
    a_webhook_that_fails_too_often_is_disabled_and_goes_on_where_it_was_left
    what_happens_while_a_webhook_is_paused_it_is_never_told
    a_secret_is_kept_and_old_deliveries_are_not
}
