//! The talk with a login's program: what it shows, what it is told, and how it is seen that it is done.

use super::{
    Answer, Submission,
    attempt::{Attempt, COLUMNS},
    bundle::{Found, tokens_of},
    home::Home,
    keep,
    screen::Screen,
};
use crate::{run, vm::VmHandle};
use aetherium_agent_client::{AgentClient, AgentError, Process, ProcessEvent, RefusalKind, Stdin};
use aetherium_agent_proto::{ExitReport, ExitStatus};
use aetherium_model::{
    Code, Fault,
    login::{Accepts, CallbackUrl, Happening, Invitation, Login, LoginState, Pasted},
    run::RunState,
};
use bytes::Bytes;
use std::{collections::VecDeque, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

/// How long nothing comes before a line that is not complete is read: a question that waits.
const QUIET: Duration = Duration::from_millis(300);
/// How often it is looked whether the files are there.
const LOOK: Duration = Duration::from_millis(500);
/// How long a program may go on once its files are there, where nothing else says that it is done.
const GRACE: Duration = Duration::from_secs(3);
/// How long files may take that it says to have written.
const FILES: Duration = Duration::from_secs(10);
/// How long a program may say nothing to what it was given, before it may be given something else.
const SILENCE: Duration = Duration::from_secs(30);
/// Between what is pasted and the key that ends it: programs that take both at once take the key for a
/// part of the text.
const BEFORE_ENTER: Duration = Duration::from_millis(200);
/// How long the program's own server may take to answer.
const CALLBACK: Duration = Duration::from_secs(15);
/// The most that is read of its answer: a status line is shorter.
const MAX_STATUS_LINE: usize = 1024;
/// Lines of what it showed that a failure repeats, and the characters of each.
const LINES: usize = 20;
const LINE_CHARS: usize = 300;
/// Texts shorter than this, in bytes, are not hidden: they would be found in words of other meaning.
const SHORT: usize = 4;

/// A program, and what is known of it.
pub(super) struct Talk<'a> {
    attempt: &'a mut Attempt,
    vm: &'a VmHandle,
    agent: &'a AgentClient,
    home: &'a Home,
    process: Process,
    stdin: Option<Stdin>,
    screen: Screen,
    lines: VecDeque<String>,
    /// What users brought back, which is not repeated.
    private: Vec<String>,
    typed: Vec<bool>,
    url: Option<String>,
    code: Option<String>,
    /// When it said that it is done.
    confirmed: Option<Instant>,
    files: Files,
}

/// What was seen of the files.
struct Files {
    before: Found,
    last: Found,
    /// Since when they are others than before.
    changed: Option<Instant>,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        attempt: &'a mut Attempt,
        vm: &'a VmHandle,
        agent: &'a AgentClient,
        home: &'a Home,
        mut process: Process,
        before: Found,
    ) -> Self {
        let typed = vec![false; attempt.how.keys.len()];
        Self {
            attempt,
            vm,
            agent,
            home,
            stdin: process.stdin(),
            process,
            screen: Screen::new(COLUMNS.into()),
            lines: VecDeque::new(),
            private: Vec::new(),
            typed,
            url: None,
            code: None,
            confirmed: None,
            files: Files { last: before.clone(), before, changed: None },
        }
    }

    /// Follows the program until it is logged in, and returns the files. Dropped, it ends the program.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) async fn followed_to_its_end(mut self) -> Result<Found, Fault> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut quiet_at, mut silent_at) = (None, None);
        let at = |moment: Option<Instant>| sleep_until(moment.unwrap_or_else(Instant::now));
        loop {
            tokio::select! {
                event = self.process.next() => match event {
                    Ok(Some(ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes))) => {
                        let lines = self.screen.push(&bytes);
                        self.read(&lines, true).await;
                        quiet_at = Some(Instant::now() + QUIET);
                    }
                    Ok(Some(ProcessEvent::Skipped(_))) => {}
                    Ok(Some(ProcessEvent::Exited(report))) => return self.exited(&report).await,
                    Ok(None) => return Err(Fault::internal("the program's end was not seen")),
                    Err(error) => return Err(self.lost(&error)),
                },
                () = at(quiet_at), if quiet_at.is_some() => {
                    quiet_at = None;
                    if let Some(line) = self.screen.unfinished() {
                        self.read(&[line], false).await;
                    }
                }
                _ = look.tick() => if let Some(found) = self.look().await? {
                    return Ok(found);
                },
                Some(submission) = self.attempt.submissions.recv() => {
                    if self.take(submission).await {
                        silent_at = Some(Instant::now() + SILENCE);
                    }
                }
                () = at(silent_at), if silent_at.is_some() => {
                    silent_at = None;
                    self.attempt.tell(Happening::Unanswered).await;
                }
            }
        }
    }

    /// Reads what it shows.
    async fn read(&mut self, lines: &[String], are_complete: bool) {
        let mut refusal = None;
        for line in lines {
            if are_complete {
                if self.lines.len() == LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(line.clone());
            }
            let how = &self.attempt.how;
            let find =
                |pattern: &aetherium_catalog::Pattern| pattern.find_in(line).map(str::to_owned);
            self.url = find(&how.url).or_else(|| self.url.take());
            self.code = how.code.as_ref().and_then(find).or_else(|| self.code.take());
            if how.success.as_ref().is_some_and(|it| it.is_match(line)) {
                self.confirmed.get_or_insert_with(Instant::now);
            }
            if how.failure.as_ref().is_some_and(|it| it.is_match(line)) {
                refusal = Some(self.shown(line));
            }
            self.press_keys(line).await;
        }
        let is_whole = self.code.is_some() || self.attempt.how.code.is_none();
        let was_given = matches!(self.attempt.login.state, LoginState::Submitting(_));
        let before = match &self.attempt.login.state {
            LoginState::Waiting(invitation) => invitation.refusal.clone(),
            _ => None,
        };
        if let Some(url) = self.url.clone().filter(|_| is_whole) {
            let refusal = refusal.filter(|_| was_given).or(before);
            let invitation = Invitation { url, code: self.code.clone(), refusal };
            self.attempt.tell(Happening::Shown(invitation)).await;
        }
    }

    /// Types what its definition says it wants to be typed, each once.
    async fn press_keys(&mut self, line: &str) {
        let keys = self.attempt.how.keys.iter().zip(&mut self.typed);
        let mut wanted = Vec::new();
        for (keys, typed) in keys {
            if !*typed && keys.at.is_match(line) {
                *typed = true;
                wanted.push(keys.send.clone());
            }
        }
        for keys in wanted {
            if let Err(error) = self.write(Bytes::from(keys)).await {
                tracing::debug!(login = %self.attempt.login.id, %error, "keys were not taken");
            }
        }
    }

    /// Whether it is logged in, by its files; they are looked at twice, so that they are whole.
    async fn look(&mut self) -> Result<Option<Found>, Fault> {
        let found = self.home.read(&self.attempt.how.credential_files).await?;
        let is_same = found == self.files.last;
        self.files.last.clone_from(&found);
        let assistant = &self.attempt.login.assistant;
        let is_new = differ(&found, &self.files.before)
            && !keep::is_stored(&self.attempt.host, self.vm, assistant, &found).await?;
        let now = Instant::now();
        let since = self.files.changed.filter(|_| is_new && is_same);
        self.files.changed = is_new.then(|| since.unwrap_or(now));
        let says = self.attempt.how.success.is_some();
        match (self.confirmed, since) {
            (Some(_), Some(_)) => Ok(Some(found)),
            (None, Some(since)) if !says && now - since >= GRACE => Ok(Some(found)),
            (Some(confirmed), None) if now - confirmed >= FILES && found.is_empty() => {
                Err(self.failed("says that it is done, and has left no files"))
            }
            // It was logged in before.
            (Some(confirmed), None) if now - confirmed >= FILES => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    /// Gives it what a user brought back. Whether it took it.
    async fn take(&mut self, submission: Submission) -> bool {
        let given = self.give(submission.answer).await;
        let taken = given.is_ok();
        if taken {
            self.attempt.tell(Happening::Submitted).await;
        }
        // Whoever asked may have gone.
        let _ = submission.taken.send(given.map(|()| self.attempt.login.clone()));
        taken
    }

    async fn give(&mut self, answer: Answer) -> Result<(), Fault> {
        let login = &self.attempt.login;
        let wanted = match (&answer, login.accepts) {
            (Answer::Code(_), Accepts::Code) | (Answer::Callback(_), Accepts::Callback) => true,
            (_, Accepts::None | Accepts::Code | Accepts::Callback) => false,
        };
        if !wanted {
            return Err(takes_something_else(login));
        }
        if !matches!(login.state, LoginState::Waiting(_)) {
            let detail = format!("{} is {}", login.id, login.state.as_str());
            return Err(Fault::new(Code::Conflict, detail).remedy("wait until it is waiting"));
        }
        match answer {
            Answer::Code(code) => self.type_in(&code).await,
            Answer::Callback(url) => self.call_back(&url).await,
        }
    }

    async fn type_in(&mut self, code: &Pasted) -> Result<(), Fault> {
        self.private.push(code.reveal().to_owned());
        let typed = async {
            self.write(Bytes::copy_from_slice(code.reveal().as_bytes())).await?;
            sleep(BEFORE_ENTER).await;
            self.write(Bytes::from_static(b"\r")).await
        };
        typed.await.map_err(|error| {
            Fault::new(Code::Conflict, format!("the program takes nothing: {error}"))
                .remedy("look at where the login stands")
        })
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AgentError> {
        match &mut self.stdin {
            Some(stdin) => stdin.write(bytes).await,
            None => Err(AgentError::StdinClosed { detail: "it has no terminal".to_owned() }),
        }
    }

    /// Asks the program's own server what the user's browser would ask.
    async fn call_back(&mut self, url: &CallbackUrl) -> Result<(), Fault> {
        self.private.extend(url.values().map(str::to_owned));
        let refuse = |why: String| {
            let detail = format!("the program's server on port {} {why}", url.port());
            Fault::new(Code::Conflict, detail)
                .remedy("give the whole address that the browser was sent to, of this login")
        };
        let status = timeout(CALLBACK, request(self.agent, url)).await;
        let status = status.map_err(|_| refuse("did not answer in time".to_owned()))?;
        match status {
            Ok(Some(status)) if (200..400).contains(&status) => Ok(()),
            Ok(Some(status)) => Err(refuse(format!("answered {status}"))),
            Ok(None) => Err(refuse("did not answer as a server of HTTP".to_owned())),
            Err(AgentError::Refused { kind: RefusalKind::ConnectionRefused, .. }) => {
                Err(refuse("is not there".to_owned()))
            }
            Err(error) => Err(refuse(format!("cannot be reached: {error}"))),
        }
    }

    async fn exited(mut self, report: &ExitReport) -> Result<Found, Fault> {
        let lines = self.screen.finish();
        self.read(&lines, true).await;
        let found = self.home.read(&self.attempt.how.credential_files).await?;
        let tokens = found.values().flat_map(|seen| tokens_of(&seen.content));
        self.private.extend(tokens.filter_map(|it| it.reveal_text().map(str::to_owned)));
        let is_done = report.status == ExitStatus::Code(0) || self.confirmed.is_some();
        match (is_done, found.is_empty()) {
            (true, false) => Ok(found),
            (true, true) => Err(self.failed("ended without leaving a login")),
            (false, _) => Err(self.failed(&match report.status {
                ExitStatus::Code(code) => format!("ended with exit code {code}"),
                ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
                ExitStatus::Timeout => "took too long".to_owned(),
                ExitStatus::Oom => "ran out of memory".to_owned(),
            })),
        }
    }

    fn lost(&self, error: &AgentError) -> Fault {
        match error {
            AgentError::VmEnded { .. } => match run::not_run(error) {
                RunState::Failed { fault } => fault.remedy("log in again"),
                _ => Fault::internal(error),
            },
            _ => self.failed(&format!("can no longer be followed: {error}")),
        }
    }

    fn failed(&self, what: &str) -> Fault {
        let program = self.attempt.how.argv.first().map_or("the program", String::as_str);
        let unfinished = self.screen.unfinished();
        let lines: Vec<_> =
            self.lines.iter().chain(&unfinished).map(|line| self.shown(line)).collect();
        let last = lines.iter().rev().find(|line| !line.trim().is_empty());
        let said = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
        Fault::new(Code::LoginFailed, format!("{program} {what}{said}"))
            .remedy("read what it said, then log in again")
            .evidence(lines)
    }

    /// A line as others may see it.
    fn shown(&self, line: &str) -> String {
        let mut private: Vec<_> = self.private.iter().filter(|it| it.len() >= SHORT).collect();
        private.sort_by_key(|it| std::cmp::Reverse(it.len()));
        let hidden = private
            .into_iter()
            .fold(line.to_owned(), |line, text| line.replace(text, aetherium_secrets::MASK));
        hidden.chars().take(LINE_CHARS).collect()
    }
}

fn takes_something_else(login: &Login) -> Fault {
    let (detail, remedy) = match login.accepts {
        Accepts::None => ("takes nothing back", "finish it in the browser"),
        Accepts::Code => ("takes a code", "give the code that the browser shows"),
        Accepts::Callback => ("takes an address", "give the address that the browser was sent to"),
    };
    Fault::new(Code::InvalidRequest, format!("the login of {} {detail}", login.assistant))
        .remedy(remedy)
}

fn differ(found: &Found, before: &Found) -> bool {
    let is_new = |(path, seen): (&String, &super::bundle::Seen)| {
        let same = before.get(path).is_some_and(|before| before.content == seen.content);
        !same && !seen.content.reveal().is_empty()
    };
    found.iter().any(is_new)
}

/// Makes the request of a callback in the guest, and returns the status that it is answered with.
async fn request(agent: &AgentClient, url: &CallbackUrl) -> Result<Option<u16>, AgentError> {
    let mut tunnel = agent.ports().connect(url.port()).await?;
    tunnel.writer.write(Bytes::from(url.request())).await?;
    let mut answer = Vec::new();
    while let Some(bytes) = tunnel.reader.next().await? {
        answer.extend_from_slice(&bytes);
        if answer.contains(&b'\n') || answer.len() > MAX_STATUS_LINE {
            break;
        }
    }
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    // Read to its end, so that the program is not answered by a broken connection.
    while let Some(_rest) = tunnel.reader.next().await? {}
    Ok(status)
}
