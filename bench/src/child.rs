//! The measuring processes: small, blocking, one thread for each port. They run inside a container's network
//! namespace and a cgroup, and say what they saw as one line of JSON.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        prctl::set_pdeathsig,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
        socket::{self, Backlog},
    },
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Moment,
    dns,
    flood::Flood,
    lab,
    live::Live,
    load::Load,
    names,
    stats::percentile,
    stream::{self, Stream},
};

/// Bytes of a request.
const REQUEST: usize = 64;
/// Bytes of a response.
const RESPONSE: usize = 128;
/// Bytes of a write or read of a bulk transfer.
const BULK: usize = 128 * 1024;
/// Bytes of the stack of a thread that sends back what it gets: there may be thousands of them.
const STACK: usize = 64 * 1024;
/// Connections that wait to be served.
const BACKLOG: i32 = 4096;
/// No exchange takes longer on a working path; one that does is a failure.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where and as what a measuring process runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its network namespace
    #[arg(long)]
    netns: PathBuf,
    /// Its cgroup; without it stays where it is
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// The CPU it is bound to
    #[arg(long)]
    cpu: Option<usize>,
    /// What it does, as JSON
    #[arg(long)]
    role: String,
}

/// What a measuring process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Answers until it is killed.
    Serve {
        /// Where requests are answered, each connection once.
        request: Vec<u16>,
        /// Where bulk data is swallowed.
        bulk: u16,
        /// Where numbered messages are sent back, over TCP and UDP.
        echo: u16,
    },
    /// Connects, asks, closes, again and again.
    Request {
        /// The server.
        to: SocketAddr,
        /// How long it is measured, after a tenth of it for warming up.
        millis: u64,
    },
    /// Connects once, then asks again and again; the server sends back what it gets.
    Talk {
        /// The server.
        to: SocketAddr,
        /// How long it is measured, after a tenth of it for warming up.
        millis: u64,
    },
    /// Sends as much as it can.
    Bulk {
        /// The server.
        to: SocketAddr,
        /// How long.
        millis: u64,
    },
    /// Sends numbered messages and counts the answers.
    Count(Stream),
    /// Sends frames, as many as go.
    Flood(Flood),
    /// Asks until answers cease, or come.
    Live(Live),
    /// Asks a web server, on many connections.
    Load(Load),
    /// Asks the name server until it gives that many addresses.
    Names {
        /// How many.
        count: u16,
    },
    /// Answers for so many names.
    NameServer {
        /// How many.
        names: u16,
    },
    /// Becomes a program, which answers.
    Program(dns::Program),
    /// Runs a program to its end, and says what it printed.
    Ask(dns::Program),
}

/// What [`Role::Request`] or [`Role::Talk`] saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Requests {
    /// Exchanges per second.
    pub(crate) rate: f64,
    /// Half of them took no longer, microseconds.
    pub(crate) p50: f64,
    /// 99 % of them took no longer, microseconds.
    pub(crate) p99: f64,
    /// Exchanges that failed.
    pub(crate) failed: u64,
}

/// Runs as what `args` say.
pub(crate) fn run(args: &Args) -> Result<()> {
    go_first().context("cannot go before others")?;
    lab::join(&args.netns)?;
    if let Some(cgroup) = &args.cgroup {
        let own = cgroup.join("cgroup.procs");
        fs::write(&own, "0").with_context(|| format!("cannot join {}", own.display()))?;
    }
    if let Some(cpu) = args.cpu {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("cannot run on CPU {cpu}"))?;
    }
    // A thousand connections, and as many again.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot have more files open")?;
    let role: Role = serde_json::from_str(&args.role)?;
    match role {
        Role::Serve { request, bulk, echo } => serve(&request, bulk, echo),
        Role::Request { to, millis } => {
            say(&measured(Duration::from_millis(millis), || exchange(to)).with_context(|| format!("with {to}"))?)
        }
        Role::Talk { to, millis } => say(&talk(to, Duration::from_millis(millis))?),
        Role::Bulk { to, millis } => say(&send(to, Duration::from_millis(millis))?),
        Role::Count(stream) => say(&stream.run()?),
        Role::Flood(flood) => say(&flood.run()?),
        Role::Live(live) => say(&live.run()?),
        Role::Load(load) => say(&load.run()?),
        Role::Names { count } => say(&names::until(count)?),
        Role::NameServer { names } => dns::serve(names),
        Role::Program(program) => program.exec(),
        Role::Ask(program) => say(&program.output()?),
    }
}

/// Goes before other sessions, where the scheduler shares the CPUs among sessions and this one does not yet. In one of its
/// own a Ctrl-C does not reach it, so it ends with who has started it.
fn go_first() -> Result<()> {
    let group = Path::new("/proc/self/autogroup");
    if !group.exists() || fs::read_to_string(group)?.trim_end().ends_with("nice -20") {
        return Ok(());
    }
    set_pdeathsig(Signal::SIGKILL)?;
    setsid()?;
    Ok(fs::write(group, "-20")?)
}

fn say(answer: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

fn serve(request: &[u16], bulk: u16, echo: u16) -> Result<()> {
    let listen = |port: u16| -> Result<TcpListener> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("port {port}"))?;
        // Once more, for a longer queue: clients open a thousand connections before their first word.
        socket::listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    };
    let answering = request.iter().map(|port| listen(*port)).collect::<Result<Vec<_>>>()?;
    let (swallowing, echoing) = (listen(bulk)?, listen(echo)?);
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, echo))?;
    stream::with_room(&datagrams)?;
    println!("ready");
    thread::scope(|scope| {
        for listener in answering {
            scope.spawn(move || each(&listener, answer));
        }
        scope.spawn(move || each(&swallowing, swallow));
        scope.spawn(move || stream::echo_datagrams(&datagrams));
        for stream in echoing.incoming().flatten() {
            let echo = move || io::copy(&mut &stream, &mut &stream);
            // Refused a thread, the connection is closed, which its client sees.
            let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, echo);
        }
    });
    Ok(())
}

/// Serves one connection after the other. What goes wrong with one is seen by its client.
fn each(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()>) {
    for stream in listener.incoming() {
        let _ = stream.and_then(&serve);
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request)?;
    stream.write_all(&[b'a'; RESPONSE])
}

/// Reads to the end, then says how much it was.
fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BULK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            read => total += read as u64,
        }
    }
}

fn talk(to: SocketAddr, time: Duration) -> Result<Requests> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("no answer from {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    measured(time, || {
        stream.write_all(&[b'q'; REQUEST])?;
        stream.read_exact(&mut [0; REQUEST])
    })
}

/// Exchanges one after the other, those for warming up not counted.
fn measured(time: Duration, mut exchange: impl FnMut() -> io::Result<()>) -> Result<Requests> {
    let warm = Moment::now();
    while warm.elapsed() < time / 10 {
        exchange().context("no answer")?;
    }
    let mut took: Vec<u32> = Vec::with_capacity(100_000);
    let mut failed = 0;
    let start = Moment::now();
    while start.elapsed() < time {
        let begin = Moment::now();
        match exchange() {
            Ok(()) => took.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX)),
            Err(_) => failed += 1,
        }
    }
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    let [p50, p99] = [500, 990].map(|mark| f64::from(percentile(&mut took, mark)) / 1000.0);
    Ok(Requests { rate, p50, p99, failed })
}

/// Connects, asks, reads to the end, closes.
fn exchange(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(&[b'q'; REQUEST])?;
    let mut response = [0; RESPONSE + 1];
    let mut read = 0;
    loop {
        match stream.read(&mut response[read..])? {
            0 if read == RESPONSE => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
    }
}

/// Gigabits per second, as the receiver counted them.
fn send(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let buffer = vec![0; BULK];
    let start = Moment::now();
    while start.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok(u64::from_be_bytes(total) as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}
