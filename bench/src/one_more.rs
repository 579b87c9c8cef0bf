//! One more service in a daemon that has many: from the request to the answer, and the processor time until nothing of
//! it is left to do, the rows of the maps and the names among it.

use std::fs;

use anyhow::{Context, Result};
use xtask::machine::Machine;

use crate::{
    clock::{Moment, pause},
    daemon::{SETTLE, pid},
    report::Report,
    stats::Series,
};

const APPS: &str = "/v1/tenants/default/namespaces/default/apps";

/// Makes `services` of them, then adds `rounds` more, one after the other.
pub(crate) fn measure(machine: &Machine, image: &str, services: u32, rounds: usize, report: &mut Report) -> Result<()> {
    for n in 0..services {
        if n % 1_000 == 0 {
            eprintln!("making {services} services: {n}");
        }
        add(machine, image, &format!("many-{n}"))?;
    }
    pause(SETTLE);
    let before = processor(pid(machine)?)?;
    let mut answered = Series::default();
    for n in 0..rounds {
        let begin = Moment::now();
        add(machine, image, &format!("more-{n}"))?;
        answered.0.push(begin.elapsed().as_secs_f64() * 1e3);
        // One by one: what comes at once is done at once.
        pause(SETTLE / 10);
    }
    let each = (processor(pid(machine)?)? - before) / rounds as f64;
    report.figure(format!("one more of {services} services: request to answer"), "ms", &answered);
    report.figure(format!("one more of {services} services: processor time of all"), "ms", &Series(vec![each]));
    Ok(())
}

/// An app without instances: its service is there all the same, with addresses and a name.
fn add(machine: &Machine, image: &str, name: &str) -> Result<()> {
    let document = serde_json::json!({
        "image": image, "replicas": 0, "services": [format!("{name}.local")], "ports": [{ "target": 80 }],
    });
    machine.daemon.put(&format!("{APPS}/{name}"), &document)
}

/// Milliseconds that a process's threads have run.
pub(crate) fn processor(pid: u32) -> Result<f64> {
    let mut sum = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // Threads come and go while they are looked at.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let nanoseconds = text.split(' ').next().context("schedstat is empty")?;
        sum += nanoseconds.parse::<f64>()? / 1e6;
    }
    Ok(sum)
}
