//! Archives of images as they are written: tar (POSIX ustar), part by part, to whoever reads.

use std::io;

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;

/// What a tar archive is made of, bytes.
const BLOCK: usize = 512;

/// The last bytes of an archive.
pub(super) const END: Bytes = Bytes::from_static(&[0; 2 * BLOCK]);

/// Where an archive goes.
pub(super) type Sender = mpsc::Sender<io::Result<Bytes>>;

/// The path of a blob in an OCI layout.
pub(super) fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

async fn send(sender: &Sender, bytes: Bytes) -> io::Result<()> {
    sender.send(Ok(bytes)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

async fn header(sender: &Sender, path: &str, size: u64) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    send(sender, Bytes::copy_from_slice(header.as_bytes())).await
}

/// Files end at a multiple of the block.
async fn pad(sender: &Sender, size: u64) -> io::Result<()> {
    let missing = (size.next_multiple_of(BLOCK as u64) - size) as usize;
    send(sender, Bytes::from_static(&[0; BLOCK]).slice(..missing)).await
}

/// A file that is in memory.
pub(super) async fn whole(sender: &Sender, path: &str, bytes: Bytes) -> io::Result<()> {
    let size = bytes.len() as u64;
    header(sender, path, size).await?;
    send(sender, bytes).await?;
    pad(sender, size).await
}

/// A blob as it is read.
pub(super) async fn blob(
    sender: &Sender,
    digest: &str,
    size: u64,
    mut content: BoxStream<'static, io::Result<Bytes>>,
) -> io::Result<()> {
    header(sender, &path(digest), size).await?;
    let mut done = 0;
    while let Some(part) = content.next().await {
        let part = part?;
        done += part.len() as u64;
        send(sender, part).await?;
    }
    if done != size {
        return Err(io::Error::other(format!("{digest} has {done} bytes instead of {size}")));
    }
    pad(sender, size).await
}
