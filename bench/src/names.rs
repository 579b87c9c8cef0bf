//! From a change to the answer of the name server.
//!
//! A client in a container asks for a service's address every millisecond and notes when there is an answer, or none any
//! more: a name is there while an instance is Ready. The daemon's own events say when the instance became Ready, and when
//! a scaling to none was accepted.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xtask::machine::Machine;

use crate::{
    Common,
    child::Role,
    clock::pause,
    lab::{Client, Place},
    live::now,
    report::{Report, Target},
    stage::namespace,
    stats::Series,
};

/// The name server of every instance, and the name.
const SERVER: &str = "10.88.0.1:53";
const NAME: &str = "web.local";
/// Longer than any scaling.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the answer was what was waited for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// Milliseconds since 1970.
    at: f64,
}

/// Asks until there are that many answers.
pub(crate) fn until(count: u16) -> Result<Answered> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    question.extend([0, 0, 1, 0, 1]);
    let begin = now();
    while now() - begin < PATIENCE.as_secs_f64() * 1000.0 {
        socket.send_to(&question, SERVER)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).context("the name server does not answer")?;
        ensure!(length > 12, "an answer of {length} bytes");
        if u16::from_be_bytes([answer[6], answer[7]]) == count {
            return Ok(Answered { at: now() });
        }
        pause(Duration::from_millis(1));
    }
    anyhow::bail!("there were never {count} answers")
}

/// Measures with a machine on which nothing runs, and leaves it so.
pub(crate) fn measure(machine: &Machine, image: &str, common: &Common, report: &mut Report) -> Result<()> {
    let web = ["app", "deploy", "--image", image, "--name", "web", "--service", NAME, "--replicas", "1", "--wait"];
    machine.hivemind(&web)?.ok()?;
    let client = ["app", "deploy", "--image", image, "--name", "client", "--entrypoint", "sleep", "--stop-grace", "0s"];
    machine.hivemind(&[&client[..], &["--wait", "--", "1d"]].concat())?.ok()?;
    let place = Place { netns: namespace(machine, "client")?, cgroup: None, cpu: None };
    let (mut up, mut down) = (Series::default(), Series::default());
    for _ in 0..common.pick(3, 10) {
        down.0.push(change(machine, &place, 0, "Scaled", "app/web")?);
        up.0.push(change(machine, &place, 1, "Ready", "instance/web-")?);
    }
    report.limit("name server: from Ready to the answer", "ms", &up, Target::AtMost(100.0));
    report.limit("name server: from the scaling to none to no answer", "ms", &down, Target::AtMost(100.0));
    for app in ["web", "client"] {
        machine.hivemind(&["app", "rm", app, "--wait"])?.ok()?;
    }
    Ok(())
}

/// Scales, and says how long after the newest event of that kind the answer was right.
fn change(machine: &Machine, place: &Place, replicas: u16, reason: &str, object: &str) -> Result<f64> {
    let client: Client = place.start(&Role::Names { count: replicas })?;
    machine.hivemind(&["app", "scale", "web", "--replicas", &replicas.to_string(), "--wait"])?.ok()?;
    let answered: Answered = client.finish()?;
    let events = machine.hivemind(&["events", "-o", "json"])?.ok()?;
    let events = events.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let of_change = |event: &&Value| {
        event["reason"] == reason && event["object"].as_str().is_some_and(|found| found.starts_with(object))
    };
    let event = events.iter().rev().find(of_change).with_context(|| format!("no event {reason}"))?;
    let at: hivemind::model::Timestamp = serde_json::from_value(event["at"].clone())?;
    // Both clocks are the machine's; what is less than their resolution is nothing.
    Ok((answered.at - at.as_millis() as f64).max(0.0))
}
