//! Files of a guest: `client.files().read("/etc/hosts")`.
//!
//! Streams are bounded: what is not read is not sent, and what the guest cannot take is not
//! accepted. Nothing is sent twice.

use std::path::Path;

use aetherium_agent_proto::files::{
    Attributes, ByteRange, FileEvent, FileInfo, FileMode, LinkPolicy, Reach, Unpacked, WriteOptions,
};
use aetherium_agent_proto::rpc::files::path_to_wire;
use aetherium_agent_proto::rpc::wire;
use aetherium_agent_proto::rpc::wire::__buffa::oneof::read_part::Part;
use aetherium_agent_proto::rpc::wire::__buffa::oneof::{write_part, write_tar_part};
use aetherium_agent_proto::rpc::wire::__buffa::view;
use bytes::Bytes;
use connectrpc::client::ServerStream;
use hyper::body::Incoming;

use crate::connection::Connection;
use crate::upload::Upload;
use crate::{AgentClient, AgentError};

/// The files of a guest, as one of its users or as the agent.
#[derive(Clone)]
pub struct Files {
    client: AgentClient,
    user: Option<String>,
}

impl Files {
    pub(crate) fn new(client: AgentClient) -> Self {
        Self { client, user: None }
    }

    /// The same files with the rights of a user, by name or number, and no others.
    #[must_use]
    pub fn as_user(&self, user: impl Into<String>) -> Self {
        Self { client: self.client.clone(), user: Some(user.into()) }
    }

    /// What a file is. A link is told of itself.
    ///
    /// # Errors
    /// [`AgentError::Refused`] when the guest cannot; any error of dialling or calling. So for all
    /// that follow.
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo, AgentError> {
        let request = wire::StatRequest {
            path: path_to_wire(path.as_ref()),
            user: self.user.clone(),
            ..wire::StatRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let entry = self.client.unary(&connection, "stat", wire.stat(request)).await?;
        Ok(entry.into_owned().into())
    }

    /// Opens a regular file for reading, or a range of it.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn read(
        &self,
        path: impl AsRef<Path>,
        range: ByteRange,
    ) -> Result<FileReader, AgentError> {
        let request = wire::ReadRequest {
            path: path_to_wire(path.as_ref()),
            offset: range.offset,
            length: range.length,
            user: self.user.clone(),
            ..wire::ReadRequest::default()
        };
        let connection = self.client.connection().await?;
        let open = async {
            let parts = connection.files().read(request).await;
            let mut parts = parts.map_err(|e| connection.error("read", &e))?;
            let first = parts.message().await.map_err(|e| connection.error("read", &e))?;
            match first.and_then(|it| it.to_owned_message().part) {
                Some(Part::Entry(entry)) => Ok((FileInfo::from(*entry), parts)),
                _ => Err(unexpected("read", "data before the file's entry")),
            }
        };
        let (info, parts) = self.client.call("read", open).await?;
        Ok(FileReader { client: self.client.clone(), connection: connection.clone(), info, parts })
    }

    /// Opens a file for writing.
    ///
    /// # Errors
    /// None here but those of dialling; what the guest refuses is told by the writer.
    pub async fn write(
        &self,
        path: impl AsRef<Path>,
        options: WriteOptions,
    ) -> Result<FileWriter, AgentError> {
        let open = wire::WriteOpen::new(path.as_ref(), options, self.user.clone());
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let upload = Upload::open(self.client.clone(), connection, "write", |parts| async move {
            wire.write(parts).await.map(|answer| answer.into_owned())
        });
        let open = write_part::Part::Open(Box::new(open));
        let mut writer = FileWriter { upload };
        writer.upload.send(part(open)).await?;
        Ok(writer)
    }

    /// Lists what lies below a directory, `depth` levels deep; 1 is its own entries.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn list(&self, path: impl AsRef<Path>, depth: u32) -> Result<Listing, AgentError> {
        let request = wire::ListDirRequest {
            path: path_to_wire(path.as_ref()),
            depth,
            user: self.user.clone(),
            ..wire::ListDirRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let batches = self.client.unary(&connection, "list_dir", wire.list_dir(request)).await?;
        Ok(Listing { client: self.client.clone(), connection, batches })
    }

    /// Makes a directory and those above it, with this mode or 0755; whether it was not there.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn make_dir(
        &self,
        path: impl AsRef<Path>,
        mode: Option<FileMode>,
    ) -> Result<bool, AgentError> {
        let request = wire::MakeDirRequest {
            path: path_to_wire(path.as_ref()),
            mode: mode.map(FileMode::bits),
            user: self.user.clone(),
            ..wire::MakeDirRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let answer = self.client.unary(&connection, "make_dir", wire.make_dir(request)).await?;
        Ok(answer.into_owned().created)
    }

    /// Renames within one file system.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), AgentError> {
        let request = wire::RenameRequest {
            from: path_to_wire(from.as_ref()),
            to: path_to_wire(to.as_ref()),
            user: self.user.clone(),
            ..wire::RenameRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        self.client.unary(&connection, "rename", wire.rename(request)).await.map(drop)
    }

    /// Removes a file, a link or a directory; never what a link leads to.
    ///
    /// # Errors
    /// As [`Files::stat`]. What was removed before a failure stays removed.
    pub async fn remove(&self, path: impl AsRef<Path>, reach: Reach) -> Result<(), AgentError> {
        let request = wire::RemoveRequest {
            path: path_to_wire(path.as_ref()),
            recursive: reach == Reach::Recursive,
            user: self.user.clone(),
            ..wire::RemoveRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        self.client.unary(&connection, "remove", wire.remove(request)).await.map(drop)
    }

    /// Makes a symbolic link at `path` that leads to `target`.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn symlink(
        &self,
        target: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<(), AgentError> {
        let request = wire::SymlinkRequest {
            target: path_to_wire(target.as_ref()),
            path: path_to_wire(path.as_ref()),
            user: self.user.clone(),
            ..wire::SymlinkRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        self.client.unary(&connection, "symlink", wire.symlink(request)).await.map(drop)
    }

    /// Changes mode and owner, and tells what the file is then.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn set_attributes(
        &self,
        path: impl AsRef<Path>,
        attributes: Attributes,
    ) -> Result<FileInfo, AgentError> {
        let request = wire::SetAttributesRequest {
            path: path_to_wire(path.as_ref()),
            mode: attributes.mode.map(FileMode::bits),
            owner: attributes.ownership.user,
            group: attributes.ownership.group,
            user: self.user.clone(),
            ..wire::SetAttributesRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let answer = wire.set_attributes(request);
        let answer = self.client.unary(&connection, "set_attributes", answer).await?;
        let entry = answer.into_owned().entry.into_option();
        entry.map(Into::into).ok_or_else(|| unexpected("set_attributes", "no entry"))
    }

    /// Watches a directory, or all below it. What happens after this returns is told.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn watch(&self, path: impl AsRef<Path>, reach: Reach) -> Result<Watch, AgentError> {
        let request = wire::WatchRequest {
            path: path_to_wire(path.as_ref()),
            recursive: reach == Reach::Recursive,
            user: self.user.clone(),
            ..wire::WatchRequest::default()
        };
        let connection = self.client.connection().await?;
        let begin = async {
            let events = connection.files().watch(request).await;
            let mut events = events.map_err(|e| connection.error("watch", &e))?;
            // The first event says that the watch has begun.
            match events.message().await.map_err(|e| connection.error("watch", &e))? {
                Some(_) => Ok(events),
                None => Err(unexpected("watch", "no event")),
            }
        };
        let events = self.client.call("watch", begin).await?;
        Ok(Watch { client: self.client.clone(), connection: connection.clone(), events })
    }

    /// A directory as a tar stream.
    ///
    /// # Errors
    /// As [`Files::stat`]; what goes wrong later is told by the reader.
    pub async fn read_tar(&self, path: impl AsRef<Path>) -> Result<TarReader, AgentError> {
        let request = wire::ReadTarRequest {
            path: path_to_wire(path.as_ref()),
            user: self.user.clone(),
            ..wire::ReadTarRequest::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let parts = self.client.unary(&connection, "read_tar", wire.read_tar(request)).await?;
        Ok(TarReader { client: self.client.clone(), connection, parts })
    }

    /// Opens a directory, made if need be, to unpack a tar stream into.
    ///
    /// # Errors
    /// None here but those of dialling; what the guest refuses is told by the writer.
    pub async fn write_tar(
        &self,
        path: impl AsRef<Path>,
        links: LinkPolicy,
    ) -> Result<TarWriter, AgentError> {
        let open = wire::TarOpen {
            path: path_to_wire(path.as_ref()),
            outward_links: links == LinkPolicy::Any,
            user: self.user.clone(),
            ..wire::TarOpen::default()
        };
        let connection = self.client.connection().await?;
        let wire = connection.files();
        let upload =
            Upload::open(self.client.clone(), connection, "write_tar", |parts| async move {
                wire.write_tar(parts).await.map(|answer| answer.into_owned())
            });
        let mut writer = TarWriter { upload };
        writer.upload.send(tar_part(write_tar_part::Part::Open(Box::new(open)))).await?;
        Ok(writer)
    }
}

fn part(part: write_part::Part) -> wire::WritePart {
    wire::WritePart { part: Some(part), ..wire::WritePart::default() }
}

fn tar_part(part: write_tar_part::Part) -> wire::WriteTarPart {
    wire::WriteTarPart { part: Some(part), ..wire::WriteTarPart::default() }
}

fn unexpected(call: &'static str, detail: &str) -> AgentError {
    AgentError::Agent { call, code: "unexpected_event".to_owned(), detail: detail.to_owned() }
}

/// A file under way to its reader. Dropped, it is read no further.
pub struct FileReader {
    client: AgentClient,
    connection: Connection,
    info: FileInfo,
    parts: ServerStream<Incoming, view::ReadPartView<'static>>,
}

impl FileReader {
    /// What the file was when it was opened.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// As [`Files::stat`]. What was read before is all there is.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        loop {
            let part = self.client.unless_ended(self.parts.message()).await?;
            let part = part.map_err(|e| self.connection.error("read", &e))?;
            let Some(part) = part else { return Ok(None) };
            // A slice of the message's own buffer: nothing is copied.
            if let Some(view::oneof::read_part::Part::Data(data)) = &part.view().part {
                return Ok(Some(part.bytes().slice_ref(data)));
            }
        }
    }
}

/// A tar stream under way to its reader. Dropped, it is packed no further.
pub struct TarReader {
    client: AgentClient,
    connection: Connection,
    parts: ServerStream<Incoming, view::TarPartView<'static>>,
}

impl TarReader {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// As [`Files::stat`]. The archive is then not complete.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        let part = self.client.unless_ended(self.parts.message()).await?;
        let part = part.map_err(|e| self.connection.error("read_tar", &e))?;
        Ok(part.map(|part| part.bytes().slice_ref(part.view().data)))
    }
}

/// A file under way to the guest. Dropped before [`FileWriter::commit`], a file that was to be
/// replaced is as it was before.
pub struct FileWriter {
    upload: Upload<wire::WritePart, wire::WriteResponse>,
}

impl FileWriter {
    /// Sends bytes; waits while the guest is slow to write.
    ///
    /// # Errors
    /// Why the guest takes no more.
    pub async fn write(&mut self, data: Bytes) -> Result<(), AgentError> {
        self.upload.send_data(data, |data| part(write_part::Part::Data(data.into()))).await
    }

    /// Says that nothing is missing, and waits until the file is in its place and on disk.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn commit(mut self) -> Result<FileInfo, AgentError> {
        self.upload.send(part(write_part::Part::Commit(Box::default()))).await?;
        let entry = self.upload.finish().await?.entry.into_option();
        entry.map(Into::into).ok_or_else(|| unexpected("write", "no entry"))
    }
}

/// A tar stream under way to the guest.
pub struct TarWriter {
    upload: Upload<wire::WriteTarPart, wire::WriteTarResponse>,
}

impl TarWriter {
    /// Sends bytes; waits while the guest is slow to unpack.
    ///
    /// # Errors
    /// Why the guest takes no more.
    pub async fn write(&mut self, data: Bytes) -> Result<(), AgentError> {
        self.upload.send_data(data, |data| tar_part(write_tar_part::Part::Data(data.into()))).await
    }

    /// Says that nothing is missing, and waits until all is unpacked.
    ///
    /// # Errors
    /// Why it is not. What was unpacked before stays.
    pub async fn commit(mut self) -> Result<Unpacked, AgentError> {
        self.upload.send(tar_part(write_tar_part::Part::Commit(Box::default()))).await?;
        self.upload.finish().await.map(Into::into)
    }
}

/// A directory being listed.
pub struct Listing {
    client: AgentClient,
    connection: Connection,
    batches: ServerStream<Incoming, view::ListDirPartView<'static>>,
}

impl Listing {
    /// The next entries, in no order; `None` at the end.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn next(&mut self) -> Result<Option<Vec<FileInfo>>, AgentError> {
        let batch = self.client.unless_ended(self.batches.message()).await?;
        let batch = batch.map_err(|e| self.connection.error("list_dir", &e))?;
        let entries = batch.map(|batch| batch.to_owned_message().entries);
        Ok(entries.map(|entries| entries.into_iter().map(FileInfo::from).collect()))
    }
}

/// A watched directory. Dropped, it is watched no longer.
pub struct Watch {
    client: AgentClient,
    connection: Connection,
    events: ServerStream<Incoming, view::WatchEventView<'static>>,
}

impl Watch {
    /// The next event; `None` when the directory itself is gone. Safe to drop and call again.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub async fn next(&mut self) -> Result<Option<FileEvent>, AgentError> {
        loop {
            let event = self.client.unless_ended(self.events.message()).await?;
            let event = event.map_err(|e| self.connection.error("watch", &e))?;
            let Some(event) = event else { return Ok(None) };
            if let Some(change) = event.to_owned_message().into_change() {
                return Ok(Some(change));
            }
        }
    }
}
