//! Names of services as instances see them: headless ones, several of one app, ports, addresses, and nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, until_ready};
use xtask::{machine::Machine, wait};

/// What follows `before` in the lines of busybox's nslookup, after the lines about the server.
fn looked_up(machine: &Machine, kind: &str, name: &str, before: &str) -> Result<BTreeSet<String>> {
    let kind = format!("-type={kind}");
    let said = machine.hivemind(&["exec", "client", "--", "nslookup", &kind, name])?;
    let answer = said.out.split_once("\n\n").map(|(_, answer)| answer).context("no answer")?;
    let found = answer.lines().filter_map(|line| line.split_once(before)).map(|(_, found)| found.trim().to_owned());
    Ok(found.collect())
}

fn addresses(machine: &Machine, kind: &str, name: &str) -> Result<BTreeSet<String>> {
    looked_up(machine, kind, name, "Address: ")
}

/// The addresses of an app's instances, in one family.
fn own(machine: &Machine, app: &str, family: &str) -> Result<BTreeSet<String>> {
    let all = machine.hivemind(&["ps", app, "-o", "json"])?.json()?;
    let all = all.as_array().context("no list")?.iter();
    Ok(all.filter_map(|instance| instance["addresses"][family].as_str()).map(str::to_owned).collect())
}

fn page(machine: &Machine, url: &str) -> Result<String> {
    machine.hivemind(&["exec", "client", "--", "wget", "-q", "-O", "-", url])?.ok()
}

fn client(machine: &Machine, image: &str) -> Result<()> {
    let client = ["app", "deploy", "--image", image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&client)?.ok().map(drop)
}

#[test]
fn a_headless_service_is_its_ready_instances() -> Result<()> {
    let (machine, image) = machine("headless")?;
    client(&machine, &image)?;
    let plain = ["app", "deploy", "--image", &image, "--name", "db", "--port", "80", "--service", "db.local", "--wait"];
    let headless = [&plain[..], &["--headless", "--replicas", "2"]].concat();
    let said = machine.hivemind(&headless)?.ok()?;
    println!("{said}");
    let before = until_ready(&machine, "db", 2)?;
    for name in ["db", "db.local", "db.default.default.hivemind"] {
        for (kind, family) in [("a", "v4"), ("aaaa", "v6")] {
            let (found, own) = (addresses(&machine, kind, name)?, own(&machine, "db", family)?);
            ensure!(found == own && own.len() == 2, "{name} is {found:?}, the instances have {own:?}");
        }
    }
    ensure!(page(&machine, "http://db.local/")?.starts_with("Hello from db-"), "it is reached by its name");
    // Each by its own name, and back from its address.
    for instance in instances(&machine, "db")? {
        let name = format!("{}.db.default.default.hivemind", instance.name);
        let found = addresses(&machine, "a", &name)?;
        ensure!(found.len() == 1, "{name} is {found:?}");
        ensure!(page(&machine, &format!("http://{name}/"))?.contains(&instance.name), "{name} is another one");
        let address = found.iter().next().context("an address")?;
        let reversed: Vec<_> = address.rsplit('.').collect();
        let back = looked_up(&machine, "ptr", &format!("{}.in-addr.arpa", reversed.join(".")), "name = ")?;
        ensure!(back == BTreeSet::from([name.clone()]), "{address} is {back:?}");
        let targets = looked_up(&machine, "srv", "_80._tcp.db.default.default.hivemind", "service = ")?;
        ensure!(targets.contains(&format!("0 100 80 {name}")), "{targets:?}");
    }
    let shown = machine.hivemind(&["service", "info", "db"])?.ok()?;
    ensure!(shown.contains("headless"), "{shown}");
    // More of them are more addresses, and none is none.
    machine.hivemind(&["app", "scale", "db", "--replicas", "3", "--wait"])?.ok()?;
    ensure!(addresses(&machine, "a", "db")? == own(&machine, "db", "v4")?, "three of three");
    machine.hivemind(&["app", "scale", "db", "--replicas", "0", "--wait"])?.ok()?;
    ensure!(addresses(&machine, "a", "db")?.is_empty(), "nobody is there");
    machine.hivemind(&["app", "scale", "db", "--replicas", "2", "--wait"])?.ok()?;
    // It becomes one with an address and is headless again, and nothing is started anew.
    let now = until_ready(&machine, "db", 2)?;
    ensure!(now.is_disjoint(&before), "scaled to none and back");
    machine.hivemind(&[&plain[..], &["--replicas", "2"]].concat())?.ok()?;
    wait::until("a virtual address", PATIENCE, || {
        let found = addresses(&machine, "a", "db")?;
        ensure!(found.len() == 1 && found.iter().all(|address| address.starts_with("10.96.")), "{found:?}");
        Ok(())
    })?;
    ensure!(page(&machine, "http://db.local/")?.starts_with("Hello from db-"), "it is reached by its address");
    machine.hivemind(&headless)?.ok()?;
    wait::until("the instances themselves", PATIENCE, || {
        ensure!(addresses(&machine, "a", "db")? == own(&machine, "db", "v4")?, "not yet");
        Ok(())
    })?;
    ensure!(until_ready(&machine, "db", 2)? == now, "no instance was replaced");
    let wrong = machine.hivemind(&[&headless[..], &["--port", "8080:80"]].concat())?;
    ensure!(wrong.code == 2 && wrong.err.contains("publish no port"), "{wrong}");
    machine.close()
}

#[test]
fn an_app_has_services_of_several_names_and_ports() -> Result<()> {
    let (machine, image) = machine("several")?;
    client(&machine, &image)?;
    let web =
        ["app", "deploy", "--image", &image, "--name", "web", "--replicas", "2", "--port", "80", "--port", "9/udp"];
    let web = [&web[..], &["--wait"]].concat();
    machine.hivemind(&web)?.ok()?;
    let before = until_ready(&machine, "web", 2)?;
    let more = ["--more-service", "admin=8081:80,9/udp,dns=admin.local", "--more-service", "peers=80,9/udp,headless"];
    let more = [&web[..], &more].concat();
    machine.hivemind(&more)?.ok()?;
    for url in ["http://web/", "http://admin.local:8081/", "http://admin:8081/", "http://peers/"] {
        wait::until("a page", PATIENCE, || {
            let page = page(&machine, url)?;
            ensure!(page.starts_with("Hello from web-"), "{url}: {page}");
            Ok(())
        })?;
    }
    ensure!(page(&machine, "http://admin:80/").is_err(), "a service has only its own ports");
    let target = "admin.default.default.hivemind";
    for (port, protocol) in [(8081, "tcp"), (9, "udp")] {
        let found = looked_up(&machine, "srv", &format!("_{port}._{protocol}.admin.local"), "service = ")?;
        ensure!(found == BTreeSet::from([format!("0 0 {port} {target}")]), "{found:?}");
    }
    ensure!(addresses(&machine, "a", "peers")? == own(&machine, "web", "v4")?, "the instances themselves");
    let (one, other) = (addresses(&machine, "a", "web")?, addresses(&machine, "a", "admin")?);
    ensure!(one.len() == 1 && other.len() == 1 && one != other, "each has an address: {one:?} {other:?}");
    let listed = machine.hivemind(&["service", "ls"])?.ok()?;
    for name in ["web", "admin", "peers"] {
        ensure!(listed.lines().any(|line| line.starts_with(name)), "{listed}");
    }
    ensure!(until_ready(&machine, "web", 2)? == before, "no instance was replaced");
    // Names are one app's.
    let taken = machine.hivemind(&["app", "deploy", "--image", &image, "--name", "admin", "--port", "80"])?;
    ensure!(taken.code == 4 && taken.err.contains("service name admin"), "{taken}");
    let taken = machine.hivemind(&[&web[..], &["--more-service", "client=80"]].concat())?;
    ensure!(taken.code == 4 && taken.err.contains("service name client"), "{taken}");
    let own = machine.hivemind(&[&web[..], &["--more-service", "web=80"]].concat())?;
    ensure!(own.code == 2 && own.err.contains("the app's own service"), "{own}");
    // They go with what asks for them, and nothing else does.
    machine.hivemind(&web)?.ok()?;
    wait::until("the services to go", PATIENCE, || {
        let listed = machine.hivemind(&["service", "ls", "-o", "name"])?.ok()?;
        ensure!(!listed.contains("admin") && !listed.contains("peers") && listed.contains("web"), "{listed}");
        Ok(())
    })?;
    ensure!(addresses(&machine, "a", target)?.is_empty(), "there is no such name any more");
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "admin", "--port", "80", "--wait"])?.ok()?;
    ensure!(page(&machine, "http://admin/")?.starts_with("Hello from admin-"), "the name is the new app's");
    ensure!(until_ready(&machine, "web", 2)? == before, "no instance was replaced");
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    machine.close()
}
