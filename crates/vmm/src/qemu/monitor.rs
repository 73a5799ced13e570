//! QEMU's control socket (QMP): greeting, capabilities, and one question at a time.
//!
//! Protocol: the "QEMU Machine Protocol Specification" in QEMU's documentation. Each message is one
//! line of JSON; a line with `event` may come at any time.

use crate::VmmError;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::BorrowedFd,
    path::Path,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::UnixStream,
};

/// The longest message that is read.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A connection to a QEMU's monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and negotiates. The socket listens before QEMU starts, so that the greeting's
    /// coming is QEMU's being ready, and the connection's end is QEMU's end.
    pub(crate) async fn connect(path: &Path) -> Result<Self, VmmError> {
        let connected = UnixStream::connect(path).await;
        let stream = connected.map_err(VmmError::io("connect to", path))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        let greeting = monitor.read("the greeting").await?;
        if greeting.get("QMP").is_none() {
            return Err(unexpected("the greeting", &greeting));
        }
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Runs a command and returns what it returns.
    pub(crate) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, VmmError> {
        let line = line(command, &arguments);
        let written = self.stream.write_all(line.as_bytes()).await;
        written.map_err(VmmError::io("write to", "the monitor"))?;
        self.answer(command).await
    }

    /// Gives QEMU an open file, which it knows by `name` until this connection ends.
    pub(crate) async fn lend(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), VmmError> {
        let (line, lent) = (line("getfd", &json!({ "fdname": name })), [file]);
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut files = SendAncillaryBuffer::new(&mut space);
            files.push(SendAncillaryMessage::ScmRights(&lent));
            let text = [IoSlice::new(line.as_bytes())];
            Ok(sendmsg(self.stream.get_ref(), &text, &mut files, SendFlags::NOSIGNAL)?)
        };
        let sent = self.stream.get_ref().async_io(Interest::WRITABLE, send).await;
        let failed = || VmmError::io("write to", "the monitor");
        let sent = sent.map_err(failed())?;
        // The file went with the first byte.
        self.stream.write_all(&line.as_bytes()[sent..]).await.map_err(failed())?;
        self.answer("getfd").await.map(drop)
    }

    /// The answer to the command that was sent last.
    async fn answer(&mut self, command: &str) -> Result<Value, VmmError> {
        loop {
            let mut answer = self.read(command).await?;
            if answer.get("event").is_some() {
                continue;
            }
            return match answer.get_mut("return") {
                Some(value) => Ok(value.take()),
                None => Err(unexpected(command, &answer)),
            };
        }
    }

    /// Runs a command of the monitor for people, and returns its text.
    pub(crate) async fn human(&mut self, command: &str) -> Result<String, VmmError> {
        let arguments = json!({ "command-line": command });
        match self.execute("human-monitor-command", arguments).await? {
            Value::String(text) => Ok(text),
            other => Err(unexpected(command, &other)),
        }
    }

    async fn read(&mut self, question: &str) -> Result<Value, VmmError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_LINE_BYTES);
        let read = limited.read_until(b'\n', &mut line).await;
        read.map_err(VmmError::io("read from", "the monitor"))?;
        if line.last() != Some(&b'\n') {
            let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(VmmError::io("read from", "the monitor")(ended));
        }
        serde_json::from_slice(&line).map_err(|_| VmmError::Control {
            command: question.to_owned(),
            answer: String::from_utf8_lossy(&line).chars().take(200).collect(),
        })
    }
}

/// A command as QEMU reads it.
fn line(command: &str, arguments: &Value) -> String {
    let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
    line.push('\n');
    line
}

fn unexpected(command: &str, answer: &Value) -> VmmError {
    VmmError::Control {
        command: command.to_owned(),
        answer: answer.to_string().chars().take(200).collect(),
    }
}
