//! A typed client of the HTTP API.

use crate::{
    args::Args,
    datadir::DataDir,
    error::{CliError, local},
};
use aetherium_gateway::api::Problem;
use aetherium_model::{
    Code, Fault,
    event::Event,
    output::{EventBody, OutputEvent},
    run::RunState,
};
use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// How long an answer may take that waits for nothing.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a broken event stream is taken up again before giving up.
const RESUMES: u32 = 20;
/// Between two tries to follow the event log.
const RESUME_PAUSE: Duration = Duration::from_millis(500);

/// A server, and the key to it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    key: String,
    http: reqwest::Client,
}

impl Client {
    /// The server the arguments name, or the one that runs on the data directory.
    pub(crate) fn connect(args: &Args) -> Result<Self, CliError> {
        let data = DataDir::locate(args.data_dir.as_deref())?;
        let url = match &args.url {
            Some(url) => url.clone(),
            None => data.running().map(|running| running.url).ok_or_else(|| no_server(&data))?,
        };
        let key = match &args.api_key {
            Some(key) => key.clone(),
            None => data.existing_api_key()?.ok_or_else(|| {
                Fault::new(Code::Unauthorized, format!("no API key in {}", data.path().display()))
                    .remedy("give one with --api-key or AETHERIUM_API_KEY")
            })?,
        };
        Self::new(&url, &key)
    }

    /// The server at `url`.
    pub(crate) fn new(url: &str, key: &str) -> Result<Self, CliError> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(Fault::internal)?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), key: key.to_owned(), http })
    }

    /// The API's base URL.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether the server answers.
    pub(crate) async fn is_up(&self) -> bool {
        let request =
            self.http.get(format!("{}/health", self.base)).timeout(Duration::from_secs(2));
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.json(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// The same for what takes its time.
    pub(crate) async fn post_within<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let request = self.request(Method::POST, path).json(body).timeout(deadline);
        let answer = self.send(request).await?;
        answer.json().await.map_err(|error| self.broken(&error))
    }

    /// An answer whose body is read by the caller; it must begin within `patience`.
    pub(crate) async fn stream(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<Response, CliError> {
        let begun = self.send(self.request(Method::GET, path));
        tokio::time::timeout(patience, begun).await.unwrap_or_else(|_| {
            let detail = format!("the server at {} did not begin within {patience:?}", self.base);
            Err(Fault::new(Code::DeadlineExceeded, detail).remedy("read the server's log").into())
        })
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.json(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.json(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// The same for what answers with nothing.
    pub(crate) async fn remove(&self, path: &str) -> Result<(), CliError> {
        self.send(self.request(Method::DELETE, path).timeout(DEADLINE)).await.map(drop)
    }

    pub(crate) async fn text(&self, path: &str) -> Result<String, CliError> {
        let answer = self.send(self.request(Method::GET, path).timeout(DEADLINE)).await?;
        answer.text().await.map_err(|error| self.broken(&error))
    }

    /// Follows a run's output to its end, from event to event, across broken connections.
    pub(crate) async fn follow(
        &self,
        path: &str,
        mut on_event: impl FnMut(&OutputEvent),
    ) -> Result<RunState, CliError> {
        let mut seen = 0;
        for _ in 0..RESUMES {
            let request = self
                .request(Method::GET, path)
                .header("accept", "text/event-stream")
                .header("last-event-id", seen.to_string());
            let mut chunks = self.send(request).await?.bytes_stream();
            let mut lines = Lines::default();
            // A stream that breaks is taken up again after the last event seen.
            while let Some(Ok(chunk)) = chunks.next().await {
                for data in lines.push(&chunk) {
                    let event: OutputEvent =
                        serde_json::from_str(&data).map_err(Fault::internal)?;
                    seen = event.seq;
                    on_event(&event);
                    if let EventBody::End { state } = event.body {
                        return Ok(state);
                    }
                }
            }
        }
        Err(Fault::new(Code::Unavailable, format!("the event stream {path} broke {RESUMES} times"))
            .remedy("see whether the server runs, then follow it again")
            .into())
    }

    /// Follows the event log, across broken connections, from now on or after the event numbered
    /// `seen`. Ends only when the server stays away, or `on_event` fails.
    pub(crate) async fn follow_events(
        &self,
        filter: &str,
        mut seen: Option<i64>,
        on_event: impl Fn(&Event) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let path = format!("/events?{}", filter.trim_start_matches('&'));
        let mut broken = 0;
        loop {
            let mut request =
                self.request(Method::GET, &path).header("accept", "text/event-stream");
            if let Some(seen) = seen {
                request = request.header("last-event-id", seen.to_string());
            }
            match self.send(request).await {
                Ok(answer) => {
                    let (mut chunks, mut lines) = (answer.bytes_stream(), Lines::default());
                    while let Some(Ok(chunk)) = chunks.next().await {
                        for data in lines.push(&chunk) {
                            let Ok(event) = serde_json::from_str::<Event>(&data) else {
                                eprintln!("events before {data} were forgotten");
                                continue;
                            };
                            on_event(&event)?;
                            (seen, broken) = (Some(event.seq), 0);
                        }
                    }
                }
                Err(error) if broken >= RESUMES || seen.is_none() => return Err(error),
                Err(_) => {}
            }
            broken += 1;
            tokio::time::sleep(RESUME_PAUSE).await;
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.key)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CliError> {
        let answer = self.send(request.timeout(DEADLINE)).await?;
        answer.json().await.map_err(|error| self.broken(&error))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let answer = request.send().await.map_err(|error| self.broken(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        Err(match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => problem_fault(problem).into(),
            Err(_) => Fault::new(
                Code::Unavailable,
                format!(
                    "{} answered {status}: {}",
                    self.base,
                    text.chars().take(200).collect::<String>()
                ),
            )
            .remedy("check that --url names an Aetherium server")
            .into(),
        })
    }

    fn broken(&self, error: &reqwest::Error) -> CliError {
        use std::error::Error as _;
        let cause = error.source().map_or_else(
            || error.to_string(),
            |source| {
                let mut deepest = source;
                while let Some(next) = deepest.source() {
                    deepest = next;
                }
                deepest.to_string()
            },
        );
        local(format!("the server at {} does not answer", self.base), cause)
            .remedy("start one with `aetherium up`, or name another with --url")
            .into()
    }
}

/// The remedy a problem carries, and the fields it names, in the words of the command line.
fn problem_fault(problem: Problem) -> Fault {
    let fields = problem.errors.iter().map(|error| format!("{}: {}", error.field, error.problem));
    // The only wrong field is in the detail already.
    let fields = fields.filter(|field| !problem.detail.contains(field.as_str()));
    let mut fault = Fault::new(problem.code, problem.detail.clone()).evidence(fields);
    fault.remedy.clone_from(&problem.remedy);
    fault
}

fn no_server(data: &DataDir) -> Fault {
    Fault::new(Code::Unavailable, format!("no server runs on {}", data.path().display()))
        .remedy("start one with `aetherium up`, or name another with --url and --api-key")
}

/// Cuts an event stream (the WHATWG HTML standard's "server-sent events") into the data of its
/// events. Our events have one line of data each.
#[derive(Debug, Default)]
struct Lines {
    held: Vec<u8>,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        self.held.extend_from_slice(chunk);
        let Some(end) = self.held.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.held.split_off(end + 1);
        let complete = std::mem::replace(&mut self.held, rest);
        String::from_utf8_lossy(&complete)
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|data| data.trim_start().to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_whole_however_the_stream_is_cut() {
        let stream = b": hi\n\nid: 1\nevent: output\ndata: {\"a\":1}\n\nid: 2\ndata: {\"b\":2}\n\n";
        for cut in 0..stream.len() {
            let mut lines = Lines::default();
            let mut data = lines.push(&stream[..cut]);
            data.extend(lines.push(&stream[cut..]));
            assert_eq!(data, ["{\"a\":1}", "{\"b\":2}"], "cut at {cut}");
        }
    }
}
