<<<<<<< HEAD
//! The whole, with real parts: what a user's instances go through.

use std::{collections::BTreeSet, time::Duration};

use xtask::{image, machine::Machine};

fn deploy<'a>(image: &'a str, replicas: &'a str) -> Vec<&'a str> {
    let mut args = vec!["app", "deploy", "--image", image, "--name", "web-app", "--service", "web.local"];
    args.extend(["--replicas", replicas, "--port", "8080:80", "--stop-grace", "0", "--wait", "--timeout", "60s"]);
    args
}

/// Id, restarts and start of every instance.
fn lives(machine: &Machine) -> BTreeSet<String> {
    let said = machine.hivemind(&["ps", "-o", "json"]).expect("runs").json().expect("a document");
    let all = said.as_array().expect("a list").iter();
    all.map(|instance| {
        format!("{} {} {} {}", instance["id"], instance["phase"], instance["restarts"], instance["started_at"])
    })
    .collect()
}

#[test]
fn a_killed_daemon_leaves_every_container_running_and_adopts_it() {
    let mut machine = Machine::start("adopt", &[]).expect("a machine");
    let image = machine.push(&image::web().expect("an image"), "web", "1").expect("pushed");
    machine.hivemind(&deploy(&image, "3")).expect("runs").ok().expect("ready");
    let before = lives(&machine);
    assert_eq!(before.len(), 3);
    for _ in 0..3 {
        machine.daemon.kill().expect("killed");
        machine.daemon.start(&machine.sandbox).expect("started again");
        // What is adopted says nothing new: nobody was started again, nobody left the service.
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while lives(&machine) != before && tokio::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(strip(&lives(&machine)), strip(&before));
        let answer = ["exec", "web-app", "--", "wget", "-q", "-O-", "http://web.local/"];
        let said = machine.hivemind(&answer).expect("runs").ok().expect("answers");
        assert!(said.starts_with("Hello from web-app-"), "{said}");
    }
    machine.hivemind(&["app", "rm", "web-app", "--wait"]).expect("runs").ok().expect("removed");
    assert!(lives(&machine).is_empty());
    machine.close().expect("nothing is left");
}

/// Without the moment of the start, which a new daemon does not know.
fn strip(lives: &BTreeSet<String>) -> BTreeSet<String> {
    lives.iter().map(|life| life.rsplit_once(' ').map_or(life.clone(), |(life, _)| life.to_owned())).collect()
}

#[test]
fn wrong_input_gets_its_code_and_leaves_nothing() {
    let machine = Machine::start("wrong", &[]).expect("a machine");
    let image = machine.push(&image::web().expect("an image"), "web", "1").expect("pushed");
    machine.hivemind(&deploy(&image, "1")).expect("runs").ok().expect("ready");
    let missing = image.replace("web:1", "web:none");
    let other = ["app", "deploy", "--image", &image, "--name", "other"];
    let with = |more: &[&'static str]| [&other[..], more].concat();
    for (args, code, part) in [
        (vec!["app", "deploy", "--image", &missing, "--name", "none", "--wait", "--timeout", "30s"], 3, "E-IMG-001"),
        (vec!["app", "info", "web-ap"], 3, "E-OBJ-001"),
        (vec!["app", "scale", "--name", "nope", "--replicas", "3"], 3, "E-OBJ-001"),
        (vec!["app", "scale", "--name", "web-app", "--replicas", "1000000"], 2, "E-SPEC-001"),
        (vec!["app", "deploy", "--image", &image, "--name", "Web"], 2, "lower-case"),
        (with(&["--memory", "1k"]), 2, "E-SPEC-001"),
        (with(&["--service", "WEB.local"]), 4, "E-OBJ-002"),
        (with(&["--port", "8080:81"]), 4, "E-OBJ-002"),
        (with(&["--memory", "900Ti", "--wait", "--timeout", "1s"]), 8, "E-TIME-001"),
        (vec!["logs", "nope"], 3, "E-OBJ-001"),
        (vec!["explain", "E-XXX-999"], 3, "E-OBJ-001"),
    ] {
        let said = machine.hivemind(&args).expect("runs");
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    machine.close().expect("nothing is left");
}
=======
//! The whole system, through its command line: real containerd, real registry, real kernel, on a machine of its own.

#[path = "system/crash.rs"]
mod crash;
#[path = "system/life.rs"]
mod life;
#[path = "system/shown.rs"]
mod shown;
#[path = "system/wrong.rs"]
mod wrong;
>>>>>>> 1560b52 (System tests)
