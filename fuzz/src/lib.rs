//! What is fuzzed. One function for each target: any bytes in, nothing out, and no panic.
//!
//! The targets run them under libFuzzer (`make fuzz`); a test of `agent-proto` runs the same
//! functions over the corpus and over random bytes with every ordinary test run.

use aetherium_agent_proto::line::LineRequest;
use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::system::{MachineIdentity, Metrics};
use aetherium_agent_proto::{ExecSpec, ExitReport, Hello, ProcessInfo, files};
use buffa::Message;

/// A message of the RPC, the first byte says which: decoded, understood, encoded, decoded again.
pub fn rpc_message(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else { return };
    match which % 24 {
        0 => understood(bytes, |it: wire::HelloResponse| Some(Hello::from(it))),
        1 => understood(bytes, |it: wire::StartRequest| Some(ExecSpec::from(it))),
        2 => understood(bytes, |it: wire::Exited| Some(ExitReport::from(it))),
        3 => understood(bytes, |it: wire::ProcessEntry| Some(ProcessInfo::from(it))),
        4 => understood(bytes, |it: wire::ProcessEvent| it.event),
        5 => understood(bytes, |it: wire::StdinRequest| Some(it.data)),
        6 => understood(bytes, |it: wire::ListResponse| Some(it.processes)),
        7 => understood(bytes, |it: wire::FileEntry| Some(files::FileInfo::from(it))),
        8 => understood(bytes, |it: wire::WritePart| it.part),
        9 => understood(bytes, |it: wire::WriteOpen| it.options().ok()),
        10 => understood(bytes, |it: wire::ReadPart| it.part),
        11 => understood(bytes, |it: wire::ListDirPart| Some(it.entries)),
        12 => understood(bytes, |it: wire::WatchEvent| it.into_change()),
        13 => understood(bytes, |it: wire::WriteTarPart| it.part),
        14 => understood(bytes, |it: wire::TunnelInput| it.part),
        15 => understood(bytes, |it: wire::TunnelOutput| it.part),
        16 => understood(bytes, |it: wire::ListeningEvent| it.read()),
        17 => understood(bytes, |it: wire::MetricsResponse| Some(Metrics::from(it))),
        18 => understood(bytes, |it: wire::SetIdentityRequest| MachineIdentity::try_from(it).ok()),
        19 => understood(bytes, |it: wire::WriteSecretRequest| Some(it.data)),
        20 => understood(bytes, |it: wire::ReadRequest| Some(it.path)),
        21 => understood(bytes, |it: wire::SetAttributesRequest| Some(it.path)),
        22 => understood(bytes, |it: wire::SendSignalRequest| Some(it.signal)),
        _ => understood(bytes, |it: wire::Refusal| Some(it.code)),
    }
}

/// What decodes must encode to something that decodes to the same.
fn understood<M, T>(bytes: &[u8], read: impl FnOnce(M) -> Option<T>)
where
    M: Message + PartialEq + std::fmt::Debug,
{
    let Ok(message) = M::decode_from_slice(bytes) else { return };
    let again = M::decode_from_slice(&message.encode_to_vec());
    assert_eq!(again.as_ref().ok(), Some(&message), "it reads otherwise the second time");
    drop(read(message));
}

/// A line of the JSON protocol: read, written, read again.
pub fn line_request(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<LineRequest>(data) else { return };
    let Ok(line) = serde_json::to_vec(&request) else { return };
    let again = serde_json::from_slice::<LineRequest>(&line).ok();
    assert_eq!(again.as_ref(), Some(&request), "it reads otherwise the second time");
    drop(request.into_spec());
}
