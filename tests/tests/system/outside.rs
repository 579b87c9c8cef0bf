//! Published ports from another machine: who answers, whose address is seen, and who decides.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, machine, until_ready};
use xtask::{deb, machine::Machine, shell, wait};

/// Another machine at the end of a cable: a network namespace in the sandbox, which goes with it.
pub(crate) struct Outside<'a>(&'a Machine);

/// The node's address on the cable, as a URL writes it, and the client's, as a log writes it.
const WAYS: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.2"), ("[2001:db8::1]", "2001:db8::2")];

/// How many pages are got while a daemon starts: more than it needs to write everything anew.
const ADOPTION: usize = 100;

impl<'a> Outside<'a> {
    pub(crate) fn connect(machine: &'a Machine) -> Result<Self> {
        let script = "ip netns add outside
            ip link add uplink type veth peer name eth0 netns outside
            ip address add 192.0.2.1/24 dev uplink; ip address add 2001:db8::1/64 dev uplink nodad
            ip -n outside address add 192.0.2.2/24 dev eth0; ip -n outside address add 2001:db8::2/64 dev eth0 nodad
            ip link set uplink up; ip -n outside link set eth0 up; ip -n outside link set lo up";
        shell::output(machine.sandbox.command("sh").args(["-ec", script]))?;
        Ok(Self(machine))
    }

    /// The one that is connected already.
    pub(crate) fn again(machine: &'a Machine) -> Self {
        Self(machine)
    }

    /// Asks for a page; an error if there is no answer within two seconds.
    pub(crate) fn ask(&self, url: &str) -> Result<String> {
        let busybox = deb::program("busybox", "busybox-static")?;
        let mut command = self.0.sandbox.command("ip");
        command.args(["netns", "exec", "outside", "timeout", "2"]).arg(busybox).args(["wget", "-q", "-O", "-", url]);
        shell::output(&mut command)
    }

    /// Routes to the instances' own addresses.
    fn knows_the_way(&self) -> Result<()> {
        let script = "ip -n outside route add 10.88.0.0/16 via 192.0.2.1
            ip -n outside route add fd68:6d00::/24 via 2001:db8::1";
        shell::output(self.0.sandbox.command("sh").args(["-ec", script])).map(drop)
    }

    pub(crate) fn asks(&self, port: u16) -> Result<()> {
        for (node, _) in WAYS {
            let page = self.ask(&format!("http://{node}:{port}/"))?;
            ensure!(page.starts_with("Hello from web-"), "{page}");
        }
        Ok(())
    }
}

fn nft(machine: &Machine, rules: &str) -> Result<()> {
    shell::output(machine.sandbox.command("nft").arg(rules)).map(drop)
}

#[test]
fn a_published_port_answers_outside_shows_the_client_and_obeys_the_firewall() -> Result<()> {
    let (mut machine, image) = machine("outside")?;
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "web", "--replicas", "2", "--port", "8080:80", "--wait"];
    machine.hivemind(&deploy)?.ok()?;
    let client =
        ["app", "deploy", "--image", &image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&client)?.ok()?;
    {
        let outside = Outside::connect(&machine)?;
        wait::until("an answer to the outside", PATIENCE, || outside.asks(8080))?;
        for (_, client) in WAYS {
            wait::until("the client's address in the log", PATIENCE, || {
                ensure!(machine.hivemind(&["logs", "web"])?.ok()?.contains(client), "no {client}");
                Ok(())
            })?;
        }
        ensure!(outside.asks(80).is_err() && outside.asks(8081).is_err(), "a port that is not published answers");
        // An instance has no short way to its own node's ports: its packets go as those of the outside do.
        for node in ["192.0.2.1", "[2001:db8::1]", "10.88.0.1", "[fd68:6d00:0:1::1]"] {
            let asks =
                ["exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-", &format!("http://{node}:8080/")];
            let page = machine.hivemind(&asks)?.ok().with_context(|| format!("{node} from an instance"))?;
            ensure!(page.starts_with("Hello from web-"), "{page}");
        }
        // Without other nodes no driver is asked for anything.
        wait::until("the uplink to be known", PATIENCE, || {
            let uplinks = machine.hivemind(&["dataplane", "dump", "uplinks"])?.ok()?;
            ensure!(uplinks.contains("kernel") && uplinks.contains("there are no other nodes"), "{uplinks}");
            ensure!(uplinks.contains("noqueue") && uplinks.contains("dropped"), "{uplinks}");
            Ok(())
        })?;
        let metrics = machine.daemon.get("/metrics")?;
        ensure!(metrics.contains("hivemind_dataplane_uplink_driver{device="), "{metrics}");
        ensure!(metrics.contains("hivemind_dataplane_sent_on_packets_total{by=\"driver\"} 0"), "{metrics}");
        // Though it knows the way to them.
        outside.knows_the_way()?;
        for instance in machine.hivemind(&["ps", "web", "-o", "json"])?.json()?.as_array().context("no list")? {
            let [v4, v6] = ["v4", "v6"].map(|family| instance["addresses"][family].as_str().unwrap_or_default());
            for host in [v4.to_owned(), format!("[{v6}]")] {
                ensure!(host.len() > 2, "an instance without an address: {instance}");
                ensure!(outside.ask(&format!("http://{host}:80/")).is_err(), "{host} is reached from outside");
            }
        }

        nft(&machine, "add table inet host; add chain inet host input { type filter hook input priority 0; }")?;
        nft(&machine, "add rule inet host input tcp dport 8080 drop")?;
        for (node, _) in WAYS {
            ensure!(outside.ask(&format!("http://{node}:8080/")).is_err(), "the host's firewall was passed by");
        }
        nft(&machine, "delete table inet host")?;
        outside.asks(8080)?;
        nft(&machine, "flush ruleset")?;
        wait::until("the rules to come back", PATIENCE, || outside.asks(8080))?;
    }
    machine.daemon.kill()?;
    Outside(&machine).asks(8080)?;
    machine.daemon.spawn(&machine.sandbox)?;
    // While it starts and adopts what is there: at no time a port is closed.
    for _ in 0..ADOPTION {
        Outside(&machine).asks(8080)?;
    }
    until_ready(&machine, "web", 2)?;
    Outside(&machine).asks(8080)?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    wait::until("the port to be closed", PATIENCE, || {
        ensure!(Outside(&machine).asks(8080).is_err(), "a removed app answers");
        Ok(())
    })?;
    machine.close()
}
