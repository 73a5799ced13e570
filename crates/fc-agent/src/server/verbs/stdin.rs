//! Input on its way to a process.

use std::sync::Arc;

use aetherium_agent_proto::ProcessSelector;
use aetherium_agent_proto::rpc::wire;
use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;

use crate::exec::{Children, Phase, StdinError, Writer};

/// Writes a call's input to the process its first message names, and says how much was taken. The
/// call's end closes stdin, unless it asked otherwise or broke off; a handover ends it early.
pub(super) async fn feed(
    children: &Arc<Children>,
    mut requests: InboundStream<wire::StdinRequest>,
) -> Result<wire::StdinResponse, ConnectError> {
    let mut phase = children.phase();
    let mut writer: Option<(u32, Writer)> = None;
    let (mut taken, mut keep_open) = (0_u64, false);
    let answer = |taken, handed_over| wire::StdinResponse {
        taken,
        handed_over,
        ..wire::StdinResponse::default()
    };
    loop {
        let request = tokio::select! {
            biased;
            () = handover(&mut phase) => return Ok(answer(taken, true)),
            request = requests.next() => request,
        };
        let Some(request) = request.transpose()? else { break };
        let request = request.view();
        keep_open |= request.keep_open;
        let (pid, writer) = match &mut writer {
            Some(writer) => writer,
            None => writer.insert((request.pid, open(children, request.pid)?)),
        };
        let mut data = request.data;
        while !data.is_empty() {
            let written = tokio::select! {
                biased;
                () = handover(&mut phase) => return Ok(answer(taken, true)),
                written = writer.write(data) => written,
            };
            let written = written.map_err(|error| {
                ConnectError::failed_precondition(format!("stdin of process {pid}: {error}"))
            })?;
            taken += written as u64;
            data = &data[written..];
        }
    }
    if let Some((_, writer)) = writer
        && !keep_open
    {
        writer.close();
    }
    Ok(answer(taken, false))
}

fn open(children: &Arc<Children>, pid: u32) -> Result<Writer, ConnectError> {
    let process = children.find(&ProcessSelector::Pid(pid));
    let process = process.map_err(|error| ConnectError::not_found(error.to_string()))?;
    process.writer().map_err(|error| match error {
        StdinError::NotOpen(_) => ConnectError::failed_precondition(error.to_string()),
        StdinError::Busy(_) => ConnectError::already_exists(error.to_string()),
    })
}

async fn handover(phase: &mut tokio::sync::watch::Receiver<Phase>) {
    // The sender lives as long as the agent.
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
}
