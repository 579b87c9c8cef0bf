//! Who follows logs and events sees each line and each event once, also when the daemon is killed in between; where that cannot
//! be, it is said.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context, Result, bail, ensure};
use hivemind_tests::{PATIENCE, machine, until_ready};
use serde_json::Value;
use xtask::{machine::Machine, wait};

/// How often the daemon is killed.
const KILLS: usize = 3;

/// A command that follows something until it is dropped, and what it has said so far.
struct Follower {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Follower {
    fn start(machine: &Machine, args: &[&str]) -> Result<Self> {
        let mut command = machine.daemon.command(&machine.sandbox, args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = child.stdout.take().context("its output")?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            lines.for_each(|line| told.lock().unwrap_or_else(PoisonError::into_inner).push(line));
        });
        Ok(Self { child, said, reader: Some(reader) })
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it says something more that `is` so.
    fn until(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let before = self.said().len();
        wait::until(what, PATIENCE, || {
            let said = self.said();
            ensure!(said.iter().skip(before).any(|line| is(line)), "it said {:?}", said.last());
            Ok(())
        })
    }

    /// It must still be there; ends it, and gives all that it has said.
    fn end(mut self) -> Result<Vec<String>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended by itself with {status} after {:?}", self.said().last());
        }
        self.child.kill()?;
        self.child.wait()?;
        let reader = self.reader.take().context("it has a reader")?;
        ensure!(reader.join().is_ok(), "the reader has panicked");
        Ok(self.said())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every number from 0 on, once and in order, behind this word.
fn counts(lines: &[String], word: &str) -> Result<usize> {
    let numbers: Vec<usize> = lines.iter().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).collect();
    let odd = numbers.iter().enumerate().find(|(at, number)| at != *number);
    ensure!(odd.is_none(), "{word}: {odd:?} of {} is lost or doubled", numbers.len());
    Ok(numbers.len())
}

#[test]
fn logs_and_events_that_are_followed_go_on_over_a_daemon_that_is_killed() -> Result<()> {
    let (mut machine, image) = machine("resumed")?;
    // Many lines in one millisecond, of both streams, and lines in pieces between those of the other stream.
    let script = "i=0; while :; do echo out $i; echo err $i >&2; printf 'two ' >&2; echo plain $i; echo $i >&2; \
        i=$((i+1)); [ $((i%20)) != 0 ] || sleep 0.02; done";
    let args = ["app", "deploy", "--image", &image, "--name", "web", "--entrypoint", "sh", "--", "-c", script];
    machine.hivemind(&args)?.ok()?;
    until_ready(&machine, "web", 1)?;
    let logs = Follower::start(&machine, &["logs", "-f", "web"])?;
    let events = Follower::start(&machine, &["events", "-f", "-o", "json"])?;
    logs.until("the first lines", |_| true)?;
    wait::until("the first event", PATIENCE, || {
        ensure!(!events.said().is_empty(), "it has said nothing");
        Ok(())
    })?;
    for kill in 0..KILLS {
        machine.daemon.kill()?;
        machine.daemon.start(&machine.sandbox)?;
        logs.until("lines after the start", |_| true)?;
        let name = format!("n{kill}");
        machine.hivemind(&["namespace", "create", &name])?.ok()?;
        let object = format!("\"namespace/{name}\"");
        wait::until("the event of the new life", PATIENCE, || {
            ensure!(events.said().iter().any(|line| line.contains(&object)), "it said {:?}", events.said().last());
            Ok(())
        })?;
    }
    // Stopped in order, and started again.
    machine.daemon.stop()?;
    machine.daemon.start(&machine.sandbox)?;
    logs.until("lines after the stop", |_| true)?;
    machine.hivemind(&["namespace", "create", "last"])?.ok()?;
    wait::until("the last event", PATIENCE, || {
        ensure!(
            events.said().iter().any(|line| line.contains("\"namespace/last\"")),
            "it said {:?}",
            events.said().last()
        );
        Ok(())
    })?;

    let lines = logs.end()?;
    for word in ["out ", "err ", "plain ", "two "] {
        ensure!(counts(&lines, word)? > 100, "too few lines of {word}");
    }
    let told: Vec<Value> = events.end()?.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    let missed = told.iter().filter(|event| event["reason"] == "Missed").count();
    ensure!(missed == KILLS + 1, "{missed} times it was said that something may be missing: {told:?}");
    let mut lives: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in told.iter().filter(|event| event["reason"] != "Missed") {
        let position = event["position"].as_str().context("no position")?;
        let (life, number) = position.split_once('-').context("no position")?;
        lives.entry(life.to_owned()).or_default().push(number.parse()?);
    }
    ensure!(lives.len() == KILLS + 2, "{} lives", lives.len());
    for numbers in lives.values() {
        ensure!(numbers.iter().copied().eq(1..=numbers.len() as u64), "lost or doubled: {numbers:?}");
    }
    machine.close()
}
