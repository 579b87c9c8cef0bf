//! The hivemind daemon of a sandbox, and the command line that talks to it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{sandbox::Sandbox, shell, wait};

/// Longer than any start on a busy machine.
const START: Duration = Duration::from_secs(30);
/// A stop waits two seconds for open requests.
const STOP: Duration = Duration::from_secs(20);
/// No command takes longer; one that does is a fault.
const COMMAND: Duration = Duration::from_secs(180);

/// The variable that names the daemon's configuration, and a file that says nothing.
const NO_FILE: [&str; 2] = ["HIVEMIND_CONFIG", "/dev/null"];

/// The flags of ours that may be repeated.
const LISTS: [&str; 3] = ["dns-upstream", "plain-http-registry", "registry-mirror"];

/// A daemon, running or not. Its state outlives its process, and both end with the sandbox.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    dir: PathBuf,
    flags: Vec<String>,
    environment: BTreeMap<String, String>,
    /// A program with its first arguments that starts ours.
    through: Vec<String>,
    child: Option<Child>,
}

/// What a command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The command, as it would be typed.
    pub command: String,
    /// Its exit code; 128 + the signal if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// The output, if the command ended well.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "{self}");
        Ok(self.out)
    }

    /// The output as JSON, if the command ended well.
    pub fn json(self) -> Result<Value> {
        let shown = self.to_string();
        serde_json::from_str(&self.ok()?).with_context(|| format!("no JSON: {shown}"))
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$ {}\n{}{}(exit code {})", self.command, self.out, self.err, self.code)
    }
}

/// The binary under test: `HIVEMIND_BINARY`, or the debug build.
pub fn binary() -> Result<PathBuf> {
    let named = std::env::var_os("HIVEMIND_BINARY").map(PathBuf::from);
    let binary = named.unwrap_or_else(|| shell::root().join("target/debug/hivemind"));
    ensure!(binary.is_file(), "{} is not there (hint: cargo xtask build)", binary.display());
    Ok(binary)
}

impl Daemon {
    /// A daemon in the sandbox, not yet started. `more` are flags after ours.
    pub fn new(sandbox: &Sandbox, containerd: &Path, registries: &[&str], more: &[&str]) -> Result<Self> {
        let dir = sandbox.dir().join("hivemind");
        fs::create_dir_all(&dir)?;
        let path = |name: &str| dir.join(name).display().to_string();
        let mut flags: Vec<String> = Vec::new();
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        flag("--socket", path("hivemind.sock"));
        flag("--state-dir", path("state"));
        flag("--run-dir", path("run"));
        flag("--containerd-socket", containerd.display().to_string());
        flag("--cgroup-root", sandbox.cgroup().display().to_string());
        flag("--cgroup-parent", format!("/{}/instances", sandbox.name()));
        flag("--node-name", "node-1".into());
        // There is no way out of a sandbox; without the flag the names of the host's servers would be asked in vain.
        flag("--dns-upstream", "127.0.0.1:5353".into());
        for registry in registries {
            flag("--plain-http-registry", (*registry).into());
        }
        flags.extend(more.iter().map(|word| (*word).to_owned()));
        // Not what the machine has configured for a daemon of its own.
        let environment = BTreeMap::from([NO_FILE.map(str::to_owned).into()]);
        Ok(Self { binary: binary()?, dir, flags, environment, through: Vec::new(), child: None })
    }

    /// Its folder: socket, state, log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("hivemind.sock")
    }

    /// The program, for those who type the commands themselves.
    pub fn program(&self) -> &Path {
        &self.binary
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Uses another binary from the next start on.
    pub fn replace_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Adds a flag, from the next start on.
    pub fn add_flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    /// Has another program start it, with what that puts upon it, from the next start on.
    pub fn start_through(&mut self, words: &[String]) {
        self.through = words.to_vec();
    }

    /// Its flags as a file that configures the same; from the next start on it has none.
    pub fn take_flags(&mut self) -> Result<String> {
        let mut texts = BTreeMap::<String, Vec<String>>::new();
        let flags = std::mem::take(&mut self.flags);
        for pair in flags.chunks(2) {
            let [flag, value] = pair else { bail!("{pair:?} is no flag with a value") };
            let key = flag.strip_prefix("--").with_context(|| format!("{flag} is no flag"))?;
            texts.entry(key.to_owned()).or_default().push(value.clone());
        }
        let line = |(key, values): (&String, &Vec<String>)| match LISTS.contains(&key.as_str()) {
            true => format!("{key} = {values:?}\n"),
            false => format!("{key} = {:?}\n", values[0]),
        };
        Ok(texts.iter().map(line).collect())
    }

    /// Sets a variable of its environment, or takes it away, from the next start on.
    pub fn set_variable(&mut self, name: &str, value: Option<String>) {
        match value {
            Some(value) => self.environment.insert(name.to_owned(), value),
            None => self.environment.remove(name),
        };
    }

    /// Whether its process has ended. It may be started again then.
    pub fn has_ended(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else { return Ok(true) };
        let ended = child.try_wait()?.is_some();
        if ended {
            self.child = None;
        }
        Ok(ended)
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.spawn(sandbox)?;
        self.ready()
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self, sandbox: &Sandbox) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon runs already");
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut words = self.through.iter().map(std::ffi::OsString::from).chain([self.binary.clone().into()]);
        let mut command = sandbox.command(words.next().context("no program")?);
        command
            .args(words)
            .arg("daemon")
            .args(&self.flags)
            .envs(&self.environment)
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?);
        Ok(())
    }

    /// Waits until `/readyz` says so.
    pub fn ready(&mut self) -> Result<()> {
        let socket = self.socket();
        let child = self.child.as_mut().context("the daemon was not started")?;
        let mut ended = None;
        let ready = wait::until("the daemon to be ready", START, || {
            ended = child.try_wait()?;
            if ended.is_some() {
                return Ok(());
            }
            let answer = get(&socket, "/readyz")?;
            ensure!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
            Ok(())
        });
        match (ready, ended) {
            (Ok(()), None) => Ok(()),
            (Err(error), _) => Err(error.context(self.last_words())),
            (Ok(()), Some(status)) => bail!("the daemon ended at its start ({status})\n{}", self.last_words()),
        }
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill().and_then(|()| child.wait()).context("cannot kill the daemon").map(drop)
    }

    /// Asks it to stop, and waits until it has; returns its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        let mut child = self.child.take().context("the daemon does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let status =
            wait::until("the daemon to stop", STOP, || child.try_wait()?.ok_or_else(|| anyhow!("it still runs")))?;
        Ok(code(status))
    }

    /// Waits for it to end by itself; returns its exit code and what it logged.
    pub fn ended(&mut self) -> Result<(i32, String)> {
        let mut child = self.child.take().context("the daemon does not run")?;
        let status =
            wait::until("the daemon to end", START, || child.try_wait()?.ok_or_else(|| anyhow!("it still runs")));
        if status.is_err() {
            self.child = Some(child);
        }
        Ok((code(status?), self.log()))
    }

    /// The command line, talking to this daemon.
    pub fn command(&self, sandbox: &Sandbox, args: &[&str]) -> Command {
        let mut command = sandbox.command(&self.binary);
        command.args(args).env("HIVEMIND_SOCKET", self.socket()).env("NO_COLOR", "1").env(NO_FILE[0], NO_FILE[1]);
        command
    }

    /// The command line as it is typed in a folder.
    pub fn command_in(&self, sandbox: &Sandbox, dir: &Path, args: &[&str]) -> Command {
        // Who enters a sandbox begins at its root.
        let mut command = sandbox.command("sh");
        command.args(["-c", r#"cd "$0" && exec "$@""#]).arg(dir).arg(&self.binary).args(args);
        command.env("HIVEMIND_SOCKET", self.socket()).env("NO_COLOR", "1");
        command
    }

    /// Runs a command of the command line to its end.
    pub fn cli(&self, sandbox: &Sandbox, args: &[&str]) -> Result<Said> {
        finish(self.command(sandbox, args), &shown(args), COMMAND)
    }

    /// The body of an answer of the API, by the socket.
    pub fn get(&self, path: &str) -> Result<String> {
        let answer = get(&self.socket(), path)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no head")?;
        ensure!(head.lines().next().is_some_and(|line| line.contains(" 200")), "GET {path}: {answer}");
        Ok(body.to_owned())
    }

    /// Puts a document by the API, as a program would; it must be taken.
    pub fn put(&self, path: &str, document: &Value) -> Result<()> {
        let body = document.to_string();
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let answer = ask(&self.socket(), "PUT", path, &head, &body)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "PUT {path}: {answer}");
        Ok(())
    }
}

/// `hivemind <args>`, as it would be typed.
pub fn shown(args: &[&str]) -> String {
    shell::show(Command::new("hivemind").args(args))
}

/// Runs a command to its end, or kills it when `limit` is over.
pub fn finish(mut command: Command, shown: &str, limit: Duration) -> Result<Said> {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {shown}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let out = scope.spawn(|| text(out));
        let err = scope.spawn(|| text(err));
        let status = wait::until(shown, limit, || child.try_wait()?.ok_or_else(|| anyhow!("it still runs")));
        if status.is_err() {
            // It may have ended in between; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
        let said = |thread: std::thread::ScopedJoinHandle<'_, String>| thread.join().unwrap_or_default();
        let (out, err) = (said(out), said(err));
        let status = status.with_context(|| format!("it said:\n{out}{err}"))?;
        Ok(Said { command: shown.to_owned(), code: code(status), out, err })
    })
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is shown all the same.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn get(socket: &Path, path: &str) -> Result<String> {
    ask(socket, "GET", path, "", "")
}

/// One request to an HTTP server on a Unix socket; the whole answer. `head` are more lines of its head.
fn ask(socket: &Path, method: &str, path: &str, head: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("nobody listens on {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n{body}")?;
    Ok(text(Some(stream)))
}
