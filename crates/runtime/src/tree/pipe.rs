//! Between a thread that reads or writes an archive and the tasks that carry it.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes that are gathered before they are handed on.
const CHUNK: usize = 64 << 10;
/// Chunks on the way.
const CHUNKS: usize = 4;

/// The end that a thread writes to. What it has gathered goes out when it is flushed, or full.
#[derive(Debug)]
pub struct Writing {
    to: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
}

/// The end that a thread reads from.
#[derive(Debug)]
pub struct Reading {
    from: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

/// A pipe from a thread to a stream.
pub fn pipe() -> (Writing, impl Stream<Item = io::Result<Bytes>> + Send + use<>) {
    let (to, from) = mpsc::channel(CHUNKS);
    (Writing { to, gathered: Vec::with_capacity(CHUNK) }, ReceiverStream::new(from))
}

impl Writing {
    /// Ends the stream with a fault.
    pub fn fail(self, error: io::Error) {
        // An error means that nobody reads any more.
        let _ = self.to.blocking_send(Err(error));
    }
}

impl Write for Writing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK - self.gathered.len());
        self.gathered.extend_from_slice(&data[..taken]);
        if self.gathered.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.gathered, Vec::with_capacity(CHUNK));
        self.to.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Reading {
    /// The reading end, and where chunks are put.
    pub fn new() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (to, from) = mpsc::channel(CHUNKS);
        (to, Self { from, rest: Bytes::new() })
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.rest = chunk?,
            }
        }
        let taken = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}
