//! The verbs: from the wire's messages to work, and back.

use std::path::PathBuf;

use aetherium_agent_proto::files::{
    Attributes, ByteRange, DEFAULT_DIR_MODE, FileInfo, LinkPolicy, Ownership, Reach,
};
use aetherium_agent_proto::rpc::files::{mode_from_wire, path_from_wire};
use aetherium_agent_proto::rpc::{Outgoing, wire};
use aetherium_agent_proto::{Refusal, RefusalKind};
use bytes::Bytes;
use connectrpc::{
    ConnectError, Encodable, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream, StreamMessage,
};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::read::ReadPart;
use super::watch::Watch;
use super::write::Piece;
use super::{QUEUE, absolute, change, info, list, read, tar_in, tar_out, write};
use crate::actor::Actor;

/// The verbs.
pub(crate) struct FileVerbs;

impl wire::Files for FileVerbs {
    async fn read(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ReadRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ReadPart> + Send + use<>>> {
        let request = request.to_owned_message();
        let path = absolute(request.path)?;
        let range = ByteRange { offset: request.offset, length: request.length };
        let actor = Actor::find(request.user.as_deref())?;
        let parts = actor.stream(QUEUE, move |parts| read::read(&path, range, parts))?;
        streamed(parts, |part| match part {
            ReadPart::Data(data) => Outgoing::Data(data),
            ReadPart::Info(info) => {
                use wire::__buffa::oneof::read_part::Part;
                let part = Some(Part::Entry(Box::new(info.into())));
                Outgoing::Message(Box::new(wire::ReadPart { part, ..wire::ReadPart::default() }))
            }
        })
    }

    async fn write<'a>(
        &'a self,
        _context: RequestContext,
        mut parts: InboundStream<wire::WritePart>,
    ) -> ServiceResult<impl Encodable<wire::WriteResponse> + Send + use<'a>> {
        use wire::__buffa::oneof::write_part::Part;
        use wire::__buffa::view::oneof::write_part::Part as View;
        let first = first(&mut parts).await?.to_owned_message().part;
        let Some(Part::Open(open)) = first else { return Err(not_opened()) };
        let options = open.options().map_err(invalid)?;
        let actor = Actor::find(open.user.as_deref())?;
        let path = absolute(open.path)?;
        let info = upload(
            parts,
            |part| match part.view().part.as_ref()? {
                View::Data(data) => Some(Piece::Data(part.bytes().slice_ref(data))),
                View::Commit(_) => Some(Piece::Commit),
                View::Open(_) => None,
            },
            |pieces| actor.run(move || write::write(&path, &options, pieces)),
        );
        Response::ok(wire::WriteResponse {
            entry: wire::FileEntry::from(info.await?).into(),
            ..wire::WriteResponse::default()
        })
    }

    async fn list_dir(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ListDirRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::ListDirPart> + Send + use<>>> {
        let request = request.to_owned_message();
        let (path, depth) = (absolute(request.path)?, request.depth);
        let actor = Actor::find(request.user.as_deref())?;
        let batches = actor.stream(QUEUE, move |parts| list::list(&path, depth, parts))?;
        streamed(batches, |batch: Vec<FileInfo>| wire::ListDirPart {
            entries: batch.into_iter().map(Into::into).collect(),
            ..wire::ListDirPart::default()
        })
    }

    async fn stat<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::StatRequest>,
    ) -> ServiceResult<impl Encodable<wire::FileEntry> + Send + use<'a>> {
        let request = request.to_owned_message();
        let path = absolute(request.path)?;
        let actor = Actor::find(request.user.as_deref())?;
        let found = actor.run(move || info::Names::read().look(&path)).await?;
        Response::ok(wire::FileEntry::from(found))
    }

    async fn make_dir<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::MakeDirRequest>,
    ) -> ServiceResult<impl Encodable<wire::MakeDirResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let mode = mode_from_wire(request.mode).map_err(invalid)?.unwrap_or(DEFAULT_DIR_MODE);
        let path = absolute(request.path)?;
        let actor = Actor::find(request.user.as_deref())?;
        let created = actor.run(move || change::make_dir(&path, mode)).await?;
        Response::ok(wire::MakeDirResponse { created, ..wire::MakeDirResponse::default() })
    }

    async fn rename<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::RenameRequest>,
    ) -> ServiceResult<impl Encodable<wire::RenameResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let (from, to) = (absolute(request.from)?, absolute(request.to)?);
        let actor = Actor::find(request.user.as_deref())?;
        actor.run(move || change::rename(&from, &to)).await?;
        Response::ok(wire::RenameResponse::default())
    }

    async fn remove<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::RemoveRequest>,
    ) -> ServiceResult<impl Encodable<wire::RemoveResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let (path, reach) = (absolute(request.path)?, reach(request.recursive));
        let actor = Actor::find(request.user.as_deref())?;
        actor.run(move || change::remove(&path, reach)).await?;
        Response::ok(wire::RemoveResponse::default())
    }

    async fn symlink<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SymlinkRequest>,
    ) -> ServiceResult<impl Encodable<wire::SymlinkResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let (target, path) = (path_from_wire(request.target), absolute(request.path)?);
        let actor = Actor::find(request.user.as_deref())?;
        actor.run(move || change::symlink(&target, &path)).await?;
        Response::ok(wire::SymlinkResponse::default())
    }

    async fn set_attributes<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::SetAttributesRequest>,
    ) -> ServiceResult<impl Encodable<wire::SetAttributesResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let path = absolute(request.path)?;
        let wish = Attributes {
            mode: mode_from_wire(request.mode).map_err(invalid)?,
            ownership: Ownership { user: request.owner, group: request.group },
        };
        let actor = Actor::find(request.user.as_deref())?;
        let info = actor.run(move || change::set_attributes(&path, &wish)).await?;
        Response::ok(wire::SetAttributesResponse {
            entry: wire::FileEntry::from(info).into(),
            ..wire::SetAttributesResponse::default()
        })
    }

    async fn watch(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::WatchRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::WatchEvent> + Send + use<>>> {
        let request = request.to_owned_message();
        let path = absolute(request.path)?;
        let actor = Actor::find(request.user.as_deref())?;
        let mut events = Watch::begin(actor, path, reach(request.recursive)).await?.tell();
        let began = futures::stream::once(std::future::ready(Ok(wire::WatchEvent::watching())));
        let rest = futures::stream::poll_fn(move |cx| events.poll_recv(cx))
            .map(|event| event.map(wire::WatchEvent::from).map_err(ConnectError::from));
        let events: ServiceStream<wire::WatchEvent> = Box::pin(began.chain(rest));
        Response::ok(events)
    }

    async fn read_tar(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::ReadTarRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<wire::TarPart> + Send + use<>>> {
        let request = request.to_owned_message();
        let path = absolute(request.path)?;
        let actor = Actor::find(request.user.as_deref())?;
        let chunks = actor.stream(QUEUE, move |parts| tar_out::pack(&path, parts))?;
        streamed(chunks, |data: Bytes| Outgoing::<wire::TarPart>::Data(data))
    }

    async fn write_tar<'a>(
        &'a self,
        _context: RequestContext,
        mut parts: InboundStream<wire::WriteTarPart>,
    ) -> ServiceResult<impl Encodable<wire::WriteTarResponse> + Send + use<'a>> {
        use wire::__buffa::oneof::write_tar_part::Part;
        use wire::__buffa::view::oneof::write_tar_part::Part as View;
        let first = first(&mut parts).await?.to_owned_message().part;
        let Some(Part::Open(open)) = first else { return Err(not_opened()) };
        let links = if open.outward_links { LinkPolicy::Any } else { LinkPolicy::Inside };
        let actor = Actor::find(open.user.as_deref())?;
        let path: PathBuf = absolute(open.path)?;
        let unpacked = upload(
            parts,
            |part| match part.view().part.as_ref()? {
                View::Data(data) => Some(Piece::Data(part.bytes().slice_ref(data))),
                View::Commit(_) => Some(Piece::Commit),
                View::Open(_) => None,
            },
            |pieces| actor.run(move || tar_in::unpack(&path, links, pieces)),
        );
        Response::ok(wire::WriteTarResponse::from(unpacked.await?))
    }
}

fn reach(recursive: bool) -> Reach {
    if recursive { Reach::Recursive } else { Reach::Itself }
}

fn invalid(error: impl ToString) -> Refusal {
    Refusal::new(RefusalKind::InvalidRequest, error.to_string())
}

fn not_opened() -> ConnectError {
    invalid("the first message of an upload says what is uploaded").into()
}

async fn first<M: buffa::HasMessageView>(
    parts: &mut InboundStream<M>,
) -> Result<StreamMessage<M>, ConnectError> {
    parts.next().await.unwrap_or_else(|| Err(not_opened()))
}

/// Hands an upload's pieces to the work that takes them, and waits for its result. Work that ends
/// before the upload does ends the call at once. A caller that leaves drops this, which cuts off the pieces.
async fn upload<M, T, W>(
    mut parts: InboundStream<M>,
    piece: impl Fn(&StreamMessage<M>) -> Option<Piece>,
    work: impl FnOnce(mpsc::Receiver<Piece>) -> W,
) -> Result<T, ConnectError>
where
    M: buffa::HasMessageView,
    W: Future<Output = Result<T, Refusal>>,
{
    let (sender, pieces) = mpsc::channel(QUEUE);
    let forward = async move {
        while let Some(Ok(part)) = parts.next().await {
            let Some(piece) = piece(&part) else { continue };
            let is_last = matches!(piece, Piece::Commit);
            if sender.send(piece).await.is_err() || is_last {
                break;
            }
        }
    };
    let work = std::pin::pin!(work(pieces));
    tokio::select! {
        biased;
        result = work => Ok(result?),
        result = async { forward.await; std::future::pending().await } => result,
    }
}

/// Parts of work as a stream of messages.
fn streamed<T: Send + 'static, M: Send + 'static>(
    mut parts: mpsc::Receiver<Result<T, Refusal>>,
    message: impl Fn(T) -> M + Send + 'static,
) -> ServiceResult<ServiceStream<M>> {
    let messages = futures::stream::poll_fn(move |cx| parts.poll_recv(cx))
        .map(move |part| part.map(&message).map_err(ConnectError::from));
    let messages: ServiceStream<M> = Box::pin(messages);
    Response::ok(messages)
}
