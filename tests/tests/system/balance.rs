//! Balancing as the command line asks for it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use hivemind_tests::{PATIENCE, machine, until_ready};
use xtask::wait;

use crate::outside::Outside;

#[test]
fn affinity_and_source_ranges_hold_are_shown_and_change_without_new_instances() -> Result<()> {
    let (machine, image) = machine("balance")?;
    let plain = ["app", "deploy", "--image", &image, "--name", "web", "--replicas", "3", "--port", "8080:80", "--wait"];
    machine.hivemind(&plain)?.ok()?;
    let client =
        ["app", "deploy", "--image", &image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&client)?.ok()?;
    let before = until_ready(&machine, "web", 3)?;
    let asked = |family: &str| -> Result<BTreeSet<String>> {
        let url = "http://web.default.default.hivemind/";
        let answers = machine.hivemind(&["exec", "client", "--", "ask", family, url, "60"])?.ok()?;
        Ok(answers.lines().map(str::to_owned).collect())
    };
    ensure!(asked("4")?.len() == 3 && asked("6")?.len() == 3, "all three answer");
    let outside = Outside::connect(&machine)?;
    wait::until("an answer to the outside", PATIENCE, || outside.asks(8080))?;

    let more = ["--affinity", "client-ip=600", "--source-range", "192.0.2.0/24", "--balance", "least-connections"];
    let said = machine.hivemind(&[&plain[..], &more].concat())?.ok()?;
    println!("{said}");
    ensure!(until_ready(&machine, "web", 3)? == before, "a change of balancing replaced instances");
    for family in ["4", "6"] {
        wait::until("the client to stay with one instance", PATIENCE, || {
            let names = asked(family)?;
            ensure!(names.len() == 1, "{names:?}");
            Ok(())
        })?;
    }
    let page = outside.ask("http://192.0.2.1:8080/")?;
    ensure!(page.starts_with("Hello from web-"), "{page}");
    ensure!(outside.ask("http://[2001:db8::1]:8080/").is_err(), "no range of IPv6 was given");
    for info in [["app", "info", "web"], ["service", "info", "web"]] {
        let shown = machine.hivemind(&info)?.ok()?;
        for part in ["client-ip, 600 seconds", "192.0.2.0/24", "least-connections"] {
            ensure!(shown.contains(part), "{info:?}: no {part} in {shown}");
        }
    }
    let wrong = machine.hivemind(&[&plain[..], &["--source-range", "192.0.2.1/24"]].concat())?;
    ensure!(wrong.code == 2 && wrong.err.contains("write 192.0.2.0/24"), "{wrong:?}");

    // All that is not said goes back to its default.
    machine.hivemind(&plain)?.ok()?;
    wait::until("everybody to be let in again", PATIENCE, || outside.asks(8080))?;
    wait::until("the client to reach all again", PATIENCE, || {
        let names = asked("4")?;
        ensure!(names.len() == 3, "{names:?}");
        Ok(())
    })?;
    ensure!(until_ready(&machine, "web", 3)? == before, "a change of balancing replaced instances");
    machine.close()
}
