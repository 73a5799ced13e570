//! The one-line JSON protocol: read a line, run it, answer with a line.

use std::sync::Arc;

use aetherium_agent_proto::line::{
    LineError, LineRequest, LineResponse, LineResult, MAX_OUTPUT_BYTES, MAX_REQUEST_BYTES,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Agent, Caller, PROOF_DEADLINE};
use crate::exec::{Event, StreamId};

/// Serves lines until the caller ends or breaks a rule.
pub(super) async fn serve(mut caller: Caller, agent: Arc<Agent>) {
    let mut buffer = BytesMut::new();
    let mut proven = false;
    loop {
        // Only the proof is urgent: a person at a keyboard may think between two lines.
        let line = if proven {
            read_line(&mut caller, &mut buffer).await
        } else {
            match tokio::time::timeout(PROOF_DEADLINE, read_line(&mut caller, &mut buffer)).await {
                Ok(line) => line,
                Err(_) => return,
            }
        };
        let (answer, goes_on) = match line {
            Line::Whole(line) => match check(&line, caller.must_prove, &agent) {
                Ok(request) => {
                    caller.admission.prove();
                    proven = true;
                    (run(request, &agent).await, true)
                }
                Err(error) => (failed(error), false),
            },
            Line::TooLong => (failed(too_long()), false),
            Line::End => return,
        };
        if write_answer(&mut caller, &answer).await.is_err() || !goes_on {
            return;
        }
    }
}

enum Line {
    Whole(BytesMut),
    TooLong,
    End,
}

async fn read_line(caller: &mut Caller, buffer: &mut BytesMut) -> Line {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            return Line::Whole(buffer.split_to(end + 1));
        }
        if buffer.len() >= MAX_REQUEST_BYTES {
            return Line::TooLong;
        }
        match caller.socket.read_buf(buffer).await {
            Ok(0) if buffer.is_empty() => return Line::End,
            // A last line needs no newline.
            Ok(0) => return Line::Whole(buffer.split()),
            Ok(_) => {}
            Err(_) => return Line::End,
        }
    }
}

fn check(line: &[u8], must_prove: bool, agent: &Agent) -> Result<LineRequest, LineError> {
    let request: LineRequest = serde_json::from_slice(line).map_err(|error| LineError {
        code: "bad_request".to_owned(),
        detail: format!("the line is no request: {error}; send {{\"cmd\":\"echo\"}}"),
    })?;
    let proves = request.token.as_ref().is_some_and(|token| agent.is_token(token.expose()));
    if must_prove && !proves {
        return Err(LineError {
            code: "unauthenticated".to_owned(),
            detail: "over TCP a request needs this VM's token in `token`".to_owned(),
        });
    }
    Ok(request)
}

async fn run(request: LineRequest, agent: &Agent) -> LineResponse {
    let mut reader = match agent.children().start(request.into_spec()) {
        // This caller reads one answer and cannot come back for the rest of it.
        Ok(reader) => reader.until_the_end(),
        Err(error) => {
            let code = error.kind().code().to_owned();
            return failed(LineError { code, detail: error.to_string() });
        }
    };
    let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
    let mut keep = |kept: &mut Vec<u8>, data: &[u8]| {
        let room = MAX_OUTPUT_BYTES - kept.len();
        truncated |= data.len() > room;
        kept.extend_from_slice(&data[..data.len().min(room)]);
    };
    loop {
        match reader.next().await {
            Some(Event::Output(StreamId::Stdout, data)) => keep(&mut stdout, &data),
            Some(Event::Output(StreamId::Stderr, data)) => keep(&mut stderr, &data),
            // The process waits for its starter, which this is, so nothing is ever skipped.
            Some(Event::Skipped(_)) => {}
            Some(Event::Exited(exit)) => {
                let result = LineResult::new(&exit, &stdout, &stderr, truncated);
                return LineResponse::Done(result);
            }
            Some(Event::HandedOver(_)) | None => {
                let detail = "the agent is ending; its processes were killed".to_owned();
                return failed(LineError { code: "ending".to_owned(), detail });
            }
        }
    }
}

async fn write_answer(caller: &mut Caller, answer: &LineResponse) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    caller.socket.write_all(&text).await?;
    caller.socket.flush().await
}

fn failed(error: LineError) -> LineResponse {
    LineResponse::Failed { error }
}

fn too_long() -> LineError {
    LineError {
        code: "too_long".to_owned(),
        detail: format!("a request line has at most {MAX_REQUEST_BYTES} bytes"),
    }
}
