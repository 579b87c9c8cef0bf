//! Questions over UDP. What the table knows is answered where it is read; what has to wait does so beside it.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::UdpSocket, task::JoinSet};

use super::{
    message::Transport,
    reply::{Replier, Soon},
};

/// The largest question: more than any that is worth an answer.
const LARGEST: usize = 4096;
/// Questions that are read before others get their turn.
const BATCH: usize = 64;
/// Questions of one reader that may wait; beyond that they are lost, as a full socket would lose them.
const WAITING: usize = 2048;

/// Serves a socket, until it is dropped. Several may serve the same one.
pub(super) async fn serve(socket: Arc<UdpSocket>, replier: Arc<Replier>) {
    let mut waiting = JoinSet::new();
    let mut buffer = [0; LARGEST];
    loop {
        while waiting.try_join_next().is_some() {}
        if let Err(error) = socket.readable().await {
            tracing::error!(%error, "the name server's socket is broken");
            return;
        }
        for _ in 0..BATCH {
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "a question could not be read");
                    continue;
                }
            };
            match replier.at_once(&buffer[..length], from.ip().to_canonical(), Transport::Udp) {
                Soon::Now(answer) => send(&socket, &answer, from).await,
                Soon::Later(question) if waiting.len() < WAITING => {
                    let (socket, replier) = (Arc::clone(&socket), Arc::clone(&replier));
                    waiting.spawn(async move {
                        let answer = replier.later(&question, from.ip().to_canonical(), Transport::Udp).await;
                        send(&socket, &answer, from).await;
                    });
                }
                Soon::Later(_) | Soon::Never => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, "an answer could not be sent");
    }
}
