//! `hivemind port-forward`

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use clap::Args;
use futures::{SinkExt, StreamExt, future, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use super::{Context, complete, output::line, verbs::running};
use crate::{
    api::{connect::OUTPUT_END, exec::channel},
    model::{ErrorCode, Phase, Problem, Protocol},
};

/// Data is carried in chunks of this size.
const CHUNK: usize = 16 << 10;
/// Connections at once; further ones wait.
const CONNECTIONS: usize = 512;

pub(super) const EXAMPLES: &str = "\
Examples:
  hivemind port-forward web 8080:80            http://127.0.0.1:8080 is port 80 of an instance of web
  hivemind port-forward web-x7k2p 5432         the same port here and there, of one instance
  hivemind port-forward web.local 8080:80 :443 ports of a service; :443 takes any port that is free here
Each connection goes to the next instance that is ready. It reaches what listens on an instance's loopback as well, and no
policy is asked, as with exec. Only this machine's 127.0.0.1 and ::1 are listened on. Ctrl-C ends it.";

#[derive(Args, Debug)]
pub(super) struct ForwardArgs {
    /// App, instance by name or id, or service
    #[arg(value_name = "APP|INSTANCE|SERVICE", add = complete::targets())]
    target: String,
    /// Ports: of this machine, and of the instances
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = ports)]
    ports: Vec<Ports>,
}

/// A port here (0 is any), and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    here: u16,
    there: u16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let wrong = || format!("{text:?} is no port; write PORT, LOCAL:PORT or :PORT, e.g. 8080:80");
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    match text.split_once(':') {
        None => number(text).map(|port| Ports { here: port, there: port }),
        Some(("", there)) => number(there).map(|there| Ports { here: 0, there }),
        Some((here, there)) => Ok(Ports { here: number(here)?, there: number(there)? }),
    }
}

/// Where connections go.
struct Forward<'a> {
    context: &'a Context,
    target: &'a str,
    next: AtomicUsize,
}

pub(super) async fn run(context: &Context, args: &ForwardArgs) -> Result<(), Problem> {
    let forward = Forward { context, target: &args.target, next: AtomicUsize::new(0) };
    let mut listeners = Vec::new();
    for ports in &args.ports {
        // What is misspelt is said now, not at the first connection.
        forward.instance(ports.there).await?;
        listeners.extend(listen(context, *ports).await?);
    }
    let accepting = Mutex::new(());
    let serve = listeners.into_iter().map(|(listener, there)| {
        let (forward, accepting) = (&forward, &accepting);
        async move {
            let mut open = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(()) = open.next(), if !open.is_empty() => {}
                    accepted = accept(&listener, accepting), if open.len() < CONNECTIONS => {
                        open.push(forward.carry(accepted, there));
                    }
                }
            }
        }
    });
    future::join_all(serve).await;
    Ok(())
}

/// Listens on both loopback addresses, on the same port; IPv6 need not be there.
async fn listen(context: &Context, ports: Ports) -> Result<Vec<(TcpListener, u16)>, Problem> {
    let bind = |address: IpAddr, port: u16| async move {
        let address = SocketAddr::new(address, port);
        TcpListener::bind(address).await.map_err(|error| {
            let (code, hint) = match error.kind() {
                io::ErrorKind::PermissionDenied => (ErrorCode::Forbidden, "take a port above 1023"),
                _ => (ErrorCode::PortTaken, "take another one, or any: :PORT"),
            };
            (error.kind(), Problem::new(code, format!("cannot listen on {address}: {error}")).hint(hint))
        })
    };
    let v4 = bind(Ipv4Addr::LOCALHOST.into(), ports.here).await.map_err(|(_, problem)| problem)?;
    let port = v4.local_addr().map_or(ports.here, |address| address.port());
    let mut all = vec![(v4, ports.there)];
    match bind(Ipv6Addr::LOCALHOST.into(), port).await {
        Ok(v6) => all.push((v6, ports.there)),
        Err((io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported, _)) => {}
        Err((_, problem)) => return Err(problem),
    }
    // What it listens on is what was asked for, where the port was left open.
    if context.output.wants_document() {
        let listening = serde_json::json!({ "port": port, "target": ports.there });
        context.output.streamed(&listening)?;
    } else {
        line(&format!("127.0.0.1:{port} and [::1]:{port} are port {}", ports.there));
    }
    Ok(all)
}

/// The next connection. Without a free file descriptor it waits for one that ends.
async fn accept(listener: &TcpListener, one: &Mutex<()>) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => {
                let _one = one.lock().await;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

impl Forward<'_> {
    /// The id or name of the instance whose turn it is, and its port.
    async fn instance(&self, port: u16) -> Result<(String, u16), Problem> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match running(self.context, self.target).await {
            Ok(mut instances) => {
                if instances.iter().any(|instance| instance.phase == Phase::Ready) {
                    instances.retain(|instance| instance.phase == Phase::Ready);
                }
                let turn = turn % instances.len();
                Ok((instances.swap_remove(turn).id.to_string(), port))
            }
            Err(problem) if problem.code == ErrorCode::NotFound => {
                let found = self.context.client.get_service(&self.context.scope, self.target).await;
                // The word is neither: what was said of apps and instances is said.
                let Ok(service) = found else { return Err(problem) };
                let tcp = |other: &&crate::model::ServicePort| other.port == port && other.protocol == Protocol::Tcp;
                let port = service.ports.iter().find(tcp).map_or(port, |port| port.target);
                let backends = service.backends.len();
                let none = || Problem::new(ErrorCode::NotRunning, format!("nobody serves {} now", service.name));
                let backend = service.backends.get(turn % backends.max(1)).ok_or_else(none)?;
                Ok((backend.instance.clone(), port))
            }
            Err(problem) => Err(problem),
        }
    }

    /// Carries one connection to its end. A fault ends it alone.
    async fn carry(&self, stream: TcpStream, port: u16) {
        if let Err(problem) = self.carried(stream, port).await {
            self.context.output.problem(&problem);
        }
    }

    async fn carried(&self, stream: TcpStream, port: u16) -> Result<(), Problem> {
        let (instance, port) = self.instance(port).await?;
        let Context { client, scope, .. } = self.context;
        let (mut to, mut from) = client.connect_to_instance(scope, &instance, port.into()).await?;
        let _ = stream.set_nodelay(true);
        let (mut read, mut write) = stream.into_split();
        let outward = async {
            loop {
                let mut data = BytesMut::with_capacity(CHUNK);
                let ended = read.read_buf(&mut data).await? == 0;
                let message = if ended { (channel::STDIN_END, Bytes::new()) } else { (channel::STDIN, data.freeze()) };
                to.send(message).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                if ended {
                    return Ok(());
                }
            }
        };
        let inward = async {
            while let Some(Ok((channel, data))) = from.next().await {
                match channel {
                    channel::STDOUT => write.write_all(&data).await?,
                    OUTPUT_END => {
                        write.shutdown().await?;
                        return Ok(());
                    }
                    _ => {}
                }
            }
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        };
        // An error means that one of them has gone, which the other sees as its connection ends.
        let _: io::Result<((), ())> = tokio::try_join!(outward, inward);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_elsewhere() {
        for (text, expected) in [
            ("80", Some((80, 80))),
            ("8080:80", Some((8080, 80))),
            (":80", Some((0, 80))),
            ("0", None),
            ("8080:", None),
            ("0:80", None),
            ("web", None),
            ("1:2:3", None),
            ("70000", None),
        ] {
            let found = ports(text).ok().map(|ports| (ports.here, ports.there));
            assert_eq!(found, expected, "{text}");
        }
    }
}
