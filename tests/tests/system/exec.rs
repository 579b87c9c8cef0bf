//! `hivemind exec` as people type it: in a terminal, in a pipe, in a script.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::{SinkExt, StreamExt};
use hivemind::{
    api::exec::channel,
    client::{Client, ExecInInstanceArgs, Target},
    model::Scope,
};
use nix::sys::signal::{Signal, kill};

use hivemind_tests::{PATIENCE, Terminal, machine};
use xtask::{machine::Machine, wait};

/// A machine where the app `web` runs.
fn with_web(test: &str) -> Result<Machine> {
    let (machine, image) = machine(test)?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    Ok(machine)
}

#[test]
fn a_command_goes_on_while_containerd_is_away_and_its_code_is_told() -> Result<()> {
    let mut machine = with_web("exec-away")?;
    let script = "echo begun; read word; echo \"said $word\"; exit 7";
    let args = ["exec", "-i", "web", "--", "sh", "-c", script];
    let mut command = machine.daemon.command(&machine.sandbox, &args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let mut line = || said.next().context("it says nothing more")?.context("the pipe");
    ensure!(line()? == "begun");
    machine.containerd.kill()?;
    child.stdin.take().context("no pipe")?.write_all(b"on\n")?;
    ensure!(line()? == "said on");
    machine.containerd.restart(&machine.sandbox)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(7), "{status}");
    machine.close()
}

#[test]
fn a_shell_in_a_terminal() -> Result<()> {
    let machine = with_web("exec-shell")?;
    let mut terminal = Terminal::open(&machine, 33, 101, &["exec", "-it", "web", "--", "sh"])?;
    terminal.shows("# ")?;
    ensure!(terminal.is_raw()?, "keys would be looked at twice");
    // What is typed is echoed: the words that are waited for are put together by the shell.
    terminal.types("stty size; tty; echo do''ne\r")?;
    terminal.shows("33 101")?;
    terminal.shows("/dev/pts/")?;
    terminal.shows("done")?;

    // A shell that waits for a line looks at it only when the line is there.
    let watch = "sh -c 'trap \"stty size\" WINCH; echo wat\"\"ching; sleep 1000 & while :; do wait; done'\r";
    terminal.types(watch)?;
    terminal.shows("watching")?;
    terminal.resize(44, 132)?;
    terminal.shows("44 132")?;
    terminal.types("\x03")?;
    terminal.shows("# ")?;

    terminal.types("sh -c 'echo be\"\"gun; sleep 1000'\r")?;
    terminal.shows("begun")?;
    terminal.types("\x03")?;
    terminal.types("echo code=$?\r")?;
    terminal.shows("code=130")?;
    // The end of input is a character too.
    terminal.types("echo list''ens; cat; echo re''ad\r")?;
    terminal.shows("listens")?;
    terminal.types("ground\r\x04")?;
    terminal.shows("ground\r\nground\r\nread")?;
    terminal.types("exit 7\r")?;
    let code = terminal.ended()?;
    ensure!(code == 7, "{code}");
    machine.close()
}

#[test]
fn the_terminal_is_given_back_however_it_ends() -> Result<()> {
    let mut machine = with_web("exec-end")?;
    let begin = |machine: &Machine, more: &[&str]| -> Result<Terminal> {
        let script = ["web", "--", "sh", "-c", "stty size; exec sleep 1000"];
        let mut terminal = Terminal::open(machine, 20, 70, &[&["exec"], more, &script[..]].concat())?;
        terminal.shows("20 70")?;
        Ok(terminal)
    };
    // Ctrl-C ends the program, and its code is that of the signal.
    let mut terminal = begin(&machine, &["-it"])?;
    terminal.types("\x03")?;
    let code = terminal.ended()?;
    ensure!(code == 130, "Ctrl-C: {code}");

    // A person closes the window, or an administrator ends the command.
    for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut terminal = begin(&machine, &["-it"])?;
        kill(terminal.pid()?, signal)?;
        let code = terminal.ended()?;
        ensure!(code == expected, "{signal}: {code}");
    }
    // Nothing runs on in the container for anybody.
    let sleeping = || machine.hivemind(&["exec", "web", "--", "sh", "-c", "pgrep -x sleep || echo none"])?.ok();
    wait::until("the programs to be ended", PATIENCE, || {
        let pids = sleeping()?;
        ensure!(pids == "none\n", "{pids}");
        Ok(())
    })?;

    // Without input the terminal is only looked at. The daemon goes: that is no fault of the command.
    let mut terminal = begin(&machine, &["-t"])?;
    machine.daemon.stop()?;
    let code = terminal.ended()?;
    ensure!(code == 125 && terminal.seen().contains("error[E-CLI-001]"), "{code}: {}", terminal.seen());
    machine.close()
}

#[test]
fn a_program_of_ones_own_may_do_what_the_command_line_does() -> Result<()> {
    let machine = with_web("exec-api")?;
    let id = machine.hivemind(&["ps", "web", "-o", "json"])?.json()?[0]["id"].as_str().context("no id")?.to_owned();
    let client = Client::new(Target::Unix(machine.daemon.socket()));
    let script = "stty size; read x; until stty size | grep '31 91'; do sleep 0.02; done; exit 9";
    let command = serde_json::json!(["sh", "-c", script]).to_string();
    let how = ExecInInstanceArgs { stdin: true, rows: Some(30), cols: Some(90), ..ExecInInstanceArgs::default() };
    let conversation = async {
        let (mut to, mut from) = client.exec_in_instance(&Scope::default(), &id, &command, &how).await?;
        let mut shown = String::new();
        while !shown.contains("30 90") {
            let (kind, data) = from.next().await.context("the end")??;
            ensure!(kind == channel::STDOUT, "{kind}: {shown}");
            shown += &String::from_utf8_lossy(&data);
        }
        to.send((channel::RESIZE, "{\"rows\":31,\"cols\":91}".into())).await?;
        to.send((channel::STDIN, "\n".into())).await?;
        loop {
            match from.next().await.context("the end")?? {
                (channel::STDOUT, data) => shown += &String::from_utf8_lossy(&data),
                (channel::EXIT, end) => break ensure!(&end[..] == b"{\"code\":9}", "{end:?}"),
                other => bail!("{other:?}"),
            }
        }
        ensure!(shown.contains("31 91"), "{shown:?}");
        ensure!(from.next().await.is_none(), "the exit code is the last message");
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, conversation).await })??;
    machine.close()
}

#[test]
fn without_a_terminal_every_byte_arrives() -> Result<()> {
    let machine = with_web("exec-pipe")?;
    let said = machine.hivemind(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])?;
    ensure!((said.out.as_str(), said.err.as_str(), said.code) == ("out\n", "err\n", 3), "{said}");
    for (command, code) in [(&["true"][..], 0), (&["no-such-program"], 127), (&["/etc"], 126)] {
        let said = machine.hivemind(&[&["exec", "web", "--"], command].concat())?;
        ensure!(said.code == code, "{said}");
    }
    let said = machine.hivemind(&["exec", "nobody", "--", "true"])?;
    ensure!(said.code == 125 && said.err.contains("error[E-OBJ-001]"), "{said}");
    // No terminal is no terminal.
    let said = machine.hivemind(&["exec", "-it", "web", "--", "sh"])?;
    ensure!(said.code == 125 && said.err.contains("-t needs a terminal"), "{said}");

    // All bytes there are, in an order that no line ending or text encoding would survive; more than any buffer holds.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pipe = |args: &[&str], input: &[u8]| -> Result<std::process::Output> {
        let mut command = machine.sandbox.command("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(machine.daemon.program()).args(args);
        command.env("HIVEMIND_SOCKET", machine.daemon.socket()).env("NO_COLOR", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no input")?;
        std::thread::scope(|scope| {
            // A program that does not read it all closes its end: that is no failure of ours.
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().context("no output")
        })
    };
    let back = pipe(&["exec", "-i", "web", "--", "cat"], &bytes)?;
    ensure!(back.status.code() == Some(0) && back.stdout == bytes, "{} of {} bytes", back.stdout.len(), bytes.len());
    ensure!(back.stderr.is_empty(), "{}", String::from_utf8_lossy(&back.stderr));
    let apart = pipe(&["exec", "-i", "web", "--", "sh", "-c", "tee /dev/stderr"], &bytes)?;
    ensure!(apart.stdout == bytes && apart.stderr == bytes, "{}, {}", apart.stdout.len(), apart.stderr.len());
    // A program that has had enough ends well, whatever is still on its way to it; by TCP as well, where a reset would
    // overtake the answer.
    let token = machine.daemon.dir().join("state/api-token").display().to_string();
    let tcp = ["--socket", "tcp://127.0.0.1:3000", "--token-file", &token];
    for n in 0..20 {
        let by: &[&str] = if n % 2 == 0 { &[] } else { &tcp };
        let head = pipe(&[by, &["exec", "-i", "web", "--", "head", "-c", "5"]].concat(), &bytes)?;
        let well = head.status.code() == Some(0) && head.stdout == bytes[..5];
        ensure!(well, "{}: {}", head.status, String::from_utf8_lossy(&head.stderr));
    }
    // Without -i nothing is sent, and the program finds the end of its input at once.
    let silent = pipe(&["exec", "web", "--", "cat"], b"not sent")?;
    ensure!(silent.status.code() == Some(0) && silent.stdout.is_empty(), "{:?}", silent.stdout);

    // Whoever reads the output goes: the command ends too, as in every pipeline.
    let mut command = machine.daemon.command(&machine.sandbox, &["exec", "web", "--", "yes"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut first = [0; 4];
    child.stdout.take().context("no output")?.read_exact(&mut first)?;
    let status = wait::until("exec to end with its reader", PATIENCE, || {
        child.try_wait()?.ok_or_else(|| anyhow!("it still runs"))
    });
    if status.is_err() {
        child.kill()?;
    }
    ensure!(&first == b"y\ny\n" && status?.code() == Some(141), "{first:?}");
    machine.close()
}
