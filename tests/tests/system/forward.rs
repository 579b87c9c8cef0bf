//! `hivemind port-forward`

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, machine, until_ready};
use xtask::machine::Machine;

/// A forwarding, which ends with this.
struct Forwarding {
    child: Child,
    port: u16,
}

impl Forwarding {
    fn start(machine: &Machine, target: &str, ports: &str) -> Result<Self> {
        let mut command = machine.daemon.command(&machine.sandbox, &["port-forward", target, ports]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("a pipe")?;
        let mut forwarding = Self { child, port: 0 };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let port = line.strip_prefix("127.0.0.1:").and_then(|rest| rest.split(' ').next());
        forwarding.port = port.with_context(|| format!("it said {line:?}"))?.parse()?;
        Ok(forwarding)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks on a connection that is half closed once the question is sent.
fn ask(mut stream: TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn ports_of_instances_are_ports_here() -> Result<()> {
    let (machine, image) = machine("forward")?;
    let args = ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--replicas", "2"];
    machine.hivemind(&[&args[..], &["--wait"]].concat())?.ok()?;
    let instances = until_ready(&machine, "web", 2)?;
    let names: BTreeSet<_> = instances.iter().map(|instance| format!("Hello from {}", instance.name)).collect();
    let one = instances.first().context("two")?.name.clone();

    for (target, served) in [("web", names.len()), ("web.local", names.len()), (&one, 1)] {
        let forwarding = Forwarding::start(&machine, target, ":80")?;
        let port = forwarding.port;
        let answers = machine.sandbox.on_network(|| {
            // All are open before the first one asks.
            let hosts = ["127.0.0.1", "::1"].into_iter().cycle().take(40);
            let open: Vec<_> = hosts.map(|host| TcpStream::connect((host, port))).collect::<Result<_, _>>()?;
            open.into_iter().map(ask).collect::<Result<Vec<_>>>()
        })?;
        let said: BTreeSet<_> =
            names.iter().filter(|name| answers.iter().any(|answer| answer.contains(name.as_str()))).collect();
        let whole = answers.iter().all(|answer| names.iter().any(|name| answer.contains(name.as_str())));
        ensure!(whole && said.len() == served, "{target}: {answers:?}");
    }

    // A port that nobody listens on: the connection ends, and the forwarding says why.
    let mut command = machine.daemon.command(&machine.sandbox, &["port-forward", &one, ":81"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take().context("a pipe")?, child.stderr.take().context("a pipe")?);
    let mut refused = Forwarding { child, port: 0 };
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    refused.port =
        line.strip_prefix("127.0.0.1:").and_then(|rest| rest.split(' ').next()).context("a port")?.parse()?;
    // What it had sent is not read by anybody, which the kernel may tell by a reset.
    let answer = machine.sandbox.on_network(|| ask(TcpStream::connect(("127.0.0.1", refused.port))?));
    ensure!(!answer.as_ref().is_ok_and(|answer| !answer.is_empty()), "{answer:?}");
    let mut said = String::new();
    BufReader::new(err).read_line(&mut said)?;
    ensure!(said.contains("E-RUN-003") && said.contains("port 81") && said.contains("refused"), "{said}");

    for (args, code, word) in
        [(["port-forward", "nobody", "80"], 3, "E-OBJ-001"), (["port-forward", "web", "0"], 2, "is no port")]
    {
        let said = machine.hivemind(&args)?;
        ensure!(said.code == code && said.err.contains(word), "{said}");
    }
    let taken = Forwarding::start(&machine, "web", ":80")?;
    let said = machine.hivemind(&["port-forward", "web", &format!("{}:80", taken.port)])?;
    ensure!(said.code == 4 && said.err.contains("E-NET-003"), "{said}");
    machine.close()
}
