//! `hivemind attach`, and commands that nobody waits for.

use std::{
    io::{BufRead, BufReader, Read, Write},
    mem::take,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use hivemind::{
    client::{AttachToInstanceArgs, Client, Target},
    model::{ErrorCode, Scope},
};
use hivemind_tests::{PATIENCE, Terminal, instances, machine, pids, until_ready};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::{machine::Machine, wait};

/// Deploys an app with a shell and further flags.
fn deploy(machine: &Machine, image: &str, name: &str, flags: &[&str], args: &[&str]) -> Result<()> {
    let app = ["app", "deploy", "--image", image, "--name", name, "--restart", "never", "--entrypoint", "sh", "--wait"];
    machine.hivemind(&[&app[..], flags, &["--"], args].concat())?.ok().map(drop)
}

/// `hivemind attach` in a pipe.
struct Piped {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Until it is read.
    stdout: Option<ChildStdout>,
    lines: Option<Receiver<String>>,
}

impl Piped {
    fn begin(machine: &Machine, args: &[&str]) -> Result<Self> {
        let mut command = machine.daemon.command(&machine.sandbox, &[&["attach"], args].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self { child, stdin, stdout, lines: None })
    }

    fn says(&mut self, line: &str) -> Result<()> {
        Ok(self.stdin.as_mut().context("closed")?.write_all(line.as_bytes())?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// The next line, if one comes in time.
    fn within(&mut self, limit: Duration) -> Option<String> {
        if let Some(stdout) = self.stdout.take() {
            let (to, lines) = channel();
            self.lines = Some(lines);
            // It ends with the command.
            thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = String::new();
                while stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && to.send(take(&mut line)).is_ok() {}
            });
        }
        self.lines.as_ref()?.recv_timeout(limit).ok()
    }

    fn line(&mut self) -> Result<String> {
        self.within(PATIENCE).context("it says nothing more")
    }

    /// All further output, what was said to people, and the exit code.
    fn ended(&mut self) -> Result<(String, String, i32)> {
        let (mut out, mut err) = (String::new(), String::new());
        while let Some(line) = self.within(PATIENCE) {
            out += &line;
        }
        let status = wait::until("attach to end", PATIENCE, || {
            self.child.try_wait()?.ok_or_else(|| anyhow!("it still runs: {out}"))
        })?;
        self.child.stderr.as_mut().context("no pipe")?.read_to_string(&mut err)?;
        Ok((out, err, status.code().context("a signal ended it")?))
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_is_shared_left_by_keys_and_kept_over_a_restart_of_the_daemon() -> Result<()> {
    let (mut machine, image) = machine("attach-tty")?;
    deploy(&machine, &image, "shell", &["--tty", "--interactive"], &["-i"])?;
    let before = pids(&machine)?;

    let mut one = Terminal::open(&machine, 33, 101, &["attach", "shell"])?;
    // What is typed is echoed: the words that are waited for are put together by the shell. The prompt was before us.
    wait::until("the terminal to be raw", PATIENCE, || one.is_raw()?.then_some(()).context("lines are edited here"))?;
    one.types("stty size; echo do''ne\r")?;
    one.shows("33 101")?;
    one.shows("done")?;
    one.resize(44, 132)?;
    wait::until("the shell's terminal to have the new size", PATIENCE, || {
        let said = machine.hivemind(&["exec", "shell", "--", "stty", "-F", "/proc/1/fd/0", "size"])?.ok()?;
        ensure!(said == "44 132\n", "{said}");
        Ok(())
    })?;

    let mut two = Terminal::open(&machine, 44, 132, &["attach", "shell"])?;
    wait::until("the other terminal to be raw", PATIENCE, || two.is_raw()?.then_some(()).context("not yet"))?;
    two.types("echo bo''th\r")?;
    one.shows("both")?;
    two.shows("both")?;
    // One who leaves takes nobody along.
    one.types("\x10\x11")?;
    let code = one.ended()?;
    ensure!(code == 0 && one.seen().contains("detached from shell-"), "{code}: {}", one.seen());
    two.types("echo sti''ll\r")?;
    two.shows("still")?;

    machine.daemon.kill()?;
    two.shows("attaching anew")?;
    machine.daemon.start(&machine.sandbox)?;
    two.shows("attached anew")?;
    two.types("echo a''gain\r")?;
    two.shows("again")?;
    // The last who leaves does not hang the terminal up.
    two.types("\x10\x11")?;
    ensure!(two.ended()? == 0, "{}", two.seen());

    let mut keys = Terminal::open(&machine, 30, 90, &["attach", "shell", "--detach-keys", "ctrl-x,q"])?;
    wait::until("the third terminal to be raw", PATIENCE, || keys.is_raw()?.then_some(()).context("not yet"))?;
    // These are no keys of ours now, and Ctrl-C is for the shell.
    keys.types("\x03")?;
    keys.shows("# ")?;
    keys.types("echo it li''stens\r")?;
    keys.shows("it listens")?;
    keys.types("\x18q")?;
    ensure!(keys.ended()? == 0, "{}", keys.seen());
    ensure!(pids(&machine)? == before, "the shell is another one");

    let mut last = Terminal::open(&machine, 30, 90, &["attach", "shell"])?;
    wait::until("the last terminal to be raw", PATIENCE, || last.is_raw()?.then_some(()).context("not yet"))?;
    last.types("exit 7\r")?;
    let code = last.ended()?;
    ensure!(code == 7, "{code}: {}", last.seen());
    let said = machine.hivemind(&["attach", "shell"])?;
    ensure!(said.code == 125 && said.err.contains("error[E-RUN-003]"), "{said}");
    machine.close()
}

#[test]
fn without_a_terminal_lines_go_both_ways_and_signals_are_passed_on() -> Result<()> {
    let (machine, image) = machine("attach-pipe")?;
    let script = r#"trap 'echo caught' USR1; while :; do
        if read -t 1 line; then echo "got $line"; echo "err $line" >&2; fi
        if [ "$line" = enough ]; then exit 9; fi; done"#;
    deploy(&machine, &image, "talk", &["--interactive"], &["-c", script])?;
    deploy(&machine, &image, "deaf", &[], &["-c", "while :; do echo tick; sleep 0.2; done"])?;

    let mut one = Piped::begin(&machine, &["talk"])?;
    one.says("first\n")?;
    ensure!(one.line()? == "got first\n", "the first line");
    let mut two = Piped::begin(&machine, &["talk", "--no-stdin"])?;
    // It is there when it hears something.
    wait::until("the second to look on", PATIENCE, || {
        one.says("again\n")?;
        one.line()?;
        let heard = two.within(Duration::from_millis(100)).context("it has not heard anything")?;
        ensure!(heard == "got again\n", "{heard}");
        Ok(())
    })?;
    // The end of somebody's input is not the end of the process's.
    one.stdin = None;
    one.signal(Signal::SIGUSR1)?;
    ensure!(one.line()? == "caught\n", "the signal");

    let mut three = Piped::begin(&machine, &["talk", "--sig-proxy=false"])?;
    three.says("third\n")?;
    ensure!(three.line()? == "got third\n", "the third");
    three.signal(Signal::SIGTERM)?;
    let (_, err, code) = three.ended()?;
    ensure!(code == 0 && err.contains("detached"), "{code}: {err}");

    let mut last = Piped::begin(&machine, &["talk"])?;
    last.says("enough\n")?;
    for piped in [&mut last, &mut one, &mut two] {
        let (out, err, code) = piped.ended()?;
        ensure!(code == 9 && out.ends_with("got enough\n") && err.ends_with("err enough\n"), "{code}: {out} {err}");
    }

    // Who asked for no input has none: it is only looked on.
    let mut deaf = Piped::begin(&machine, &["deaf"])?;
    deaf.says("nobody reads this")?;
    ensure!(deaf.line()? == "tick\n", "it says something else");
    let name = instances(&machine, "deaf")?.first().context("no instance")?.name.clone();
    let (scope, asked) = (Scope::default(), AttachToInstanceArgs { stdin: true, ..AttachToInstanceArgs::default() });
    let client = Client::new(Target::Unix(machine.daemon.socket()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = runtime.block_on(async { client.attach_to_instance(&scope, &name, &asked).await.map(drop) });
    let refused = refused.err().context("it takes input")?;
    ensure!(refused.code == ErrorCode::NoAttach, "{refused:?}");
    machine.hivemind(&["app", "rm", "deaf"])?.ok()?;
    let (_, err, code) = deaf.ended()?;
    // The image's stop signal is SIGKILL.
    ensure!(code == 137, "{code}: {err}");
    machine.close()
}

#[test]
fn one_who_looks_on_and_reads_nothing_keeps_back_neither_the_process_nor_its_log() -> Result<()> {
    let (machine, image) = machine("attach-slow")?;
    let (line, count) = ("0123456789".repeat(8), 60_000);
    let script = format!("read go; yes {line} | head -n {count}; echo finished; read go; exit 3");
    deploy(&machine, &image, "much", &["--interactive"], &["-c", &script])?;
    let mut slow = Piped::begin(&machine, &["much"])?;
    slow.says("go\n")?;
    // More than all buffers on the way to it hold, and it takes nothing.
    wait::until("the process to be done", PATIENCE, || {
        let last = machine.hivemind(&["logs", "much", "--tail", "1"])?.ok()?;
        ensure!(last.contains("finished"), "{last}");
        Ok(())
    })?;
    let log = machine.hivemind(&["logs", "much"])?.ok()?;
    let lines = log.lines().filter(|one| *one == line).count();
    ensure!(lines == count && log.ends_with("\nfinished\n"), "{lines} lines are in the log");
    slow.says("go\n")?;
    let (out, err, code) = slow.ended()?;
    let lost: Vec<usize> = err
        .lines()
        .filter_map(|line| line.split_once(" bytes were left out"))
        .filter_map(|(bytes, _)| bytes.rsplit(' ').next()?.parse().ok())
        .collect();
    let all = log.len();
    ensure!(code == 3 && !lost.is_empty(), "{code}: {} of {all} bytes, {err}", out.len());
    ensure!(out.len() + lost.iter().sum::<usize>() == all, "{} and {lost:?} of {all} bytes: {err}", out.len());
    machine.close()
}

#[test]
fn a_command_that_nobody_waits_for_runs_on_without_the_daemon_too() -> Result<()> {
    let (mut machine, image) = machine("exec-detached")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    // Its input has ended, and who writes is not held up.
    let script = "cat; seq 1 100000; echo $WORD $(pwd) > /tmp/made; sleep 1000";
    let flags = ["exec", "-d", "--env", "WORD=hello", "--workdir", "/etc", "-o", "json", "web"];
    let started = machine.hivemind(&[&flags[..], &["--", "sh", "-c", script]].concat())?.json()?;
    let pid = started["pid"].as_u64().context("no pid")?;
    let made = || machine.hivemind(&["exec", "web", "--", "cat", "/tmp/made"])?.ok();
    wait::until("the command to have run", PATIENCE, || {
        let said = made()?;
        ensure!(said == "hello /etc\n", "{said}");
        Ok(())
    })?;
    for (command, words) in [("no-such-program", "no-such-program"), ("/etc", "/etc")] {
        let said = machine.hivemind(&["exec", "-d", "web", "--", command])?;
        ensure!(said.code == 125 && said.err.contains("error[E-SPEC-001]") && said.err.contains(words), "{said}");
    }
    let said = machine.hivemind(&["exec", "-d", "--user", "nosuch", "web", "--", "true"])?;
    ensure!(said.code == 125 && said.err.contains("error[E-SPEC-001]") && said.err.contains("nosuch"), "{said}");
    let said = machine.hivemind(&["exec", "-d", "-i", "web", "--", "cat"])?;
    ensure!(said.code == 2, "{said}");

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    until_ready(&machine, "web", 1)?;
    ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it has ended with the daemon");
    // It goes with its instance.
    machine.hivemind(&["app", "rm", "web"])?.ok()?;
    wait::until("the process to be gone", PATIENCE, || {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is there");
        Ok(())
    })?;
    machine.close()
}
