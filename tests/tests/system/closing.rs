//! What is connected to an instance that goes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, ErrorKind},
    net::UdpSocket,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine};
use tokio::time::Instant;
use xtask::{machine::Machine, wait};

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

/// How soon after a backend is gone from the tables its clients have another.
const SOON: Duration = Duration::from_secs(1);
/// Sockets of each kind: more than would all get the same backend.
const SOCKETS: usize = 12;

#[test]
#[ignore = "run by another test"]
fn answers_datagrams() {
    let name = std::env::var(HOLD).expect("started by a test");
    let socket = UdpSocket::bind("0.0.0.0:9").expect("a port");
    println!("\nopen");
    loop {
        // A client that has gone is its own business.
        if let Ok((_, client)) = socket.recv_from(&mut [0; 16]) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    }
}

/// Sends on each of its sockets all the time, and says who answers when that is somebody else than before.
#[test]
#[ignore = "run by another test"]
fn asks_by_datagrams_all_the_time() {
    let to = std::env::var(HOLD).expect("started by a test");
    let open = |connected: bool| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_nonblocking(true).expect("it does not wait");
        if connected {
            socket.connect(&to).expect("a backend");
        }
        socket
    };
    let mut sockets: Vec<_> = (0..2 * SOCKETS).map(|n| (open(n < SOCKETS), String::new())).collect();
    // Paced by a socket that nobody answers.
    let pace = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    pace.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
    loop {
        for (n, (socket, known)) in sockets.iter_mut().enumerate() {
            let connected = n < SOCKETS;
            let kind = if connected { "connected" } else { "unconnected" };
            // One that was closed is connected to nobody: why is told by the next word that is waited for.
            let _ = if connected { socket.send(b"who") } else { socket.send_to(b"who", &to) };
            let mut name = [0; 16];
            match socket.recv(&mut name) {
                Ok(length) if known.as_bytes() != &name[..length] => {
                    *known = String::from_utf8_lossy(&name[..length]).into_owned();
                    println!("\n{kind} {n} {known}");
                }
                // Whoever holds a socket that was closed makes another.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => *socket = open(connected),
                _ => {}
            }
        }
        let _ = pace.recv(&mut [0]);
    }
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test of this file in an instance's namespace. Its lines come with when they came.
fn inside(machine: &Machine, id: &str, test: &str, hold: &str) -> Result<(Running, Lines)> {
    let netns = machine.daemon.dir().join("run/netns").join(format!("hm-{id}"));
    let mut command = machine.sandbox.command("nsenter");
    command.arg(format!("--net={}", netns.display())).arg(std::env::current_exe()?);
    command.args(["--exact", &format!("closing::{test}"), "--ignored", "--nocapture"]);
    let mut child = command.env(HOLD, hold).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().context("no output")?);
    let lines = Lines::default();
    let told = lines.clone();
    thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| told.push(line)));
    Ok((Running(child), lines))
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(Instant, String)>>>);

impl Lines {
    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
    }

    fn all(&self) -> Vec<(Instant, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who answers each socket, by kind and number, and since when.
    fn answered(&self) -> BTreeMap<(String, String), (Instant, String)> {
        let read = |(at, line): (Instant, String)| {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind @ ("connected" | "unconnected"), number, who] = words[..] else { return None };
            Some(((kind.to_owned(), number.to_owned()), (at, who.to_owned())))
        };
        self.all().into_iter().filter_map(read).collect()
    }
}

#[test]
fn clients_of_datagrams_have_another_backend_a_second_after_theirs_is_removed() -> Result<()> {
    let (machine, image) = machine("reselect")?;
    let web =
        ["app", "deploy", "--image", &image, "--name", "web", "--replicas", "2", "--port", "80", "--port", "9/udp"];
    machine.hivemind(&[&web[..], &["--wait"]].concat())?.ok()?;
    let client =
        ["app", "deploy", "--image", &image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&client)?.ok()?;
    let service = machine.hivemind(&["service", "info", "web", "-o", "json"])?.json()?;
    let address = service["addresses"]["v4"].as_str().context("the service has no IPv4 address")?.to_owned();
    let mut servers = Vec::new();
    for instance in instances(&machine, "web")? {
        let (server, lines) = inside(&machine, &instance.id, "answers_datagrams", &instance.id)?;
        wait::until("a server", PATIENCE, || {
            ensure!(lines.all().iter().any(|(_, line)| line == "open"), "not open");
            Ok(())
        })?;
        servers.push(server);
    }
    let id = instances(&machine, "client")?.into_iter().next().context("no client")?.id;
    let (_client, lines) = inside(&machine, &id, "asks_by_datagrams_all_the_time", &format!("{address}:9"))?;
    wait::until("answers on all sockets", PATIENCE, || {
        let all = lines.answered().len();
        ensure!(all == 2 * SOCKETS, "{all}");
        Ok(())
    })?;
    let before = lines.answered();
    machine.hivemind(&["app", "scale", "web", "--replicas", "1"])?.ok()?;
    // Which of them goes is told by the tables; when, by the last look at which it was still there.
    let mut there = Instant::now();
    wait::until("the removal to be in the tables", PATIENCE, || {
        let look = Instant::now();
        let rows = machine.daemon.get("/v1/dataplane/tables/peers")?;
        let left = instances(&machine, "web")?.len();
        if left > 1 || rows.matches("web-").count() > 2 {
            there = look;
        }
        ensure!(left == 1 && rows.matches("web-").count() <= 2, "{left} instances, {rows}");
        Ok(())
    })?;
    let stays = instances(&machine, "web")?.into_iter().next().context("no instance")?.id;
    let gone = |of: &BTreeMap<(String, String), (Instant, String)>| {
        of.iter().filter(|(_, (_, who))| *who != stays).map(|(socket, _)| socket.clone()).collect::<Vec<_>>()
    };
    for kind in ["connected", "unconnected"] {
        ensure!(gone(&before).iter().any(|(of, _)| of == kind), "no {kind} socket had the one that goes");
    }
    wait::until("all sockets to have another backend", SOON, || {
        let left = gone(&lines.answered());
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    let last = gone(&before).iter().filter_map(|socket| Some(lines.answered().get(socket)?.0)).max();
    let took = last.context("no answer")?.saturating_duration_since(there);
    println!("{took:?} after the last look at which it was there");
    ensure!(took <= SOON, "{took:?}");
    drop(servers);
    machine.close()
}
