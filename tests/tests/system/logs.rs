//! How much of a log is kept.

use anyhow::{Result, ensure};
use hivemind_tests::{PATIENCE, machine};
use xtask::{machine::Machine, wait};

/// Deploys `web`, whose process is this line of a shell.
fn deploy(machine: &Machine, image: &str, flags: &[&str], script: &str) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "web", "--entrypoint", "sh"];
    machine.hivemind(&[&args[..], flags, &["--", "-c", script]].concat())?.ok().map(drop)
}

fn logs(machine: &Machine) -> Result<String> {
    machine.hivemind(&["logs", "web"])?.ok()
}

#[test]
fn the_newest_lines_are_kept_by_size_and_number_of_files() -> Result<()> {
    let (machine, image) = machine("logs-size")?;
    // In small pieces: what is written at once is kept at once.
    let script =
        "i=0; while [ $i -lt 600 ]; do echo line $i.; i=$((i+1)); [ $((i%5)) != 0 ] || sleep 0.01; done; sleep 1d";
    deploy(&machine, &image, &["--log-opt", "max-size=4k", "--log-opt", "max-file=2"], script)?;
    let kept = wait::until("the last line", PATIENCE, || {
        let kept = logs(&machine)?;
        ensure!(kept.contains("line 599."), "{kept}");
        Ok(kept)
    })?;
    let numbers: Vec<u32> =
        kept.lines().filter_map(|text| text.split("line ").nth(1)?.strip_suffix('.')?.parse().ok()).collect();
    // A record is 48 bytes here: there are 85 in a file of 4 KiB, and one file is whole.
    ensure!(numbers.len() >= 85 && numbers.len() < 300, "{} lines", numbers.len());
    ensure!(numbers.iter().rev().copied().eq((0..600).rev().take(numbers.len())), "not all in between: {numbers:?}");
    let info = machine.hivemind(&["app", "info", "web"])?.ok()?;
    ensure!(info.contains("files of 4Ki, 2 files"), "{info}");
    machine.close()
}

#[test]
fn lines_go_by_their_age_whether_more_come_or_not() -> Result<()> {
    let (machine, image) = machine("logs-age")?;
    let aged = ["--log-opt", "max-age=2s"];
    deploy(&machine, &image, &aged, "echo first; while :; do sleep 0.2; echo tick; done")?;
    let until = |what: &str, is: fn(&str) -> bool| {
        wait::until(what, PATIENCE, || {
            let kept = logs(&machine)?;
            ensure!(is(&kept), "{kept}");
            Ok(())
        })
    };
    until("the first line", |kept| kept.contains("first"))?;
    until("it to be gone, and newer ones not", |kept| !kept.contains("first") && kept.contains("tick"))?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    deploy(&machine, &image, &aged, "echo alone; sleep 1d")?;
    until("the only line", |kept| kept.contains("alone"))?;
    until("it to be gone though none followed", |kept| !kept.contains("alone"))?;
    machine.close()
}

#[test]
fn what_is_no_limit_of_a_log_is_refused() -> Result<()> {
    let (machine, image) = machine("logs-wrong")?;
    for (option, part) in [
        ("max-size=1k", "logging.max_size: 1Ki is not from 4Ki to 1Ti"),
        ("max-file=0", "logging.max_files: 0 is not from 1 to 1000"),
        ("max-age=10000d", "logging.max_age_seconds: 864000000 is not from 1 to"),
        ("tag=x", "there is no option"),
        ("max-size", "write NAME=VALUE"),
    ] {
        let said = machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--log-opt", option])?;
        ensure!(said.code == 2 && said.err.contains(part), "{option}: {said}");
    }
    machine.close()
}
