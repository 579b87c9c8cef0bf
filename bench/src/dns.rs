//! The name server beside dnsmasq and unbound: questions answered in a second, and how long one takes.
//!
//! All three know the same names by themselves, each on a CPU of its own, one after the other; dnsperf asks from another CPU
//! over the loopback of an empty network namespace. Packages are unpacked and not installed.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hivemind::{
    dns::{DnsConfig, DnsServer, DnsTable},
    model::{
        Addresses, AppKey, Backend, InstanceId, NodeDesired, Scope, ServedService, Service, ServiceKey, Shares,
        Timestamp,
    },
    spec::v1::BalanceSpec,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use xtask::deb;

use crate::{
    Common,
    child::Role,
    clock::wait_for,
    lab::{Netns, Place, Server},
    report::{Report, Target},
    stats::{Series, percentile},
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Names that each server knows, and that are asked for
    #[arg(long, default_value_t = 1_000)]
    names: u16,
    /// Questions in a second while it is measured how long one takes
    #[arg(long, default_value_t = 20_000)]
    pace: u32,
}

/// Where the server of the moment listens.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5300);
/// The CPU of a server, and that of who asks.
const CPUS: (usize, usize) = (1, 0);
/// Longer than any server needs to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// The rate to reach, over that of the better one of the others.
const RATE: f64 = 0.8;
/// What 99 of 100 answers may take, in milliseconds.
const SLOWEST: f64 = 1.0;

/// A program of a package, as a measuring process runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<String>,
    libraries: OsString,
}

impl Program {
    fn new(package: &str, name: &str, args: &[&str]) -> Result<Self> {
        Ok(Self {
            path: deb::program(name, package)?,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            libraries: std::env::join_paths(deb::library_folders(package)?)?,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env("LD_LIBRARY_PATH", &self.libraries).stdin(Stdio::null());
        command
    }

    /// Becomes it.
    pub(crate) fn exec(&self) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        println!("ready");
        Err(self.command().stdout(Stdio::null()).exec()).with_context(|| self.path.display().to_string())
    }

    /// What it prints.
    pub(crate) fn output(&self) -> Result<String> {
        let said = self.command().stderr(Stdio::inherit()).output()?;
        ensure!(said.status.success(), "{} ended with {}", self.path.display(), said.status);
        Ok(String::from_utf8(said.stdout)?)
    }
}

/// The name and the address of the nth service.
fn named(n: u16) -> (String, Ipv4Addr) {
    let [high, low] = n.to_be_bytes();
    (format!("s{n}.default.default.hivemind"), Ipv4Addr::new(10, 96, high, low))
}

/// Serves so many names, until it is killed.
pub(crate) fn serve(names: u16) -> Result<()> {
    let mut desired = NodeDesired { revision: 1, ..NodeDesired::default() };
    for n in 0..names {
        let (_, address) = named(n);
        let name = format!("s{n}");
        let service = Service {
            key: ServiceKey::new(Scope::default(), name.parse()?),
            id: u32::from(n) + 1,
            addresses: Addresses { v4: Some(address), v6: None },
            dns_names: Vec::new(),
            networks: Default::default(),
            ports: Vec::new(),
            app: AppKey::new(Scope::default(), name.parse()?),
            balance: BalanceSpec::default(),
            shares: Shares::default(),
            created_at: Timestamp::default(),
        };
        let backend = Backend {
            id: InstanceId::from_bits(n.into()),
            node: "a".parse()?,
            addresses: Addresses::default(),
            weight: 1,
            ports: None,
        };
        let served = ServedService { service, backends: vec![backend], leaving: false };
        desired.services.insert(served.service.key.clone(), Arc::new(served));
    }
    // As the daemon has it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_names, told) = watch::channel(Arc::new(DnsTable::new(&desired)));
        let mut server = DnsServer::start(&DnsConfig::new(vec![SERVER]), told).await?;
        println!("ready");
        server.ended().await;
        anyhow::bail!("the name server has ended")
    })
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let netns = Netns::new(run, "dns")?;
    let files = run.files();
    let questions = files.join("questions");
    fs::write(&questions, (0..args.names).map(|n| format!("{} A\n", named(n).0)).collect::<String>())?;
    let place = |cpu| Place { netns: netns.path(), cgroup: None, cpu: Some(cpu) };
    let (servers, asker) = (place(CPUS.0), place(CPUS.1));
    let contestants = [
        ("hivemind", Role::NameServer { names: args.names }),
        dnsmasq(&files, args.names)?,
        unbound(&files, args.names)?,
    ];
    let seconds = common.pick("1", "5");
    let (mut rates, mut halves, mut slowest) =
        (vec![Series::default(); 3], vec![Series::default(); 3], vec![Series::default(); 3]);
    for round in 0..common.pick(1, 7) {
        for (at, (name, role)) in contestants.iter().enumerate() {
            eprintln!("round {round}: {name}");
            let server = servers.serve(role)?;
            netns.enter(|| until_answered(name))?;
            rates[at].0.push(rate(&asker, &questions, seconds)?);
            let (half, most) = latency(&asker, &questions, seconds, args.pace)?;
            halves[at].0.push(half);
            slowest[at].0.push(most);
            stop(server);
        }
    }
    let title = format!("Name servers: {} names, A, over UDP, each on one CPU", args.names);
    let mut report = Report::new(title);
    for (at, (name, _)) in contestants.iter().enumerate() {
        report.figure(*name, "answers/s", &rates[at]);
        report.figure(format!("{name}: half of the answers, at {}/s", args.pace), "ms", &halves[at]);
        report.figure(format!("{name}: 99 of 100, at {}/s", args.pace), "ms", &slowest[at]);
    }
    let better = rates[1].0.iter().zip(&rates[2].0).map(|(one, other)| one.max(*other)).collect();
    report.ratio(("name server: rate", &rates[0]), ("the better one", &Series(better)), Some(Target::AtLeast(RATE)));
    for (at, name) in [(1, "dnsmasq"), (2, "unbound")] {
        report.ratio(("name server: rate", &rates[0]), (name, &rates[at]), None);
        report.ratio(("name server: 99 of 100", &slowest[0]), (name, &slowest[at]), None);
    }
    report.limit("name server: 99 of 100 answers", "ms", &slowest[0], Target::AtMost(SLOWEST));
    report.note("dnsperf of Debian on another CPU, over loopback: as many questions as it can with 100 under way, then at a fixed pace. dnsmasq and unbound are Debian's, with the same names of their own (hosts file, local-data), and one thread each.");
    report.print(common.json)
}

fn stop(server: Server) {
    drop(server);
}

/// Waits until the server answers.
fn until_answered(name: &str) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in named(0).0.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    question.extend([0, 0, 1, 0, 1]);
    let answered = || {
        // Refused as long as nobody listens.
        let _ = socket.send_to(&question, SERVER);
        let mut answer = [0; 512];
        Ok(socket.recv(&mut answer).ok().filter(|length| *length > 12 && answer[7] == 1).map(drop))
    };
    wait_for(&format!("an answer of {name}"), PATIENCE, answered)
}

fn dnsperf(questions: &Path, args: &[&str]) -> Result<Role> {
    let (ip, port) = (SERVER.ip().to_string(), SERVER.port().to_string());
    let file = questions.display().to_string();
    let all = [&["-s", &ip, "-p", &port, "-d", &file][..], args].concat();
    Ok(Role::Ask(Program::new("dnsperf", "dnsperf", &all)?))
}

/// Answers in a second.
fn rate(asker: &Place, questions: &Path, seconds: &str) -> Result<f64> {
    let said: String = asker.ask(&dnsperf(questions, &["-l", seconds, "-c", "8"])?)?;
    let lost = value(&said, "Queries lost:")?;
    let sent = value(&said, "Queries sent:")?;
    ensure!(lost < sent / 100.0, "{lost} of {sent} questions had no answer");
    value(&said, "Queries per second:")
}

/// The number behind a word of dnsperf's summary.
fn value(said: &str, word: &str) -> Result<f64> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(word)).context("dnsperf has no summary")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

/// What half of the answers take, and 99 of 100, in milliseconds.
fn latency(asker: &Place, questions: &Path, seconds: &str, pace: u32) -> Result<(f64, f64)> {
    let said: String = asker.ask(&dnsperf(questions, &["-l", seconds, "-c", "8", "-Q", &pace.to_string(), "-v"])?)?;
    // `> NOERROR s1.default.default.hivemind A 0.000123`
    let took = said.lines().filter_map(|line| line.strip_prefix("> ")?.rsplit(' ').next()?.parse::<f64>().ok());
    let mut took: Vec<u32> = took.map(|seconds| (seconds * 1e9) as u32).collect();
    ensure!(took.len() > 1_000, "only {} answers", took.len());
    let [half, most] = [500, 990].map(|mark| f64::from(percentile(&mut took, mark)) / 1e6);
    Ok((half, most))
}

fn dnsmasq(files: &Path, names: u16) -> Result<(&'static str, Role)> {
    let hosts = files.join("hosts");
    let line = |n| {
        let (name, address) = named(n);
        format!("{address} {name}\n")
    };
    fs::write(&hosts, (0..names).map(line).collect::<String>())?;
    let args = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--local=/hivemind/",
        &format!("--listen-address={}", SERVER.ip()),
        &format!("--port={}", SERVER.port()),
        &format!("--addn-hosts={}", hosts.display()),
    ];
    Ok(("dnsmasq", Role::Program(Program::new("dnsmasq-base", "dnsmasq", &args)?)))
}

fn unbound(files: &Path, names: u16) -> Result<(&'static str, Role)> {
    let path = files.join("unbound.conf");
    let mut text = format!(
        "server:\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         verbosity: 0\n  num-threads: 1\n  interface: {}@{}\n  do-ip6: no\n  module-config: \"iterator\"\n  \
         access-control: 127.0.0.0/8 allow\n  local-zone: \"hivemind.\" static\n",
        files.display(),
        SERVER.ip(),
        SERVER.port()
    );
    for n in 0..names {
        let (name, address) = named(n);
        writeln!(text, "  local-data: \"{name}. 1 IN A {address}\"")?;
    }
    text += "remote-control:\n  control-enable: no\n";
    fs::write(&path, text)?;
    Ok(("unbound", Role::Program(Program::new("unbound", "unbound", &["-d", "-c", &path.display().to_string()])?)))
}
