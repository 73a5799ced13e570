//! Sends prompts to whichever gateway answers, each with one key however often it is sent.

use crate::{error::Error, fleet::API_KEY};
use chaos::evidence::{Answer, Sent};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// How long a client waits for an answer before it asks again. Gateways are near.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(300);
/// One command of so many takes seconds.
const LONG_ONE_OF: u32 = 10;

/// One prompt of so many is sent to two gateways at once, as by a client that lost its patience with the first.
const TWICE_ONE_OF: u32 = 10;

/// The fleet's API, behind several gateways.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    gateways: Vec<SocketAddr>,
}

/// An answer, or nothing.
pub(crate) type Told = Option<(StatusCode, Value)>;

impl Api {
    pub(crate) fn new(gateways: Vec<SocketAddr>) -> Result<Self, Error> {
        // Built together with crates whose clients speak TLS, this one asks for its cryptography as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(ANSWER).no_proxy().build()?;
        Ok(Self { http, gateways })
    }

    /// One request to one gateway; nothing if no whole answer came.
    pub(crate) async fn ask(
        &self,
        gateway: usize,
        (method, path): (Method, &str),
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Told {
        let address = self.gateways[gateway % self.gateways.len()];
        let url = format!("http://{address}/api/v1{path}");
        let mut request = self.http.request(method, url).bearer_auth(API_KEY);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.ok()?;
        let (status, text) = (answer.status(), answer.text().await.ok()?);
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The same of any gateway, again and again until the deadline, while nothing is broken.
    pub(crate) async fn insist(
        &self,
        (method, path): (Method, &str),
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<Value, Error> {
        let mut tries = 0;
        loop {
            let told = self.ask(tries, (method.clone(), path), body, None).await;
            tries += 1;
            let request = format!("{method} {path}");
            match told {
                Some((status, value)) if status.is_success() => return Ok(value),
                Some((status, said)) if is_final(status) => {
                    let (status, said) = (status.as_u16(), said.to_string());
                    return Err(Error::Refused { request, status, said });
                }
                _ if Instant::now() >= deadline => {
                    let what = format!("no gateway answered {request}");
                    return Err(Error::TooLate { what, waited: ANSWER });
                }
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

/// Whether the same request would be refused again.
fn is_final(status: StatusCode) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !passing.contains(&status)
}

/// A prompt to be sent.
struct Job {
    token: String,
    workspace: String,
    text: String,
    at: Instant,
    gateway: usize,
    is_sent_twice: bool,
}

/// All prompts of a run.
pub(crate) struct Load<'a> {
    pub(crate) seed: u64,
    pub(crate) prompts: u32,
    pub(crate) workspaces: &'a [String],
    /// What commands do, see [`effect`].
    pub(crate) script: &'a Path,
    /// The time they are spread over.
    pub(crate) over: Duration,
}

impl Load<'_> {
    fn jobs(&self, began: Instant) -> Vec<Job> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let job = |number: u32| {
            let workspace = &self.workspaces[random.random_range(0..self.workspaces.len())];
            let long = random.random_range(0..LONG_ONE_OF) == 0;
            let millis = random.random_range(if long { 2_000..8_000 } else { 0..300_u32 });
            let token = format!("{}-{number}", self.seed);
            let hold = format!("{}.{:03}", millis / 1_000, millis % 1_000);
            let script = self.script.display();
            Job {
                text: format!("token={token} workspace={workspace} hold={hold}; . {script}"),
                token,
                workspace: workspace.clone(),
                at: began + self.over * number / self.prompts,
                gateway: random.random_range(0..64),
                is_sent_twice: random.random_range(0..TWICE_ONE_OF) == 0,
            }
        };
        (0..self.prompts).map(job).collect()
    }

    /// Sends all of them, each at its time, and says what came of each by the deadline.
    pub(crate) fn send(&self, api: &Api, began: Instant, deadline: Instant) -> JoinSet<Sent> {
        let mut sending = JoinSet::new();
        for job in self.jobs(began) {
            let api = api.clone();
            sending.spawn(async move { send(&api, job, deadline).await });
        }
        sending
    }
}

async fn send(api: &Api, job: Job, deadline: Instant) -> Sent {
    let Job { token, workspace, text, at, mut gateway, is_sent_twice } = job;
    tokio::time::sleep_until(at).await;
    let path = format!("/workspaces/{workspace}/prompts");
    let body = json!({ "prompt": text });
    let ask = |gateway| api.ask(gateway, (Method::POST, &path), Some(&body), Some(&token));
    let mut tries = 0;
    loop {
        tries += 1;
        let told = if is_sent_twice && tries == 1 {
            tries += 1;
            let (one, other) = tokio::join!(ask(gateway), ask(gateway + 1));
            let is_good = |told: &Told| told.as_ref().is_some_and(|it| it.0.is_success());
            if is_good(&one) { one } else { other }
        } else {
            ask(gateway).await
        };
        gateway += 1;
        let answer = match told {
            Some((status, value)) if status.is_success() => match value["id"].as_str() {
                Some(id) => Answer::Accepted(id.to_owned()),
                None => Answer::Refused(format!("{status} without an id: {value}")),
            },
            Some((status, said)) if is_final(status) => {
                Answer::Refused(format!("{status}: {said}"))
            }
            _ if Instant::now() >= deadline => Answer::Nothing,
            _ => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        return Sent { token, workspace, answer, tries };
    }
}

/// What every prompt's command does: it says that it begins, takes its time, and says that it ends. Its parent
/// is the VM's agent. A line is written by one call, so lines of several commands do not mix.
pub(crate) fn effect(effects: &Path) -> String {
    format!(
        r#"read -r stat </proc/$PPID/stat
# What follows the name, in which anything may be: the 20th word of it is when the process started.
set -- ${{stat##*) }}
agent=$PPID:${{20}}
read -r now _ </proc/uptime
echo "begin $token $workspace $agent $now" >>'{effects}'
sleep "$hold"
read -r now _ </proc/uptime
echo "end $token $workspace $agent $now" >>'{effects}'
"#,
        effects = effects.display()
    )
}
