//! Egress by names of hosts: what a name opens, for whom, over a kill of the daemon, and for how long.

use std::{
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hickory_proto::{
    op::{Message, MessageType},
    rr::{Name, RData, Record, RecordType, rdata},
};
use hivemind_tests::{PATIENCE, machine_with};
use xtask::{deb, machine::Machine, wait};

use crate::outside::Outside;

/// What the names stand for; `api` by way of an alias.
const NAMES: [(&str, [&str; 2]); 3] = [
    ("edge.example.net.", ["192.0.2.2", "2001:db8::2"]),
    ("other.example.com.", ["192.0.2.3", "2001:db8::3"]),
    ("a.b.example.org.", ["192.0.2.4", "2001:db8::4"]),
];
const ALIAS: (&str, &str) = ("api.example.com.", "edge.example.net.");

const POLICIES: &str = "\
policy: client
instances: role=client
egress: [{to: [{dns: [api.example.com, '*.example.org']}], ports: [80]}]
---
policy: other
instances: role=other
egress: [{to: [{dns: ['*.example.com']}], ports: [80]}]
";

/// A name server of the outside, on the sandbox's loopback. It ends when it is dropped.
pub(crate) struct Upstream(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Upstream {
    pub(crate) fn start(machine: &Machine, address: &'static str) -> Result<Self> {
        let socket = machine.sandbox.on_network(move || Ok(UdpSocket::bind(address)?))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(asked) = Message::from_vec(&buffer[..length]) else { continue };
                let answer = answer(&asked).to_vec().expect("a message");
                let _ = socket.send_to(&answer, from);
            }
        };
        Ok(Self(stop, Some(thread::spawn(serve))))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

fn answer(asked: &Message) -> Message {
    let query = asked.queries[0].clone();
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    let mut name = query.name().clone();
    let parse = |text: &str| Name::from_ascii(text).expect("a name");
    if name == parse(ALIAS.0) {
        answer.add_answer(Record::from_rdata(name, 1, RData::CNAME(rdata::CNAME(parse(ALIAS.1)))));
        name = parse(ALIAS.1);
    }
    for address in NAMES.iter().filter(|(known, _)| name == parse(known)).flat_map(|(_, addresses)| addresses) {
        let data = match address.parse().expect("an address") {
            IpAddr::V4(v4) if query.query_type() == RecordType::A => RData::A(rdata::A(v4)),
            IpAddr::V6(v6) if query.query_type() == RecordType::AAAA => RData::AAAA(rdata::AAAA(v6)),
            _ => continue,
        };
        answer.add_answer(Record::from_rdata(name.clone(), 1, data));
    }
    answer.add_query(query);
    answer
}

/// Whether an instance gets the page, of a name (in one family) or of an address.
fn gets(machine: &Machine, app: &str, ask: &[&str]) -> Result<bool> {
    let said = machine.hivemind(&[&["exec", app, "--", "timeout", "3"], ask].concat())?;
    Ok(said.code == 0 && said.out.contains("outside"))
}

fn by_address(machine: &Machine, app: &str, last: u8) -> Result<[bool; 2]> {
    let get = |host: String| gets(machine, app, &["wget", "-q", "-O", "-", &format!("http://{host}/")]);
    Ok([get(format!("192.0.2.{last}"))?, get(format!("[2001:db8::{last}]"))?])
}

fn by_name(machine: &Machine, app: &str, name: &str) -> Result<[bool; 2]> {
    let get = |family| gets(machine, app, &["ask", family, &format!("http://{name}/"), "1"]);
    Ok([get("4")?, get("6")?])
}

fn metric(machine: &Machine, name: &str) -> Result<String> {
    let text = machine.daemon.get("/metrics")?;
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name}{{}} "))).with_context(|| format!("no {name}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

/// What the names lead to: a page at all their addresses. It is to be ended.
fn pages(machine: &Machine) -> Result<std::process::Child> {
    let page = machine.daemon.dir().join("page");
    std::fs::create_dir_all(&page)?;
    std::fs::write(page.join("index.html"), "outside\n")?;
    let addresses = "for last in 3 4; do ip -n outside address add 192.0.2.$last/24 dev eth0
        ip -n outside address add 2001:db8::$last/64 dev eth0 nodad; done";
    xtask::shell::output(machine.sandbox.command("sh").args(["-ec", addresses]))?;
    let mut httpd = machine.sandbox.command("ip");
    httpd.args(["netns", "exec", "outside"]).arg(deb::program("busybox", "busybox-static")?);
    Ok(httpd.args(["httpd", "-f", "-p", "80", "-h"]).arg(&page).spawn()?)
}

const OF_HOST: &str = "\
policy: host-out
host: {}
otherwise: reject
egress: [{to: [{dns: [api.example.com, '*.example.org']}], ports: [80]}]
";

/// Whether the host gets the page of an address, in both families.
fn host_gets(machine: &Machine, last: u8) -> Result<[bool; 2]> {
    let busybox = deb::program("busybox", "busybox-static")?;
    let get = |host: String| -> Result<bool> {
        let mut command = machine.sandbox.command("timeout");
        command.arg("3").arg(&busybox).args(["wget", "-q", "-O", "-", &format!("http://{host}/")]);
        Ok(command.output()?.stdout.starts_with(b"outside"))
    };
    Ok([get(format!("192.0.2.{last}"))?, get(format!("[2001:db8::{last}]"))?])
}

#[test]
fn a_name_opens_what_it_stands_for_to_the_host() -> Result<()> {
    let (mut machine, _) = machine_with("hostnames", &["--dns-egress-ttl", "15"])?;
    let upstream = Upstream::start(&machine, "127.0.0.1:5353")?;
    let _outside = Outside::connect(&machine)?;
    let mut httpd = pages(&machine)?;
    wait::until("the pages", PATIENCE, || {
        ensure!(host_gets(&machine, 3)? == [true; 2] && host_gets(&machine, 4)? == [true; 2], "not reached");
        Ok(())
    })?;
    let file = machine.daemon.dir().join("policies.yaml").display().to_string();
    std::fs::write(&file, OF_HOST)?;
    machine.hivemind(&["policy", "apply", "-f", &file])?.ok()?;
    // Nobody asks us for it: it is looked up.
    wait::until("the name to be open, and nothing else", PATIENCE, || {
        let got = [2, 3, 4].map(|last| host_gets(&machine, last).ok());
        ensure!(got == [Some([true; 2]), Some([false; 2]), Some([false; 2])], "{got:?}");
        Ok(())
    })?;
    // A name with a star is open for what the host asks the node's name server for.
    let busybox = deb::program("busybox", "busybox-static")?;
    let mut ask = machine.sandbox.command("timeout");
    ask.arg("5").arg(&busybox).args(["nslookup", "a.b.example.org", "10.88.0.1"]);
    xtask::shell::output(&mut ask)?;
    ensure!(host_gets(&machine, 4)? == [true; 2], "what the host has asked for");
    let why = machine.hivemind(&["why", "host", "192.0.2.2:80"])?.ok()?;
    ensure!(why.contains("rule 0 of tier policy host-out allows it"), "{why}");
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(host_gets(&machine, 2)? == [true; 2], "the restart has closed it");
    // The time of both answers is over, of the one again and again: it is looked up before.
    wait::until("the star's addresses to be over", PATIENCE * 2, || {
        let open = metric(&machine, "hivemind_policy_host_addresses")?;
        ensure!(open == "2.0", "{open} are open");
        Ok(())
    })?;
    ensure!(host_gets(&machine, 2)? == [true; 2] && host_gets(&machine, 4)? == [false; 2], "what was looked up again");
    httpd.kill()?;
    httpd.wait()?;
    drop(upstream);
    machine.close()
}

#[test]
fn a_name_opens_what_it_stands_for_to_those_whose_policies_have_it() -> Result<()> {
    let (mut machine, image) = machine_with("hosts", &["--dns-egress-ttl", "15"])?;
    let upstream = Upstream::start(&machine, "127.0.0.1:5353")?;
    let _outside = Outside::connect(&machine)?;
    let mut httpd = pages(&machine)?;
    for role in ["client", "other"] {
        let label = format!("role={role}");
        let app = ["app", "deploy", "--image", &image, "--name", role, "--label", &label, "--entrypoint", "sleep"];
        machine.hivemind(&[&app[..], &["--wait", "--", "1d"]].concat())?.ok()?;
        wait::until("the page", PATIENCE, || {
            ensure!(by_address(&machine, role, 2)? == [true; 2], "{role} does not get out");
            Ok(())
        })?;
    }
    let file = machine.daemon.dir().join("policies.yaml").display().to_string();
    std::fs::write(&file, POLICIES)?;
    machine.hivemind(&["policy", "apply", "-f", &file])?.ok()?;
    wait::until("the policies", PATIENCE, || {
        ensure!(by_address(&machine, "client", 2)? == [false; 2], "not asked for");
        ensure!(by_address(&machine, "other", 2)? == [false; 2], "not asked for");
        Ok(())
    })?;

    ensure!(by_name(&machine, "client", "api.example.com")? == [true; 2], "the first packet after the answer");
    ensure!(by_address(&machine, "client", 2)? == [true; 2], "the address");
    ensure!(by_address(&machine, "other", 2)? == [false; 2], "another's answer opens it");
    ensure!(by_name(&machine, "client", "other.example.com")? == [false; 2], "a name that no policy of it has");
    ensure!(by_name(&machine, "client", "a.b.example.org")? == [true; 2], "a star is two labels as well");
    let why = machine.hivemind(&["why", "client", "192.0.2.2:80"])?.ok()?;
    ensure!(why.contains("rule 0 of policy default/default/client allows it"), "{why}");
    ensure!(metric(&machine, "hivemind_policy_host_addresses")? == "4.0", "addresses");
    ensure!(metric(&machine, "hivemind_policy_host_answers_late_total")? == "0.0", "late answers");

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(by_address(&machine, "client", 2)? == [true; 2], "the restart has closed it");
    ensure!(by_address(&machine, "other", 2)? == [false; 2], "the restart has opened it");

    wait::until("the time of the answers to be over", PATIENCE * 2, || {
        let open = metric(&machine, "hivemind_policy_host_addresses")?;
        ensure!(open == "0.0", "{open} are open");
        Ok(())
    })?;
    wait::until("the addresses to be closed", PATIENCE, || {
        ensure!(by_address(&machine, "client", 2)? == [false; 2], "still open");
        Ok(())
    })?;
    ensure!(by_name(&machine, "client", "api.example.com")? == [true; 2], "it asks again");
    httpd.kill()?;
    httpd.wait()?;
    drop(upstream);
    machine.close()
}
