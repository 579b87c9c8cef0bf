//! Health checks of real servers behind real links, in both address families.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hivemind::{
    health::{self, HealthState, Subject},
    model::InstanceId,
    runtime::{ImageHealth, Runtime},
    spec::v1::{Check, HealthSpec, ProbesSpec},
};
use hivemind_fakes::runtime::FakeRuntime;
use hivemind_tests::netlab::{DEADLINE, Instance, Lab, may_run};
use tokio::sync::watch;

/// What a server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Answers with these bytes and closes.
    Says(&'static str),
    /// Answers the head, and never the body it promised.
    HeadOnly,
    /// Takes the request and says nothing.
    Hangs,
    /// Closes at once.
    Closes,
    /// Sends a head without end.
    Babbles,
}

const OK: Mood = Mood::Says("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
const EMPTY: Mood = Mood::Says("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
const MOVED: Mood = Mood::Says("HTTP/1.1 302 Found\r\nlocation: http://203.0.113.1/\r\ncontent-length: 0\r\n\r\n");
const ERROR: Mood = Mood::Says("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n");

/// A server in an instance, on one port of each of the addresses given.
#[derive(Clone)]
struct Server {
    mood: Arc<Mutex<Mood>>,
    requests: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start(instance: &Instance, addresses: &[IpAddr], port: u16, mood: Mood) -> Self {
        let server = Self { mood: Arc::new(Mutex::new(mood)), requests: Arc::default(), asked: Arc::default() };
        for ip in addresses {
            let listener = instance.ns.run(|| TcpListener::bind((*ip, port)).expect("a free port"));
            let server = server.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    thread::spawn(move || server.serve(stream));
                }
            });
        }
        server
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().expect("the mood") = mood;
    }

    fn serve(&self, mut stream: TcpStream) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mood = *self.mood.lock().expect("the mood");
        let mut request = [0; 2048];
        let length = if mood == Mood::Closes { 0 } else { stream.read(&mut request).unwrap_or(0) };
        self.requests.lock().expect("requests").push(String::from_utf8_lossy(&request[..length]).into_owned());
        // Whoever asked may be gone.
        let _ = match mood {
            Mood::Says(text) => stream.write_all(text.as_bytes()),
            Mood::Closes => Ok(()),
            Mood::HeadOnly => {
                let head = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx");
                let _ = stream.read(&mut request);
                head
            }
            Mood::Hangs => stream.read(&mut request).map(drop),
            Mood::Babbles => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                while stream.write_all(b"x-more: and more and more and more\r\n").is_ok() {}
                Ok(())
            }
        };
    }
}

fn spec(check: Check) -> HealthSpec {
    HealthSpec { interval_ms: 100, timeout_ms: 500, unhealthy_after: 2, start_period_ms: 0, ..HealthSpec::new(check) }
}

fn http() -> Check {
    Check::Http { port: 80, path: "/healthz?x=1".into() }
}

fn subject(instance: &Instance) -> Subject {
    Subject {
        id: InstanceId::from_bits(1).into(),
        addresses: instance.addresses.clone(),
        spec: None,
        probes: ProbesSpec::default(),
        started: false,
        adopted: false,
        image: None,
        first_tcp_port: None,
        steady: Duration::ZERO,
    }
}

/// Follows a subject's health from the host while `test` waits for its states.
fn followed(
    lab: &Lab,
    subject: Subject,
    runtime: &FakeRuntime,
    test: impl AsyncFnOnce(&mut watch::Receiver<HealthState>) + Send,
) {
    let runtime: Arc<dyn Runtime> = Arc::new(runtime.clone());
    lab.host.block_on(|| async move {
        let (state, mut seen) = watch::channel(HealthState::Unknown);
        tokio::select! {
            () = health::watch(subject, runtime, state) => panic!("a watch never ends by itself"),
            () = test(&mut seen) => {}
        }
    });
}

async fn until(
    seen: &mut watch::Receiver<HealthState>,
    what: &str,
    wanted: impl Fn(&HealthState) -> bool,
) -> HealthState {
    let found = tokio::time::timeout(DEADLINE, seen.wait_for(|state| wanted(state)))
        .await
        .map(|state| state.map(|s| s.clone()));
    match found {
        Ok(state) => state.expect("the watch lives"),
        Err(_) => panic!("never {what}: {:?}", *seen.borrow()),
    }
}

async fn ready(seen: &mut watch::Receiver<HealthState>) {
    until(seen, "Ready", |state| *state == HealthState::Ready).await;
}

async fn unhealthy(seen: &mut watch::Receiver<HealthState>) -> String {
    match until(seen, "Unhealthy", |state| matches!(state, HealthState::Unhealthy(_))).await {
        HealthState::Unhealthy(failure) => failure.why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_http_server_of_every_mood() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("http", 1);
    let server = Server::start(&instances[0], &instances[0].addresses, 80, OK);
    let whom = Subject { spec: Some(spec(http())), ..subject(&instances[0]) };
    followed(&lab, whom, &FakeRuntime::default(), async |seen| {
        for (good, bad, why) in [
            (OK, ERROR, "500"),
            (EMPTY, Mood::Hangs, "within 500 ms"),
            (MOVED, Mood::Closes, "GET "),
            (Mood::HeadOnly, Mood::Says("no HTTP at all\r\n\r\n"), "GET "),
            (OK, Mood::Babbles, "GET "),
        ] {
            server.becomes(good);
            ready(seen).await;
            server.becomes(bad);
            let said = unhealthy(seen).await;
            assert!(said.contains(why), "{bad:?}: {said}");
        }
    });
    let requests = server.requests.lock().expect("requests");
    assert!(requests.iter().any(|r| r.starts_with("GET /healthz?x=1 HTTP/1.1\r\n")), "{requests:?}");
    let hosts: BTreeSet<_> = requests.iter().filter_map(|r| r.lines().find_map(|l| l.strip_prefix("host: "))).collect();
    let both = instances[0].addresses.iter().map(|ip| SocketAddr::new(*ip, 80).to_string()).collect::<Vec<_>>();
    assert_eq!(hosts, both.iter().map(String::as_str).collect(), "both families are asked");
}

#[test]
fn a_check_must_pass_in_both_families() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("both", 1);
    let [v4, v6] = instances[0].addresses[..] else { panic!("two addresses") };
    let _server = Server::start(&instances[0], &[v4], 80, OK);
    for check in [http(), Check::Tcp { port: 80 }] {
        let whom = Subject { spec: Some(spec(check)), ..subject(&instances[0]) };
        followed(&lab, whom, &FakeRuntime::default(), async |seen| {
            let why = unhealthy(seen).await;
            assert!(why.contains(&v6.to_string()) && why.contains("both, IPv4 and IPv6"), "{why}");
        });
    }
    // The rule for those without a check is milder: it has started.
    let whom = Subject { first_tcp_port: Some(80), ..subject(&instances[0]) };
    followed(&lab, whom, &FakeRuntime::default(), ready);
}

#[test]
fn a_closed_port_is_told_from_a_silent_one() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("closed", 1);
    let whom = || Subject { spec: Some(spec(Check::Tcp { port: 80 })), ..subject(&instances[0]) };
    followed(&lab, whom(), &FakeRuntime::default(), async |seen| {
        let why = unhealthy(seen).await;
        assert!(why.contains("does not accept connections"), "{why}");
    });
    instances[0]
        .ns
        .sh("nft 'add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }'");
    followed(&lab, whom(), &FakeRuntime::default(), async |seen| {
        let why = unhealthy(seen).await;
        assert!(why.contains("within 500 ms"), "{why}");
    });
}

#[test]
fn without_a_check_the_first_port_decides_once() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("start", 1);
    let whom = Subject { first_tcp_port: Some(80), ..subject(&instances[0]) };
    followed(&lab, whom, &FakeRuntime::default(), async |seen| {
        let waits = until(seen, "waiting", |state| matches!(state, HealthState::Waiting(_))).await;
        assert!(format!("{waits:?}").contains("port 80"), "{waits:?}");
        let server = Server::start(&instances[0], &instances[0].addresses, 80, Mood::Closes);
        ready(seen).await;
        // One connection to each address at most, and none later: longer than the longest pause between two tries.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(server.asked.load(Ordering::Relaxed) <= 2);
    });
    followed(&lab, subject(&instances[0]), &FakeRuntime::default(), ready);
}

#[test]
fn a_command_in_the_container_decides() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("exec", 1);
    let check = || Check::Exec { command: vec!["true".into()] };
    // The image's check is used if there is no other.
    let image = ImageHealth {
        check: check(),
        interval_ms: Some(100),
        timeout_ms: Some(500),
        start_period_ms: Some(0),
        retries: Some(2),
    };
    for (own, image) in [(Some(spec(check())), None), (None, Some(image))] {
        let runtime = FakeRuntime::default();
        let whom = Subject { spec: own, image, ..subject(&instances[0]) };
        followed(&lab, whom, &runtime, async |seen| {
            // There is no such container.
            unhealthy(seen).await;
        });
    }
}

#[test]
fn a_watch_that_is_dropped_asks_no_more() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("drop", 1);
    let server = Server::start(&instances[0], &instances[0].addresses, 80, Mood::Hangs);
    let whom = Subject { spec: Some(spec(http())), ..subject(&instances[0]) };
    followed(&lab, whom, &FakeRuntime::default(), async |seen| {
        unhealthy(seen).await;
    });
    // The runtime is gone with all its tasks; its connections are closed, so every thread of the server has ended.
    let asked = server.asked.load(Ordering::Relaxed);
    hivemind_tests::netlab::until("all connections closed", || {
        let open = lab.host.sh("ss -Htn state established | wc -l");
        (open.trim() == "0").then_some(())
    });
    assert_eq!(server.asked.load(Ordering::Relaxed), asked);
}
