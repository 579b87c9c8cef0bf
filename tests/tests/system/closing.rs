//! What is connected to an instance that goes.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine};
use xtask::wait;

/// Tells the process that holds a socket where to connect it to.
const HOLD: &str = "HIVEMIND_TEST_HOLD";

#[test]
#[ignore = "run by another test"]
fn holds_a_datagram_socket() {
    let to = std::env::var(HOLD).expect("started by a test");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    println!("\nopen");
    println!("\n{:?}", socket.recv(&mut [0]).map_err(|error| error.kind()));
}

/// It never sends anything, so that no packet tells it.
#[test]
fn a_datagram_socket_to_an_instance_that_is_removed_is_closed() -> Result<()> {
    let (machine, image) = machine("closing")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--port", "80", "--port", "9/udp", "--wait"];
    machine.hivemind(&web)?.ok()?;
    let client =
        ["app", "deploy", "--image", &image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&client)?.ok()?;
    let service = machine.hivemind(&["service", "info", "web", "-o", "json"])?.json()?;
    let address = service["addresses"]["v4"].as_str().context("the service has no IPv4 address")?.to_owned();
    let id = instances(&machine, "client")?.into_iter().next().context("no client")?.id;
    let netns = machine.daemon.dir().join("run/netns").join(format!("hm-{id}"));
    let mut command = machine.sandbox.command("nsenter");
    command.arg(format!("--net={}", netns.display())).arg(std::env::current_exe()?);
    command.args(["--exact", "closing::holds_a_datagram_socket", "--ignored", "--nocapture"]);
    let mut child = command.env(HOLD, format!("{address}:9")).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines().map_while(Result::ok);
    ensure!(lines.any(|line| line == "open"), "it is not connected");
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    let told = lines.find(|line| line.contains("Connection"));
    child.wait()?;
    ensure!(told.as_deref() == Some("Err(ConnectionAborted)"), "{told:?}");
    wait::until("the event", PATIENCE, || {
        let events = machine.hivemind(&["events"])?.ok()?;
        ensure!(events.contains("SocketsClosed"), "{events}");
        Ok(())
    })?;
    machine.close()
}
