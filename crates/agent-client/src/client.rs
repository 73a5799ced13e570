//! The client of one VM's agent.
//!
//! Owns the current connection, the memory of which endpoint works, and the VM's end.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::{
    AgentTransport, ExecSpec, ExitReport, Hello, ProcessInfo, ProcessSelector, StreamOffsets,
    TerminalSize,
};
use bytes::Bytes;
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::connection::{Connection, SINCE_1_1, WeakConnection};
use crate::dial::{self, Dial, DialError, Waiting, Winner};
use crate::process::{self, Process, Role};
use crate::stdin::Stdin;
use crate::upgrade;
use crate::{AgentError, Deadlines, Endpoint, Files, Ports, System};

/// How long an agent that has let a caller go may take to be back.
const REDIAL_TIME: Duration = Duration::from_secs(10);

/// How often a wait is asked again after its connection was lost.
const WAIT_RETRIES: u32 = 3;

/// A VM's agent. Cheap to clone; clones share one connection.
#[derive(Clone)]
pub struct AgentClient {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Vec<Endpoint>,
    deadlines: Deadlines,
    /// Held while dialling, so that callers share one dial.
    connection: tokio::sync::Mutex<Option<Connection>>,
    /// The endpoint that answered last.
    works: Mutex<Option<usize>>,
    ended: watch::Sender<Option<String>>,
}

impl AgentClient {
    /// A client for the agent at any of `endpoints`. Nothing is dialled yet.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, deadlines: Deadlines) -> Self {
        let inner = Inner {
            endpoints,
            deadlines,
            connection: tokio::sync::Mutex::new(None),
            works: Mutex::new(None),
            ended: watch::Sender::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A client of the same agent over one transport alone, on a connection of its own; none if there
    /// is no such way.
    #[must_use]
    pub fn over(&self, transport: AgentTransport) -> Option<Self> {
        let ways = self.inner.endpoints.iter().filter(|it| it.transport() == transport);
        let ways: Vec<Endpoint> = ways.cloned().collect();
        (!ways.is_empty()).then(|| Self::new(ways, self.inner.deadlines))
    }

    /// Dials until the agent answers, with short pauses between tries.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`] after `deadline`; [`AgentError::Unauthorized`],
    /// [`AgentError::Incompatible`] and [`AgentError::VmEnded`] at once.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<Hello, AgentError> {
        let last_words = Mutex::new(None);
        let dial = tokio::time::timeout(deadline, async {
            let mut slot = self.inner.connection.lock().await;
            if let Some(connection) = slot.as_ref().filter(|it| it.is_open()) {
                return Ok((connection.clone(), None));
            }
            let waiting = Waiting { limit: self.inner.deadlines.dial, last_words: &last_words };
            let winner = dial::until_ready(self.dial(&self.order()), waiting).await?;
            Ok(self.settle(&mut slot, winner))
        });
        let dial = dial.instrument(tracing::debug_span!("agent.wait_ready"));
        match self.unless_ended(dial).await? {
            Ok(Ok((_, Some(hello)))) => Ok(hello),
            Ok(Ok((connection, None))) => self.call("hello", connection.hello()).await,
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let last_words = last_words.into_inner().unwrap_or_else(PoisonError::into_inner);
                let attempts = last_words.unwrap_or_else(|| self.no_answer());
                Err(AgentError::Unreachable { after: deadline, attempts })
            }
        }
    }

    /// Greets the agent: its versions and health.
    ///
    /// # Errors
    /// Any [`AgentError`] of dialling or calling.
    pub async fn hello(&self) -> Result<Hello, AgentError> {
        let connection = self.connection().await?;
        self.call("hello", connection.hello()).await
    }

    /// The transport that works for this VM, once one has.
    #[must_use]
    pub fn transport(&self) -> Option<AgentTransport> {
        self.endpoint().map(|endpoint| endpoint.transport())
    }

    /// The endpoint that works for this VM, once one has.
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint> {
        let works = *self.inner.works.lock().unwrap_or_else(PoisonError::into_inner);
        works.map(|index| self.inner.endpoints[index].clone())
    }

    /// Starts a command. Returns once it runs.
    ///
    /// # Errors
    /// [`AgentError::Spawn`] when the guest cannot start it; any error of dialling or calling.
    /// Nothing is sent twice.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Process, AgentError> {
        let connection = self.connection().await?;
        // Boxed, as every call: no caller shall carry the library's futures.
        Box::pin(self.call("start", process::start(self.clone(), connection, spec))).await
    }

    /// Follows a process that was started before, by this caller or another: from `from`, or from the
    /// oldest output the agent still has. [`Process::offsets`] then says where that was.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`]; [`AgentError::Taken`] when another has the starter's place;
    /// [`AgentError::Unsupported`] by an older agent; any error of dialling or calling.
    pub async fn attach(
        &self,
        process: impl Into<ProcessSelector>,
        from: Option<StreamOffsets>,
        role: Role,
    ) -> Result<Process, AgentError> {
        let connection = self.connection().await?;
        let attach = process::attach(self.clone(), connection, process.into(), from, role);
        Box::pin(self.call("attach", attach)).await
    }

    /// Waits for a process's end, as long as that takes; also for one that has ended already, as long
    /// as the agent remembers it. Safe to ask again.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`]; [`AgentError::Unsupported`] by an older agent; any error of
    /// dialling or calling.
    pub async fn wait(
        &self,
        process: impl Into<ProcessSelector>,
    ) -> Result<ExitReport, AgentError> {
        let selector = process.into();
        let mut lost = 0;
        let mut connection = self.connection().await?;
        loop {
            connection.require("wait", SINCE_1_1)?;
            let request = wire::WaitRequest {
                process: wire::ProcessSelector::from(selector.clone()).into(),
                ..wire::WaitRequest::default()
            };
            let wire = connection.wire();
            let error = match self.unless_ended(wire.wait(request)).await? {
                Ok(answer) => {
                    let exited = answer.into_owned().exited.into_option().unwrap_or_default();
                    return Ok(ExitReport::from(exited));
                }
                Err(error) => connection.error("wait", &error),
            };
            // An agent that replaces its program is back at once, and one that died is not.
            lost += 1;
            if !matches!(error, AgentError::ConnectionLost { .. }) || lost > WAIT_RETRIES {
                return Err(error);
            }
            self.give_up(&connection).await;
            connection = self.connection().await?;
        }
    }

    /// Opens the stdin of a process that nobody writes to at the moment, from whatever connection it
    /// was started.
    ///
    /// # Errors
    /// Any [`AgentError`] of dialling; what is wrong with the process shows with the first write.
    pub async fn stdin(&self, pid: u32) -> Result<Stdin, AgentError> {
        let connection = self.connection().await?;
        Ok(Stdin::open(self, Some(connection), pid))
    }

    /// Sends a signal, by number, to a process and all of its group.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`] once it has ended; any error of dialling or calling.
    pub async fn signal(&self, pid: u32, signal: i32) -> Result<(), AgentError> {
        let connection = self.connection().await?;
        let request = wire::SendSignalRequest { pid, signal, ..wire::SendSignalRequest::default() };
        let wire = connection.wire();
        let answer = self.call("signal", async {
            wire.send_signal(request).await.map_err(|e| connection.error("signal", &e))
        });
        answer.await.map(|_| ())
    }

    /// Gives a process's terminal a new size.
    ///
    /// # Errors
    /// [`AgentError::NoSuchProcess`]; [`AgentError::Unsupported`] by an older agent; any error of
    /// dialling or calling.
    pub async fn resize(&self, pid: u32, size: TerminalSize) -> Result<(), AgentError> {
        let connection = self.connection().await?;
        connection.require("resize_terminal", SINCE_1_1)?;
        let request = wire::ResizeTerminalRequest {
            pid,
            size: wire::TerminalSize::from(size).into(),
            ..wire::ResizeTerminalRequest::default()
        };
        let wire = connection.wire();
        let answer = self.call("resize_terminal", async {
            let answer = wire.resize_terminal(request).await;
            answer.map_err(|e| connection.error("resize_terminal", &e))
        });
        answer.await.map(|_| ())
    }

    /// Lists the processes the agent runs.
    ///
    /// # Errors
    /// Any [`AgentError`] of dialling or calling.
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, AgentError> {
        self.list_with(false).await
    }

    /// Lists the processes the agent runs and those ended ones it remembers.
    ///
    /// # Errors
    /// [`AgentError::Unsupported`] by an older agent; any error of dialling or calling.
    pub async fn list_all(&self) -> Result<Vec<ProcessInfo>, AgentError> {
        self.list_with(true).await
    }

    async fn list_with(&self, include_ended: bool) -> Result<Vec<ProcessInfo>, AgentError> {
        let connection = self.connection().await?;
        if include_ended {
            connection.require("list", SINCE_1_1)?;
        }
        let wire = connection.wire();
        let request = wire::ListRequest { include_ended, ..wire::ListRequest::default() };
        let answer = self.call("list", async {
            wire.list(request).await.map_err(|e| connection.error("list", &e))
        });
        let list = answer.await?.into_owned();
        Ok(list.processes.into_iter().map(ProcessInfo::from).collect())
    }

    /// Gives the agent another program, which goes on in its place: processes keep running, and the
    /// streams of those followed through this library come back by themselves. Returns the new
    /// agent's greeting.
    ///
    /// # Errors
    /// [`AgentError::UpgradeRefused`] when the agent goes on as it was, with nothing lost;
    /// [`AgentError::Unsupported`] by an older agent; any error of dialling or calling.
    pub async fn upgrade(&self, program: Bytes) -> Result<Hello, AgentError> {
        upgrade::upgrade(self, program).await
    }

    /// Asks the agent to end every process and then itself; as PID 1 it powers the guest off.
    /// Returns when the agent has agreed, which is before it is done.
    ///
    /// # Errors
    /// Any [`AgentError`] of dialling or calling.
    pub async fn shutdown(&self) -> Result<(), AgentError> {
        let connection = self.connection().await?;
        let wire = connection.wire();
        let answer = self.call("shutdown", async {
            let request = wire::ShutdownRequest::default();
            wire.shutdown(request).await.map_err(|e| connection.error("shutdown", &e))
        });
        answer.await.map(|_| ())
    }

    /// Forgets the connection, whose other end a pause or a restore of the guest may have lost. The
    /// next call dials; commands that are followed go on with the connection they have.
    pub async fn forget_connection(&self) {
        *self.inner.connection.lock().await = None;
    }

    /// The guest's files.
    #[must_use]
    pub fn files(&self) -> Files {
        Files::new(self.clone())
    }

    /// The guest's TCP ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports::new(self.clone())
    }

    /// The guest as a machine.
    #[must_use]
    pub fn system(&self) -> System {
        System::new(self.clone())
    }

    /// Says that the VM is over: every call under way and every later one ends with
    /// [`AgentError::VmEnded`]. The first reason stays.
    pub fn close(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.inner.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(reason);
            first
        });
    }

    /// Runs a call within the call deadline and the VM's life.
    pub(crate) async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        let after = self.inner.deadlines.call;
        let work = work.instrument(tracing::debug_span!("agent.call", call));
        match self.unless_ended(tokio::time::timeout(after, work)).await? {
            Ok(outcome) => outcome,
            Err(_) => Err(AgentError::DeadlineExceeded { call, after }),
        }
    }

    /// Runs a call that has one answer, or one stream, within the call deadline and the VM's life.
    /// Boxed: the library's futures are tens of kilobytes, which no caller shall carry.
    pub(crate) fn unary<'a, T: Send + 'a>(
        &'a self,
        connection: &'a Connection,
        call: &'static str,
        answer: impl Future<Output = Result<T, connectrpc::ConnectError>> + Send + 'a,
    ) -> futures::future::BoxFuture<'a, Result<T, AgentError>> {
        let answer = async move { answer.await.map_err(|e| connection.error(call, &e)) };
        Box::pin(self.call(call, answer))
    }

    /// Runs anything unless the VM ends first.
    pub(crate) async fn unless_ended<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, AgentError> {
        let mut ended = self.inner.ended.subscribe();
        tokio::select! {
            // The reason is what a caller wants to hear when the connection breaks with the VM.
            biased;
            // The sender lives in `self`, so this only ends with a reason.
            Ok(reason) = ended.wait_for(Option::is_some) => {
                Err(AgentError::VmEnded { reason: reason.clone().unwrap_or_default() })
            }
            output = work => Ok(output),
        }
    }

    /// Dials anew for whatever comes next, as the agent is leaving this connection.
    pub(crate) async fn give_up(&self, connection: &Connection) {
        let mut slot = self.inner.connection.lock().await;
        if slot.as_ref().is_some_and(|open| open.is(connection)) {
            *slot = None;
        }
    }

    /// Leaves a connection for a new one, which may take a moment to be had.
    pub(crate) async fn redial(&self, left: &Connection) -> Result<Connection, AgentError> {
        self.give_up(left).await;
        self.wait_ready(REDIAL_TIME).await?;
        self.connection().await
    }

    /// The open connection, or a new one.
    pub(crate) async fn connection(&self) -> Result<Connection, AgentError> {
        let after = self.inner.deadlines.dial;
        let dial = tokio::time::timeout(after, async {
            let mut slot = self.inner.connection.lock().await;
            if let Some(connection) = slot.as_ref().filter(|it| it.is_open()) {
                return Ok(connection.in_use());
            }
            let winner = dial::race(self.dial(&self.order())).await?;
            Ok(self.settle(&mut slot, winner).0)
        });
        match self.unless_ended(dial).await? {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(DialError::Final(error))) => Err(error),
            Ok(Err(DialError::NotYet(attempts))) => {
                Err(AgentError::Unreachable { after, attempts })
            }
            Err(_) => Err(AgentError::Unreachable { after, attempts: self.no_answer() }),
        }
    }

    /// Takes a winner as the connection of this client.
    fn settle(&self, slot: &mut Option<Connection>, winner: Winner) -> (Connection, Option<Hello>) {
        let Winner { index, connection, hello } = winner;
        *self.inner.works.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
        *slot = Some(connection.clone());
        // It ends by itself, soon after the connection does.
        let rest = self.inner.deadlines.silence;
        tokio::spawn(close_at_rest(Arc::downgrade(&self.inner), connection.downgrade(), rest));
        (connection, Some(hello))
    }

    fn no_answer(&self) -> String {
        let endpoints: Vec<String> = self.inner.endpoints.iter().map(ToString::to_string).collect();
        format!("{}: no answer", endpoints.join(", "))
    }

    fn dial<'a>(&'a self, order: &'a [usize]) -> Dial<'a> {
        let Inner { endpoints, deadlines, .. } = &*self.inner;
        Dial { endpoints, order, silence: deadlines.silence }
    }

    /// The endpoints' order: what worked, then the local ones, then TCP.
    fn order(&self) -> Vec<usize> {
        let works = *self.inner.works.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.inner.endpoints.len()).collect();
        order.sort_by_key(|&index| (Some(index) != works, self.inner.endpoints[index].rank()));
        order
    }
}

/// Closes a connection once nobody has used it for some time. The guest of an idle VM is then left alone,
/// and so is the host that has a thousand of them: whoever wants something of it dials.
async fn close_at_rest(client: Weak<Inner>, watched: WeakConnection, look_every: Duration) {
    loop {
        tokio::time::sleep(look_every).await;
        let Some(client) = client.upgrade() else { return };
        let mut slot = client.connection.lock().await;
        match slot.as_ref().filter(|open| watched.is(open)) {
            None => return,
            Some(open) if open.rests() => {
                *slot = None;
                return;
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sendable<T: Send>(value: T) -> T {
        value
    }

    /// Only that it compiles matters.
    #[allow(dead_code)]
    fn following_a_process_can_move_between_threads(
        process: &mut Process,
    ) -> impl Future<Output = Result<Option<crate::ProcessEvent>, AgentError>> + Send {
        process.next()
    }

    #[tokio::test]
    async fn every_call_can_run_on_another_thread() {
        let client = AgentClient::new(Vec::new(), Deadlines::default());
        drop(sendable(client.wait_ready(Duration::ZERO)));
        drop(sendable(client.exec(ExecSpec::new(["true"]))));
        drop(sendable(client.list()));
        let error = sendable(client.hello()).await.unwrap_err();
        assert!(error.to_string().contains("no endpoint was given"), "{error}");
    }

    #[tokio::test]
    async fn what_worked_is_tried_first_and_local_ways_before_tcp() {
        let unix = || Endpoint::Unix { path: "/none".into() };
        let tcp = Endpoint::Tcp {
            addr: ([127, 0, 0, 1], 1).into(),
            token: aetherium_agent_proto::Token::from_random([0; 32]),
        };
        let client = AgentClient::new(vec![tcp, unix()], Deadlines::default());
        assert_eq!(client.order(), [1, 0]);
        *client.inner.works.lock().unwrap() = Some(0);
        assert_eq!(client.order(), [0, 1]);
        assert_eq!(client.transport(), Some(AgentTransport::Tcp));
    }
}
