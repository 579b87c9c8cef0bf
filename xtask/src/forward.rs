//! The way from a port of this machine's loopback into a sandbox: so that a browser outside reaches what is published
//! inside.
//!
//! The forwarder is a process inside that accepts on a socket from outside, handed to it as its standard input. What it
//! connects to it connects to from inside, as any other process of that machine does, so that the socket hooks see it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    process::Child,
};

use anyhow::{Context, Result};
use xtask::sandbox::Sandbox;

/// The hidden command that runs a forwarder.
pub(crate) const COMMAND: &str = "forward";

/// Forwards `port` of this machine's loopback, IPv4 and, where there is IPv6, that too, to the same port inside.
pub(crate) fn start(sandbox: &Sandbox, port: u16) -> Result<Vec<Child>> {
    let v4 = bind(port)?;
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok();
    let spawn = |listener: TcpListener, v6: bool| {
        let mut command = sandbox.command(std::env::current_exe()?);
        command.arg(COMMAND).arg(port.to_string()).stdin(OwnedFd::from(listener));
        if v6 {
            command.arg("--v6");
        }
        command.spawn().context("cannot start the forwarder")
    };
    let mut children = vec![spawn(v4, false)?];
    if let Some(listener) = v6 {
        children.push(spawn(listener, true)?);
    }
    Ok(children)
}

/// Whether `port` can be forwarded.
pub(crate) fn ensure_free(port: u16) -> Result<()> {
    bind(port).map(drop)
}

fn bind(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
        format!("port {port} of this machine is taken (hint: ss -ltnp 'sport = :{port}' names by whom)")
    })
}

/// Accepts on standard input until it is killed.
pub(crate) fn run(port: u16, v6: bool) -> Result<()> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    for client in listener.incoming() {
        let client = client.context("cannot accept")?;
        // Detached on purpose: a connection ends by itself, and all of them with the process.
        std::thread::spawn(move || {
            let to = if v6 {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port))
            } else {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            };
            // Nobody listens: closing the client's connection says so.
            to.and_then(|server| join(&client, &server))
        });
    }
    Ok(())
}

/// Copies both ways until both have ended.
fn join(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    std::thread::scope(|scope| {
        let back = scope.spawn(|| copy(server, client));
        copy(client, server)?;
        back.join().unwrap_or(Ok(()))
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    // The other end may be closed already.
    let _ = to.shutdown(Shutdown::Write);
    copied.map(drop)
}
