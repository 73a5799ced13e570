//! Webhooks: receivers that are slow, refuse, break and come back, and gateways that are killed while
//! they send.

use crate::server::{KEY, LONG, Server, creating_vm, now, secrets_keys, task};
use aetherium_gateway::{
    ApiKeys, Gateway, GatewayConfig, WebhookPolicy, api::CreatedWebhook, serve,
};
use aetherium_model::{
    Timestamp, WebhookId, WorkerId,
    event::{EventFilter, EventType},
    page::{Page, PageRequest},
    task::TaskKind,
    webhook::{Backoff, Delivery, DeliveryState, Webhook, WebhookSecret, WebhookState},
};
use aetherium_queue::{Bus, Queue};
use aetherium_store::{DatabaseUrl, Store};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// What a receiver does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    Breaks,
    /// It says nothing until its mood changes.
    Hangs,
    Redirects,
    Gone,
    /// It takes it, with an answer that never ends.
    Rambles,
}

/// A try, as the receiver sees it.
#[derive(Debug, Clone)]
struct Seen {
    delivery: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Self { address, mood: watch::channel(mood).0, seen: Arc::default() };
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn saw(&self, tries: usize) -> Vec<Seen> {
        until(async || self.seen().len() >= tries).await;
        self.seen()
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let delivery = headers["aetherium-delivery"].to_str().unwrap().to_owned();
    receiver.seen.lock().unwrap().push(Seen { delivery, headers, body });
    let mut mood = receiver.mood.subscribe();
    let decided = *mood.wait_for(|mood| *mood != Mood::Hangs).await.unwrap();
    match decided {
        Mood::Takes | Mood::Hangs => StatusCode::NO_CONTENT.into_response(),
        Mood::Breaks => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Redirects => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response()
        }
        Mood::Gone => StatusCode::GONE.into_response(),
        Mood::Rambles => {
            let endless =
                futures::stream::repeat_with(|| Ok::<_, std::io::Error>("bla".repeat(999)));
            Body::from_stream(endless).into_response()
        }
    }
}

/// Waits for what must come to pass.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it never came to pass");
}

/// Quick enough to be watched.
fn quick() -> WebhookPolicy {
    WebhookPolicy {
        allow_private: true,
        timeout: Duration::from_millis(400),
        lease: Duration::from_millis(1500),
        backoff: Backoff { first: Duration::from_millis(50), longest: Duration::from_millis(100) },
    }
}

async fn start(policy: WebhookPolicy) -> Server {
    Server::start_with(|config| config.webhooks = policy, |store| store).await
}

async fn create(server: &Server, receiver: &Receiver) -> CreatedWebhook {
    let body = json!({
        "url": format!("http://{}/hook", receiver.address),
        "filter": {"types": ["vm.creating"]},
    });
    let created = server.post("/api/v1/webhooks", &body.to_string()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    created.parse()
}

async fn get(server: &Server, id: &impl ToString) -> Webhook {
    server.get(&format!("/api/v1/webhooks/{}", id.to_string())).await.parse()
}

async fn deliveries(server: &Server, webhook: &Webhook) -> Vec<Delivery> {
    let path = format!("/api/v1/webhooks/{}/deliveries", webhook.id);
    server.get(&path).await.parse::<Page<Delivery>>().items
}

async fn delivered(server: &Server, webhook: &Webhook, count: usize) {
    let taken = |it: &Delivery| it.state == DeliveryState::Delivered;
    until(async || {
        deliveries(server, webhook).await.iter().filter(|it| taken(it)).count() == count
    })
    .await;
}

#[tokio::test]
async fn a_receiver_gets_what_it_asked_for_signed_with_the_secret_shown_once() {
    let server = start(quick()).await;
    let receiver = Receiver::start(Mood::Rambles).await;
    let created = create(&server, &receiver).await;
    let vm = server.vm().await;
    let seen = receiver.saw(1).await.remove(0);
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["event"]["subject"]["id"], vm.id.to_string());
    assert_eq!(body["event"]["type"], "vm.creating");
    assert_eq!(body["id"], seen.delivery);
    let signature = seen.headers["aetherium-signature"].to_str().unwrap();
    let time = signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0;
    let at = Timestamp::from_millis(time.parse::<i64>().unwrap() * 1000);
    let secret = WebhookSecret::kept(created.secret.clone());
    assert_eq!(secret.sign(at, &seen.body), signature);
    assert!(Timestamp::from(std::time::SystemTime::now()).since(at) < LONG);

    delivered(&server, &created.webhook, 1).await;
    let shown = server.get(&format!("/api/v1/webhooks/{}", created.webhook.id)).await;
    assert!(!String::from_utf8_lossy(&shown.body).contains("whsec_"), "the secret shows again");
}

#[tokio::test]
async fn a_receiver_that_hangs_breaks_and_recovers_gets_everything_under_the_same_ids() {
    let server = start(quick()).await;
    let receiver = Receiver::start(Mood::Hangs).await;
    let webhook = create(&server, &receiver).await.webhook;
    for _ in 0..3 {
        server.vm().await;
    }
    receiver.saw(3).await;
    until(async || {
        let tried = deliveries(&server, &webhook).await;
        let late = |it: &Delivery| {
            it.refusal.as_ref().is_some_and(|it| it.detail.contains("did not answer in time"))
        };
        tried.len() == 3 && tried.iter().all(late)
    })
    .await;
    receiver.mood.send_replace(Mood::Breaks);
    until(async || {
        let tried = deliveries(&server, &webhook).await;
        tried.iter().any(|it| it.refusal.as_ref().is_some_and(|it| it.status == Some(500)))
    })
    .await;
    receiver.mood.send_replace(Mood::Takes);
    delivered(&server, &webhook, 3).await;
    let mut tries: BTreeMap<String, usize> = BTreeMap::new();
    for seen in receiver.seen() {
        *tries.entry(seen.delivery).or_default() += 1;
    }
    assert_eq!(tries.len(), 3, "{tries:?}");
    assert_eq!(get(&server, &webhook.id).await.failures, 0);
}

#[tokio::test]
async fn a_delivery_is_given_up_after_its_last_try_and_can_be_sent_again() {
    let server = start(quick()).await;
    let receiver = Receiver::start(Mood::Redirects).await;
    let webhook = create(&server, &receiver).await.webhook;
    server.vm().await;
    until(async || deliveries(&server, &webhook).await.iter().any(|it| it.finished_at.is_some()))
        .await;
    let dead = deliveries(&server, &webhook).await.remove(0);
    assert_eq!((dead.state, dead.attempts), (DeliveryState::Dead, 8));
    let why = dead.refusal.unwrap().detail;
    assert!(why.contains("redirects are not followed"), "{why}");
    assert_eq!(receiver.seen().len(), 8, "a redirect was followed, or a try too many was made");
    assert_eq!(get(&server, &webhook.id).await.failures, 1);

    receiver.mood.send_replace(Mood::Takes);
    let path = format!("/api/v1/webhooks/{}/deliveries/{}/redeliver", webhook.id, dead.id);
    assert_eq!(server.post(&path, "{}").await.status, StatusCode::ACCEPTED);
    delivered(&server, &webhook, 1).await;
    assert_eq!(receiver.seen().last().unwrap().delivery, dead.id.to_string());
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_told_no_more_until_it_is_activated_again() {
    let server = start(quick()).await;
    let receiver = Receiver::start(Mood::Gone).await;
    let webhook = create(&server, &receiver).await.webhook;
    server.vm().await;
    until(async || get(&server, &webhook.id).await.state != WebhookState::Active).await;
    let state = get(&server, &webhook.id).await.state;
    assert!(matches!(&state, WebhookState::Disabled { reason } if reason.contains("410")));
    assert_eq!(receiver.seen().len(), 1);

    receiver.mood.send_replace(Mood::Takes);
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let active = server.send(server.request(Method::PATCH, &path, r#"{"active":true}"#)).await;
    assert_eq!(active.parse::<Webhook>().state, WebhookState::Active);
    server.vm().await;
    delivered(&server, &webhook, 1).await;
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn private_addresses_are_refused_when_asked_for_and_when_spoken_to() {
    let server = start(WebhookPolicy { allow_private: false, ..quick() }).await;
    for url in
        ["http://127.0.0.1/", "http://[::1]:80/", "http://169.254.169.254/latest", "ftp://a/"]
    {
        let refused = server.post("/api/v1/webhooks", &json!({"url": url}).to_string()).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}");
        assert_eq!(refused.problem().errors[0].field, "url");
    }
    // A name says nothing of where it leads until it is looked up.
    let receiver = Receiver::start(Mood::Takes).await;
    let url = format!("http://localhost:{}/", receiver.address.port());
    let created = server.post("/api/v1/webhooks", &json!({"url": url}).to_string()).await;
    let webhook = created.parse::<CreatedWebhook>().webhook;
    server.vm().await;
    until(async || get(&server, &webhook.id).await.state != WebhookState::Active).await;
    let state = get(&server, &webhook.id).await.state;
    assert!(
        matches!(&state, WebhookState::Disabled { reason } if reason.contains("not a public address")),
        "{state:?}"
    );
    assert_eq!(receiver.seen().len(), 0);
}

/// A gateway is killed as its process would be: its threads stop where they are.
#[test]
fn what_a_killed_gateway_was_sending_another_one_sends() {
    let (victim, survivor) = (runtime(), runtime());
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("db.sqlite").display());
    let url: DatabaseUrl = url.parse().unwrap();
    let receiver = survivor.block_on(Receiver::start(Mood::Hangs));
    let (store, webhook) = survivor.block_on(async {
        let store = Store::open(&url).await.unwrap().with_keys(secrets_keys());
        let webhook = Webhook {
            id: WebhookId::new(),
            url: format!("http://{}/", receiver.address),
            filter: EventFilter { types: vec![EventType::VmCreating], ..EventFilter::default() },
            state: WebhookState::Active,
            reached: 0,
            failures: 0,
            created_at: now(),
            updated_at: now(),
        };
        let webhook = store.create_webhook(&webhook, &WebhookSecret::of([7; 32])).await.unwrap();
        for _ in 0..6 {
            let vm = creating_vm(WorkerId::new());
            let create = task(vm.worker_id, TaskKind::VmCreate { vm_id: vm.id });
            store.create_vm(&vm, &create, None).await.unwrap();
        }
        (store, webhook)
    });
    let lease = Duration::from_secs(3);
    let patient = WebhookPolicy { timeout: LONG, lease, ..quick() };
    victim.block_on(gateway(&url, patient));
    survivor.block_on(receiver.saw(4));
    victim.shutdown_background();
    receiver.mood.send_replace(Mood::Takes);
    survivor.block_on(async {
        gateway(&url, quick()).await;
        let page = PageRequest::default();
        until(async || {
            let known = store.deliveries(webhook.id, &page).await.unwrap().items;
            known.iter().filter(|it| it.state == DeliveryState::Delivered).count() == 6
        })
        .await;
    });
    let mut tries: BTreeMap<String, usize> = BTreeMap::new();
    for seen in receiver.seen() {
        *tries.entry(seen.delivery).or_default() += 1;
    }
    let mut tries: Vec<usize> = tries.into_values().collect();
    tries.sort_unstable();
    assert_eq!(tries, [1, 1, 2, 2, 2, 2], "the four it had are sent again, and no other twice");
}

async fn gateway(url: &DatabaseUrl, policy: WebhookPolicy) {
    let store = Store::open(url).await.unwrap().with_keys(secrets_keys());
    let queue = Queue::new(store, Bus::polling(Duration::from_millis(50)));
    let mut config = GatewayConfig::new(ApiKeys::new([KEY]).unwrap());
    config.webhooks = policy;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tokio::spawn(serve(listener, Gateway::new(config, queue), CancellationToken::new()));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
