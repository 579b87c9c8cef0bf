//! containerd's content store: blobs by digest, with the labels by which the garbage collector finds what they need.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use containerd_client::{
    services::v1::{
        AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest,
        WriteContentResponse,
    },
    tonic::{Code, Status, Streaming},
};
use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::{Client, Lease, found};
use crate::{RuntimeError, manifest::Descriptor};

/// Bytes per message. containerd accepts 16 MiB; with three layers at once this bounds our memory.
const CHUNK: usize = 1 << 20;

/// Labels of a blob.
pub(super) type Labels = HashMap<String, String>;

/// Why a blob was not stored.
#[derive(Debug)]
pub(super) enum WriteFailure<E> {
    /// containerd refused.
    Store(RuntimeError),
    /// The blob is not what its descriptor says.
    Mismatch(String),
    /// It could not be read.
    Source(E),
}

impl Client {
    /// A small blob; `None` if it is not there.
    pub(super) async fn read_blob(&self, digest: &str) -> Result<Option<Bytes>, RuntimeError> {
        let request = self.request(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let failed = |status: &Status| self.error("read", digest, status);
        let stream = found(self.call(self.content().read(request)).await).map_err(|s| failed(&s))?;
        let Some(mut stream) = stream else { return Ok(None) };
        let mut blob = BytesMut::new();
        loop {
            match found(stream.message().await).map_err(|s| failed(&s))? {
                Some(Some(part)) => blob.extend_from_slice(&part.data),
                Some(None) => return Ok(Some(blob.freeze())),
                None => return Ok(None),
            }
        }
    }

    /// A blob of any size as it is read.
    pub(super) fn stream_blob(&self, digest: &str) -> BoxStream<'static, Result<Bytes, RuntimeError>> {
        let (client, digest) = (self.clone(), digest.to_owned());
        let opened = async move {
            let request = client.request(ReadContentRequest { digest: digest.clone(), offset: 0, size: 0 });
            let failed = move |client: &Self, status: &Status| client.error("read", &digest, status);
            let parts = client.call(client.content().read(request)).await.map_err(|s| failed(&client, &s))?;
            Ok(parts.map(move |part| part.map(|part| part.data.into()).map_err(|s| failed(&client, &s))))
        };
        stream::once(opened).try_flatten().boxed()
    }

    /// Whether a blob is there.
    pub(super) async fn has_blob(&self, digest: &str) -> Result<bool, RuntimeError> {
        let request = self.request(InfoRequest { digest: digest.to_owned() });
        let info = found(self.call(self.content().info(request)).await);
        info.map(|info| info.is_some()).map_err(|s| self.error("look for", digest, &s))
    }

    /// Opens the writer of a blob; `None` if the store has it already, which `lease` then keeps.
    pub(super) async fn open_blob(
        &self,
        blob: &Descriptor,
        labels: &Labels,
        lease: &Lease,
    ) -> Result<Option<BlobWriter>, RuntimeError> {
        // What a killed predecessor of ours left half written. It could be resumed, at the price of trusting it.
        let reference = format!("hivemind-{}", blob.digest);
        let request = self.request(AbortRequest { r#ref: reference.clone() });
        let failed = |status: &Status| self.error("write", &blob.digest, status);
        found(self.call(self.content().abort(request)).await).map_err(|s| failed(&s))?;

        let (sender, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat as i32,
            r#ref: reference.clone(),
            total: blob.size,
            expected: blob.digest.clone(),
            ..Default::default()
        };
        // Cannot fail: the receiver is here and the channel is empty.
        let _ = sender.send(first).await;
        let mut content = self.content();
        let opened = self.call(content.write(self.leased(ReceiverStream::new(receiver), lease))).await;
        let answers = match opened {
            Ok(mut answers) => self.first_answer(&mut answers).await.map(|()| answers),
            Err(status) => Err(status),
        };
        match answers {
            Ok(answers) => Ok(Some(BlobWriter { sender, answers, reference, offset: 0 })),
            Err(s) if s.code() == Code::AlreadyExists => {
                self.label_blob(&blob.digest, labels).await?;
                Ok(None)
            }
            Err(s) => Err(failed(&s)),
        }
    }

    async fn first_answer(&self, answers: &mut Streaming<WriteContentResponse>) -> Result<(), Status> {
        answers.message().await?.map(|_| ()).ok_or_else(|| Status::internal("the write ended at once"))
    }

    /// Sets labels of a blob that is there.
    async fn label_blob(&self, digest: &str, labels: &Labels) -> Result<(), RuntimeError> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_owned(), labels: labels.clone(), ..Default::default() };
        let mask = prost_types::FieldMask { paths };
        let request = self.request(UpdateRequest { info: Some(info), update_mask: Some(mask) });
        let updated = self.call(self.content().update(request)).await;
        updated.map(|_| ()).map_err(|s| self.error("label", digest, &s))
    }

    /// Writes the whole of a blob that `open_blob` opened, and seals it. `progress` is told of every part.
    pub(super) async fn fill_blob<E>(
        &self,
        writer: BlobWriter,
        blob: &Descriptor,
        labels: &Labels,
        source: impl Stream<Item = Result<Bytes, E>>,
        progress: impl Fn(u64),
    ) -> Result<(), WriteFailure<E>> {
        let failed = |status: &Status| WriteFailure::Store(self.error("write", &blob.digest, status));
        let mut writer = writer;
        let mut source = std::pin::pin!(source);
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while let Some(part) = source.next().await {
            let part = part.map_err(WriteFailure::Source)?;
            progress(part.len() as u64);
            buffer.extend_from_slice(&part);
            if writer.offset + buffer.len() as i64 > blob.size {
                return Err(WriteFailure::Mismatch(format!("{} is longer than {} bytes", blob.digest, blob.size)));
            }
            if buffer.len() >= CHUNK {
                let data = buffer.split().freeze();
                writer.send(WriteAction::Write, blob, data, Labels::new()).await.map_err(|s| failed(&s))?;
            }
        }
        let length = writer.offset + buffer.len() as i64;
        if length != blob.size {
            let why = format!("{} has {length} bytes instead of {}", blob.digest, blob.size);
            return Err(WriteFailure::Mismatch(why));
        }
        let sealed = writer.send(WriteAction::Commit, blob, buffer.freeze(), labels.clone()).await;
        match sealed {
            Ok(()) => Ok(()),
            Err(s) if s.code() == Code::AlreadyExists => {
                self.label_blob(&blob.digest, labels).await.map_err(WriteFailure::Store)
            }
            Err(s) if s.code() == Code::FailedPrecondition => Err(WriteFailure::Mismatch(s.message().to_owned())),
            Err(s) => Err(failed(&s)),
        }
    }
}

/// An open write. One message is under way at a time: that bounds the memory on both sides.
pub(super) struct BlobWriter {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    offset: i64,
}

impl BlobWriter {
    async fn send(
        &mut self,
        action: WriteAction,
        blob: &Descriptor,
        data: Bytes,
        labels: Labels,
    ) -> Result<(), Status> {
        let message = WriteContentRequest {
            action: action as i32,
            r#ref: self.reference.clone(),
            total: blob.size,
            expected: blob.digest.clone(),
            offset: self.offset,
            data: data.to_vec(),
            labels,
        };
        self.offset += message.data.len() as i64;
        // If it cannot be sent, the answers say why.
        let _ = self.sender.send(message).await;
        match self.answers.message().await? {
            Some(_) => Ok(()),
            None => Err(Status::internal("the write ended early")),
        }
    }
}
