//! Limits with real sockets: what comes through in the time that passed, who is refused, and who is not.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hivemind::{
    dataplane::{
        Dataplane,
        tables::{LimitOwner, LimitRow, Usage},
    },
    model::{BitRate, Protocol},
    net::Family,
    spec::v1::LimitSpec,
};
use hivemind_ebpf::abi::FLOW_SHARE;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket, sockopt,
};
use tokio::time::Instant;

use super::{
    lab::{FAMILIES, Lab, Ns, UPLINK, firewall, isolated, past_the_sockets, vip},
    traffic::{Echo, PATIENCE, tcp_ask, tcp_ask_on},
};

/// The limit of the tests of rates. What is below it a busy machine manages as well.
pub(crate) const RATE: BitRate = BitRate(20_000_000);
/// For how long it is measured: sixteen times what a full bucket lasts.
const MEASURED: Duration = Duration::from_secs(4);
/// By how much what came through may differ from it: twice what the bucket holds.
const TOLERANCE: f64 = 0.15;

pub(crate) fn ready(cgroup: &Path, instances: u8) -> Lab {
    let mut lab = Lab::new(cgroup, instances);
    (0..usize::from(instances)).for_each(|index| lab.ready(index));
    lab.sync();
    lab
}

pub(crate) fn limit(lab: &mut Lab, instance: usize, spec: LimitSpec) {
    let ifindex = lab.instances[instance].link.ifindex;
    lab.tables.limits.insert(LimitOwner::Instance(ifindex), LimitRow { spec, tenant: 0 });
    lab.tables.endpoints.get_mut(&ifindex).expect("a row").limited = spec.has_rates();
    lab.sync();
}

pub(crate) fn used(lab: &mut Lab, instance: usize) -> Usage {
    let owner = LimitOwner::Instance(lab.instances[instance].link.ifindex);
    lab.dataplane.uses().expect("uses")[&owner]
}

/// Waits until the burst is used up.
pub(crate) fn use_up(bytes: &AtomicU64) {
    let deadline = Instant::now() + PATIENCE;
    while bytes.load(Ordering::Relaxed) < 1_000_000 {
        assert!(Instant::now() < deadline, "only {bytes:?} bytes came through");
        std::thread::yield_now();
    }
}

/// Bits in a second of what `bytes` counts, with `headers` for each 1,448 of them, once the burst is used up.
pub(crate) fn measure(bytes: &AtomicU64, headers: f64) -> f64 {
    use_up(bytes);
    let (first, start) = (bytes.load(Ordering::Relaxed), Instant::now());
    while start.elapsed() < MEASURED {
        std::thread::park_timeout(MEASURED.saturating_sub(start.elapsed()));
    }
    let (last, elapsed) = (bytes.load(Ordering::Relaxed), start.elapsed());
    let payload = f64::from(u32::try_from(last - first).expect("few"));
    payload * (1.0 + headers / 1_448.0) * 8.0 / elapsed.as_secs_f64()
}

pub(crate) fn is_near(name: &str, found: f64) {
    let wanted = f64::from(u32::try_from(RATE.0).expect("few"));
    println!("{name}: {:.2} of {:.2} Mbit/s", found / 1e6, wanted / 1e6);
    let off = (found - wanted).abs() / wanted;
    assert!(off <= TOLERANCE, "{name}: {found:.0} bits in a second, not {wanted:.0}");
}

/// Who sends as much as it can, and where to.
#[derive(Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) from: &'a Ns,
    pub(crate) into: &'a Ns,
    pub(crate) to: SocketAddr,
}

/// What comes through by TCP, in bits in a second. With a window, the receiver has so much room.
pub(crate) fn tcp(sender: Sender<'_>, window: Option<usize>) -> f64 {
    let Sender { from, into, to } = sender;
    let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let listener = into.run(|| TcpListener::bind(to).expect("a listener"));
    if let Some(window) = window {
        // Those that it accepts inherit it.
        setsockopt(&listener, sockopt::RcvBuf, &window).expect("room for what comes");
    }
    let reader = {
        let bytes = Arc::clone(&bytes);
        into.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut buffer = vec![0; 65_536];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                bytes.fetch_add(n as u64, Ordering::Relaxed);
            }
        })
    };
    let writer = {
        let stop = Arc::clone(&stop);
        from.spawn(move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a connection");
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            // What most machines have, whatever this one does.
            setsockopt(&stream, sockopt::TcpCongestion, &"cubic".into()).expect("a way to react to losses");
            while !stop.load(Ordering::Relaxed) && stream.write(&[0; 65_536]).is_ok() {}
        })
    };
    // Ethernet, IPv4 and TCP with its time stamps.
    let rate = measure(&bytes, 66.0);
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    reader.join().expect("the reader");
    rate
}

/// The same by UDP.
pub(crate) fn udp(sender: Sender<'_>) -> f64 {
    let Sender { from, into, to } = sender;
    let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let socket = into.run(|| UdpSocket::bind(to).expect("a socket"));
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let reader = {
        let (bytes, stop) = (Arc::clone(&bytes), Arc::clone(&stop));
        into.spawn(move || {
            let mut buffer = [0; 2_048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok(n) = socket.recv(&mut buffer) {
                    bytes.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        })
    };
    let writer = {
        let stop = Arc::clone(&stop);
        from.spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(to).expect("to connect");
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..16 {
                    let _ = socket.send(&[0; 1_448]);
                }
                std::thread::yield_now();
            }
        })
    };
    let rate = measure(&bytes, 42.0);
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    reader.join().expect("the reader");
    rate
}

#[test]
fn as_much_comes_through_as_the_limit_says_in_the_time_that_passes() {
    isolated(|cgroup| {
        let mut lab = ready(cgroup, 2);
        let out = LimitSpec { egress: Some(RATE), ..LimitSpec::default() };
        let into = LimitSpec { ingress: Some(RATE), ..LimitSpec::default() };
        let to = |port| SocketAddr::new(Ipv4Addr::from(lab.instances[1].v4.octets()).into(), port);
        let (tcp_to, udp_to) = (to(7_000), to(7_001));
        let tcp = |lab: &Lab, to| tcp(Sender { from: &lab.instances[0].ns, into: &lab.instances[1].ns, to }, None);
        let udp = |lab: &Lab, to| udp(Sender { from: &lab.instances[0].ns, into: &lab.instances[1].ns, to });
        limit(&mut lab, 0, out);
        is_near("TCP, sent", tcp(&lab, tcp_to));
        is_near("UDP, sent", udp(&lab, udp_to));
        let used = used(&mut lab, 0);
        assert!(used.dropped_packets[0] > 100 && used.dropped_bytes[0] > used.dropped_packets[0], "{used:?}");
        limit(&mut lab, 0, LimitSpec::default());
        limit(&mut lab, 1, into);
        is_near("TCP, received", tcp(&lab, tcp_to));
        is_near("UDP, received", udp(&lab, udp_to));
        lab.dataplane.unload().expect("unload");
    });
}

#[test]
fn connections_over_the_limit_are_refused_and_others_take_the_place_of_closed_ones() {
    isolated(|cgroup| {
        let mut lab = ready(cgroup, 3);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1]);
            lab.publish(1, 9000, 8080, protocol, &[1]);
        }
        firewall("9000", 9001);
        limit(&mut lab, 1, LimitSpec { connections: Some(3), ..LimitSpec::default() });
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        for family in FAMILIES {
            // Without a service, packet by packet, and from outside.
            let direct = SocketAddr::new(lab.instances[1].address(family), 8080);
            let uplink = if direct.is_ipv4() { IpAddr::from(UPLINK[0].0) } else { UPLINK[0].1.into() };
            let published = SocketAddr::new(uplink, 9000);
            for (to, past) in [(direct, false), (SocketAddr::new(vip(family, 1), 80), true), (published, false)] {
                let from = if to == published { &lab.outside } else { &lab.instances[0].ns };
                let connect = || from.run(|| TcpStream::connect_timeout(&to, PATIENCE));
                let connect = || if past { past_the_sockets(cgroup, connect) } else { connect() };
                let mut open: Vec<_> = (0..3).map(|_| connect().expect("a connection")).collect();
                for stream in &open {
                    tcp_ask_on(stream).expect("an answer");
                }
                let start = Instant::now();
                let refused = connect().expect_err("one too many").kind();
                assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{to}");
                assert!(start.elapsed() < PATIENCE, "told at once");
                // The others live, and the next takes the place of the first that is closed.
                tcp_ask_on(&open[1]).expect("an answer");
                drop(open.remove(0));
                let deadline = Instant::now() + PATIENCE;
                while connect().is_err() {
                    assert!(Instant::now() < deadline, "{to}: the place of a closed connection is not given again");
                }
                drop(open);
                // One whose end was lost on a busy machine goes with its row.
                let deadline = Instant::now() + 12 * PATIENCE;
                let open = |lab: &mut Lab| used(lab, 1).connections[1];
                while open(&mut lab) > 0 {
                    assert!(Instant::now() < deadline, "{to}: {} are still counted", open(&mut lab));
                }
            }
        }
        // The node's own, as those of health checks, are none of them.
        let to = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        let own: Vec<_> = (0..10).map(|_| TcpStream::connect_timeout(&to, PATIENCE).expect("from the node")).collect();
        assert_eq!((own.len(), used(&mut lab, 1).connections), (10, [0, 0]));
        lab.dataplane.unload().expect("unload");
    });
}

/// Sends SYNs that nobody answers (their checksum is wrong), each from another port, to so many ports.
fn flood(to: Ipv4Addr, ports: std::ops::Range<u16>) {
    let socket =
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp).expect("a raw socket");
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    for dport in ports {
        for sport in 1_024..=u16::MAX {
            let [a, b] = sport.to_be_bytes();
            let [c, d] = dport.to_be_bytes();
            let syn = [a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
            // One that finds no room in a queue is one less.
            let _ = sendto(socket.as_raw_fd(), &syn, &to, MsgFlags::empty());
        }
    }
}

#[test]
fn a_flood_of_one_instance_pushes_out_nothing_of_others() {
    isolated(|cgroup| {
        let mut lab = ready(cgroup, 3);
        let _echo = Echo::start(&lab.instances[1].ns, 8080, "server");
        let server = SocketAddr::new(lab.instances[1].v4.into(), 8080);
        // What another instance has: a connection, and questions that nobody has answered yet.
        let connection =
            lab.instances[2].ns.run(|| TcpStream::connect_timeout(&server, PATIENCE).expect("a connection"));
        tcp_ask_on(&connection).expect("an answer");
        let client = lab.instances[2].v4;
        lab.instances[2].ns.run(|| {
            for port in 30_000..30_100 {
                let socket = UdpSocket::bind((client, port)).expect("a socket");
                socket.send_to(b"?", (UPLINK[1].0, 9)).expect("to send");
            }
        });
        let others = |lab: &mut Lab| {
            let flows = lab.dataplane.flows().expect("flows");
            flows.iter().filter(|flow| flow.from.address == IpAddr::from(client)).count()
        };
        let before = others(&mut lab);
        assert!(before >= 101, "{before}");
        // More than the whole table has room for.
        lab.instances[0].ns.run(|| flood(server.ip().to_string().parse().expect("IPv4"), 9_000..9_002));
        let flooding = used(&mut lab, 0);
        println!("{flooding:?}");
        let (flows, own) = (lab.dataplane.flows().expect("flows"), lab.instances[0].address(Family::V4));
        let held = flows.iter().filter(|flow| flow.from.address == own).count();
        assert_eq!(held as u64, flooding.flows, "what is counted is there");
        // Each CPU may be one too many.
        assert!((u64::from(FLOW_SHARE) / 2..=u64::from(FLOW_SHARE) + 8).contains(&flooding.flows), "{flooding:?}");
        assert!(others(&mut lab) >= before, "nothing of others has gone");
        tcp_ask_on(&connection).expect("the connection lives on");
        let answer = lab.instances[2].ns.run(|| tcp_ask(server)).expect("a new one comes about");
        assert_eq!(answer.client, IpAddr::from(client));
        lab.dataplane.unload().expect("unload");
    });
}
