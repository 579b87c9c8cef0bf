//! Instances whose health check begins to fail.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, until_ready};
use xtask::wait;

/// Three checks, 200 ms apart, and what a busy machine needs to act on them. The default check would take 30 s.
const THRESHOLD: Duration = Duration::from_secs(5);

#[test]
fn an_instance_that_fails_its_check_leaves_the_service_and_is_started_again() -> Result<()> {
    let (machine, image) = machine("unhealthy")?;
    let deploy = ["app", "deploy", "--image", &image, "--wait", "--name"];
    let check = ["--health-http", "80/", "--health-interval", "200ms", "--health-retries", "3"];
    let web = [&deploy[..], &["web", "--replicas", "2", "--service", "web.local"], &check].concat();
    machine.hivemind(&web)?.ok()?;
    machine.hivemind(&[&deploy[..], &["client", "--entrypoint", "sleep", "--", "1d"]].concat())?.ok()?;
    let before = until_ready(&machine, "web", 2)?;
    let victim = before.first().context("no instance")?.name.clone();

    machine.hivemind(&["exec", &victim, "--", "rm", "/www/index.html"])?.ok()?;
    wait::until("the instance to be taken out of service", THRESHOLD, || {
        let now = instances(&machine, "web")?;
        let found = now.iter().find(|instance| instance.name == victim).context("it is gone")?;
        ensure!(found.phase != "ready" || found.restarts > 0, "{now:?}");
        // Its page is not there: one question to it, and this fails.
        machine.hivemind(&["exec", "client", "--", "ask", "4", "http://web.local/", "20"])?.ok().map(drop)
    })?;
    wait::until("it to be started again", PATIENCE, || {
        let now = instances(&machine, "web")?;
        let again = |i: &hivemind_tests::Instance| i.name == victim && i.restarts == 1 && i.phase == "ready";
        ensure!(now.iter().any(again) && now.iter().filter(|i| i.name != victim).all(|i| i.restarts == 0), "{now:?}");
        Ok(())
    })?;
    machine.close()
}
