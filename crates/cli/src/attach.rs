//! One command in a VM with this terminal's standard input, output and error.

use crate::{client::Client, error::CliError, progress::Bars, stdio::Stdout};
use aetherium_model::{
    Code, Fault,
    interactive::{
        CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, ClientFrame, MAX_FRAME_BYTES, Open,
        ServerFrame,
    },
    run::{Command, ExitReport},
};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use std::io::{Read as _, Write as _};
use tokio::sync::mpsc;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Error as WebSocketError, Message, client::IntoClientRequest as _, http::HeaderValue,
    },
};

/// Pieces of input that may wait to be sent.
const INPUTS: usize = 4;
/// Signals that may wait to be sent.
const SIGNALS: usize = 1;
/// SIGINT, see signal(7).
const SIGINT: i32 = 2;
/// A docker-compatible set of codes for failures that are not the command's.
pub(crate) const EXIT_SYSTEM: u8 = 125;
const EXIT_NOT_EXECUTABLE: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;
/// 128 + SIGINT, as a shell has it.
const EXIT_INTERRUPTED: u8 = 130;

/// Where a command's output goes.
pub(crate) trait Output {
    /// The command runs.
    fn started(&mut self) {}
    /// Takes a piece of standard output.
    fn stdout(&mut self, bytes: &[u8]);
    /// Takes a piece of standard error.
    fn stderr(&mut self, bytes: &[u8]);
}

/// This process's own output. A reader that has gone is no error of the command's.
pub(crate) struct Terminal {
    waiting: Option<Bars>,
}

impl Terminal {
    /// Shows nothing but the command's output.
    pub(crate) const fn quiet() -> Self {
        Self { waiting: None }
    }

    /// Shows what is being waited for until the command runs.
    pub(crate) fn waiting(label: &str) -> Self {
        let bars = Bars::new();
        if bars.on_terminal() {
            bars.spin(label);
        }
        Self { waiting: Some(bars) }
    }
}

impl Output for Terminal {
    fn started(&mut self) {
        if let Some(bars) = self.waiting.take() {
            bars.clear();
        }
    }

    fn stdout(&mut self, bytes: &[u8]) {
        // Whoever waits for the command's end hears of it where it ought to.
        let _ = Stdout.write_all(bytes).and_then(|()| Stdout.flush());
    }

    fn stderr(&mut self, bytes: &[u8]) {
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.started();
    }
}

/// What is fed to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Nothing.
    None,
    /// This process's standard input.
    Standard,
}

/// Runs a command in a place of the API, such as `vms/ID`, live, and returns how it ended. The first Ctrl-C goes to the command as
/// SIGINT; the second gives up on it.
pub(crate) async fn run(
    client: &Client,
    place: &str,
    command: &Command,
    input: Input,
    output: &mut impl Output,
) -> Result<ExitReport, CliError> {
    let mut request = format!("{}/api/v1/{place}/exec", client.base().replacen("http", "ws", 1))
        .into_client_request()
        .map_err(|error| system(format!("the server's URL: {error}")))?;
    let key = HeaderValue::from_str(&format!("Bearer {}", client.key()))
        .map_err(|_| system("the API key has characters that no header may carry"))?;
    request.headers_mut().insert("authorization", key);
    let (socket, _) = connect_async(request).await.map_err(|error| refused(place, &error))?;
    let (mut to_server, from_server) = socket.split();
    let open = Open { command: command.clone(), stdin: input == Input::Standard };
    to_server.send(frame(&open)?).await.map_err(|error| system(error.to_string()))?;

    let (signals, to_send) = mpsc::channel(SIGNALS);
    let sending = send_all(to_server, standard_input(input), to_send);
    let receiving = receive_all(from_server, signals, output);
    // Side by side: a command that echoes its input stops reading when nobody reads its output.
    tokio::select! {
        end = receiving => end,
        error = sending => Err(system(format!("the connection broke: {error}")).into()),
    }
}

/// Sends input and signals for as long as the connection lasts.
async fn send_all(
    mut to_server: impl Sink<Message, Error = WebSocketError> + Unpin,
    mut inputs: mpsc::Receiver<Message>,
    mut signals: mpsc::Receiver<Message>,
) -> WebSocketError {
    loop {
        let message = tokio::select! {
            biased;
            Some(signal) = signals.recv() => signal,
            Some(piece) = inputs.recv() => piece,
            else => return std::future::pending().await,
        };
        if let Err(error) = to_server.send(message).await {
            return error;
        }
    }
}

/// Delivers output until the command's end.
async fn receive_all(
    mut from_server: impl Stream<Item = Result<Message, WebSocketError>> + Unpin,
    signals: mpsc::Sender<Message>,
    output: &mut impl Output,
) -> Result<ExitReport, CliError> {
    let mut interrupts = 0;
    let mut started = false;
    loop {
        tokio::select! {
            message = from_server.next() => match message {
                Some(Ok(Message::Binary(bytes))) => deliver(&bytes, output),
                Some(Ok(Message::Text(text))) => {
                    if let Some(end) = ended(&text)? {
                        return Ok(end);
                    }
                    started = true;
                    output.started();
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(system("the server closed the connection").into());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Err(system(format!("the connection broke: {error}")).into());
                }
            },
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if interrupts > 1 || !started {
                    let fault = Fault::new(Code::Cancelled, "interrupted; the command was given up on");
                    return Err(CliError::new(fault).exiting_with(EXIT_INTERRUPTED));
                }
                // The queue is empty: this is the only one ever sent.
                let _ = signals.try_send(frame(&ClientFrame::Signal { signal: SIGINT })?);
            }
        }
    }
}

fn deliver(frame: &[u8], output: &mut impl Output) {
    match frame.split_first() {
        Some((&CHANNEL_STDOUT, bytes)) => output.stdout(bytes),
        Some((&CHANNEL_STDERR, bytes)) => output.stderr(bytes),
        _ => {}
    }
}

/// The result, if this frame is the last one.
fn ended(text: &str) -> Result<Option<ExitReport>, CliError> {
    match serde_json::from_str(text)
        .map_err(|error| system(format!("a frame of the server: {error}")))?
    {
        ServerFrame::Started { .. } => Ok(None),
        ServerFrame::Exit { result } => Ok(Some(result)),
        ServerFrame::Fault { fault } => {
            let code = exit_code(fault.code);
            Err(CliError::new(fault).exiting_with(code))
        }
    }
}

/// 127 and 126 as a shell has them, where the guest says why a command did not start.
const fn exit_code(code: Code) -> u8 {
    match code {
        Code::CommandNotFound => EXIT_NOT_FOUND,
        Code::CommandNotExecutable => EXIT_NOT_EXECUTABLE,
        _ => EXIT_SYSTEM,
    }
}

/// Reads standard input on a thread of its own: it may block for ever, and the program does not
/// wait for it when it ends.
fn standard_input(input: Input) -> mpsc::Receiver<Message> {
    let (sender, receiver) = mpsc::channel(INPUTS);
    if input == Input::Standard {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            debug_assert!(buffer.len() < MAX_FRAME_BYTES);
            while let Ok(read @ 1..) = std::io::stdin().read(&mut buffer) {
                let mut frame = Vec::with_capacity(read + 1);
                frame.push(CHANNEL_STDIN);
                frame.extend_from_slice(&buffer[..read]);
                if sender.blocking_send(Message::Binary(frame.into())).is_err() {
                    return;
                }
            }
            if let Ok(close) = frame(&ClientFrame::CloseStdin) {
                // A command that has ended needs no end of its input.
                let _ = sender.blocking_send(close);
            }
        });
    }
    receiver
}

fn frame(value: &impl serde::Serialize) -> Result<Message, CliError> {
    Ok(Message::Text(serde_json::to_string(value).map_err(Fault::internal)?.into()))
}

fn refused(place: &str, error: &WebSocketError) -> CliError {
    if let WebSocketError::Http(answer) = error
        && let Some(body) = answer.body()
        && let Ok(problem) = serde_json::from_slice::<aetherium_gateway::api::Problem>(body)
    {
        let mut fault = Fault::new(problem.code, problem.detail);
        fault.remedy = problem.remedy;
        return CliError::new(fault).exiting_with(EXIT_SYSTEM);
    }
    CliError::new(system(format!("no connection to {place}: {error}"))).exiting_with(EXIT_SYSTEM)
}

fn system(detail: impl Into<String>) -> Fault {
    Fault::new(Code::Unavailable, detail).remedy("see whether the server runs; its log says more")
}
