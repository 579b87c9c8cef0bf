//! The node's name server over real packets: from instances, from the outside, and with upstream servers of every mood.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use hivemind::{
    dns::{DnsConfig, DnsServer, DnsTable},
    model::{
        Addresses, AppKey, Backend, InstanceId, NodeDesired, Protocol, Scope, ServedService, Service, ServiceKey,
        ServicePort, Timestamp,
    },
};
use hivemind_tests::netlab::{DEADLINE, GATEWAY, HOST, Instance, Lab, Ns, OUTSIDE, may_run, node};
use tokio::sync::watch;

#[path = "dns/messages.rs"]
mod messages;

const A: RecordType = RecordType::A;
const AAAA: RecordType = RecordType::AAAA;

/// A question.
struct Ask {
    server: SocketAddr,
    tcp: bool,
    edns: Option<u16>,
    class: DNSClass,
}

impl Ask {
    fn new(server: IpAddr) -> Self {
        Self { server: (server, 53).into(), tcp: false, edns: None, class: DNSClass::IN }
    }

    /// Asks from a namespace.
    fn from(&self, ns: &Ns, name: &str, kind: RecordType) -> Message {
        let mut question = Message::new(4711, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        let mut query = Query::query(Name::from_ascii(name).expect("a name"), kind);
        query.set_query_class(self.class);
        question.add_query(query);
        if let Some(size) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            question.set_edns(edns);
        }
        let bytes = question.to_vec().expect("a message");
        let answer = if self.tcp { over_tcp(ns, self.server, &bytes) } else { over_udp(ns, self.server, &bytes) };
        let answer = Message::from_vec(&answer.unwrap_or_else(|error| panic!("{name}: {error}"))).expect("a message");
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (4711, MessageType::Response));
        answer
    }
}

/// A question for the address of `name`, as bytes.
fn question(name: &str, id: u16, class: DNSClass) -> Vec<u8> {
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    let mut query = Query::query(Name::from_ascii(name).expect("a name"), A);
    query.set_query_class(class);
    question.add_query(query);
    question.to_vec().expect("a message")
}

fn over_udp(ns: &Ns, server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    ns.run(|| {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().expect("any") };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.connect(server)?;
        socket.send(bytes)?;
        let mut buffer = vec![0; 65_535];
        let length = socket.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    })
}

fn over_tcp(ns: &Ns, server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&server, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(&u16::try_from(bytes.len()).expect("short").to_be_bytes())?;
        stream.write_all(bytes)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut buffer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut buffer)?;
        Ok(buffer)
    })
}

fn ips(answer: &Message) -> Vec<IpAddr> {
    let ip = |record: &Record| match &record.data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    };
    answer.answers.iter().filter_map(ip).collect()
}

/// The service `web` with so many Ready instances, also called `web.local` and `shop.example`, and `peers`, which has no
/// virtual address.
fn desired(ready: u16) -> NodeDesired {
    let service = Service {
        key: ServiceKey::new(Scope::default(), "web".parse().expect("a name")),
        id: 1,
        addresses: Addresses { v4: Some([10, 96, 0, 2].into()), v6: "fd68:6d00:0:2::2".parse().ok() },
        dns_names: vec!["web.local".into(), "shop.example".into()],
        networks: Default::default(),
        ports: vec![ServicePort { port: 80, target: 80, protocol: Protocol::Tcp, published: None }],
        app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
        balance: hivemind::spec::v1::BalanceSpec::default(),
        shares: hivemind::model::Shares::default(),
        created_at: Timestamp::from_millis(0),
    };
    let backend = |n: u16| Backend {
        id: InstanceId::from_bits(n.into()),
        node: "a".parse().expect("a name"),
        ports: None,
        weight: 100,
        addresses: Addresses {
            v4: Some([10, 88, 1 + (n >> 8) as u8, n as u8].into()),
            v6: format!("fd68:6d00:0:1::1:{n:x}").parse().ok(),
        },
    };
    let backends: Vec<_> = (0..ready).map(backend).collect();
    let mut peers = Service { id: 2, addresses: Addresses::default(), dns_names: vec![], ..service.clone() };
    peers.key.name = "peers".parse().expect("a name");
    let mut desired = NodeDesired { revision: 1, ..NodeDesired::default() };
    for service in [service, peers] {
        let served = ServedService { backends: backends.clone(), service, leaving: false };
        desired.services.insert(served.service.key.clone(), Arc::new(served));
    }
    desired
}

fn table(ready: u16) -> Arc<DnsTable> {
    let mut table = DnsTable::of(node().ranges());
    table.follow(&desired(ready));
    Arc::new(table)
}

/// Runs the server of a node with one instance.
fn served(
    name: &str,
    upstreams: &[SocketAddr],
    test: impl FnOnce(&Lab, &Instance, &watch::Sender<Arc<DnsTable>>) + Send,
) {
    let (lab, instances) = Lab::with_instances(name, 1);
    lab.host.block_on(|| async {
        let (names, told) = watch::channel(table(1));
        let config = DnsConfig {
            clients: node().instance_ranges().collect(),
            upstreams: upstreams.to_vec(),
            resolv_conf: "/nonexistent".into(),
            ..DnsConfig::new(GATEWAY.map(|ip| (ip, 53).into()).to_vec())
        };
        let server = DnsServer::start(&config, told).await.expect("the server");
        tokio::task::block_in_place(|| test(&lab, &instances[0], &names));
        drop(server);
    });
}

#[test]
fn instances_find_services_in_both_families_over_udp_and_tcp() {
    if !may_run() {
        return;
    }
    served("names", &[], |_, instance, _| {
        let (v4, v6): (IpAddr, IpAddr) = ([10, 96, 0, 2].into(), "fd68:6d00:0:2::2".parse().expect("an address"));
        for server in GATEWAY {
            for tcp in [false, true] {
                let ask = Ask { tcp, ..Ask::new(server) };
                for name in ["web.local.", "WEB.Local.", "web.default.default.hivemind.", "shop.example."] {
                    let answer = ask.from(&instance.ns, name, A);
                    assert_eq!(ips(&answer), [v4], "{name}");
                    assert_eq!(answer.queries[0].name().to_ascii(), name, "the question comes back as it was");
                    assert!(answer.answers[0].ttl <= 5);
                    assert!(answer.metadata.recursion_available);
                    assert_eq!(ips(&ask.from(&instance.ns, name, AAAA)), [v6], "{name}");
                }
                for name in ["nope.default.default.hivemind.", "example.org.default.default.hivemind."] {
                    let none = ask.from(&instance.ns, name, A);
                    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain, "{name}");
                }
            }
        }
    });
}

#[test]
fn only_ready_services_have_addresses_at_once() {
    if !may_run() {
        return;
    }
    served("ready", &[], |_, instance, names| {
        let ask = Ask::new(GATEWAY[0]);
        for ready in [0, 1, 0, 2] {
            names.send_replace(table(ready));
            // The very next question.
            let answer = ask.from(&instance.ns, "web.local.", A);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert_eq!(ips(&answer).len(), usize::from(ready > 0), "{ready} Ready instances");
        }
        names.send_replace(Arc::new(DnsTable::new(&NodeDesired { revision: 2, ..NodeDesired::default() })));
        let gone = ask.from(&instance.ns, "web.default.default.hivemind.", A);
        assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn before_the_first_complete_state_questions_wait() {
    if !may_run() {
        return;
    }
    served("first", &[], |_, instance, names| {
        names.send_replace(Arc::new(DnsTable::default()));
        let (first, second) = (question("web.local.", 1, DNSClass::IN), question("web.local.", 2, DNSClass::CH));
        instance.ns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            socket.connect((GATEWAY[0], 53)).expect("connected");
            let next = || {
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer).expect("an answer");
                Message::from_vec(&buffer[..length]).expect("a message")
            };
            socket.send(&first).expect("sent");
            // What needs no table is answered: the question before it has arrived too, and waits.
            socket.send(&second).expect("sent");
            assert_eq!(next().metadata.id, 2, "the first was answered without a table");
            names.send_replace(table(1));
            let answer = next();
            assert_eq!((answer.metadata.id, ips(&answer).len()), (1, 1));
        });
    });
}

#[test]
fn the_outside_gets_nothing() {
    if !may_run() {
        return;
    }
    served("outside", &[], |lab, _, _| {
        for server in GATEWAY {
            let answer = Ask::new(server).from(&lab.outside, "web.local.", A);
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::Refused, 0));
        }
        // On the node's outer addresses nobody listens at all.
        for outer in HOST {
            let (outer, asks) = (SocketAddr::new(outer, 53), question("web.local.", 1, DNSClass::IN));
            for over in [over_udp, over_tcp] {
                let refused = over(&lab.outside, outer, &asks).map_err(|error| error.kind());
                assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused), "{outer}");
            }
        }
        // The node itself may ask.
        assert_eq!(ips(&Ask::new(GATEWAY[0]).from(&lab.host, "web.local.", A)).len(), 1);
    });
}

#[test]
fn bad_packets_kill_nothing() {
    if !may_run() {
        return;
    }
    served("bad", &[], |_, instance, _| {
        let good = question("web.local.", 1, DNSClass::IN);
        instance.ns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let send = |bytes: &[u8]| socket.send_to(bytes, (GATEWAY[0], 53)).expect("sent");
            for length in 0..good.len() {
                send(&good[..length]);
            }
            for position in 0..good.len() {
                for bits in [0x01, 0x80, 0xff] {
                    let mut bad = good.clone();
                    bad[position] ^= bits;
                    send(&bad);
                }
            }
            // A name that points to itself, an answer, two questions, none.
            send(&[&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat());
            send(&[&good[..2], &[0x80], &good[3..]].concat());
            send(&[&good[..5], &[2], &good[6..], &good[12..]].concat());
            send(&[&good[..5], &[0], &good[6..12]].concat());
            send(&[0xff; 1200]);
        });
        for tail in [&good[..5], &[0xff; 40][..]] {
            // Half a message, then the end.
            instance.ns.run(|| {
                let mut stream = TcpStream::connect((GATEWAY[0], 53)).expect("connects");
                stream.write_all(&[0, 200]).expect("written");
                stream.write_all(tail).expect("written");
            });
        }
        for tcp in [false, true] {
            let ask = Ask { tcp, ..Ask::new(GATEWAY[0]) };
            assert_eq!(ips(&ask.from(&instance.ns, "web.local.", A)).len(), 1);
        }
    });
}

/// A server in a namespace that answers by the name asked for: `big.` with 60 addresses, `alias.` with an alias,
/// `none.` with nothing, `fails.` with SERVFAIL, `hung.` never, others with NXDOMAIN.
fn moody_server(ns: &Ns, ip: IpAddr) {
    let (udp, tcp) =
        ns.run(|| (UdpSocket::bind((ip, 53)).expect("a port"), TcpListener::bind((ip, 53)).expect("a port")));
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            if let Some(answer) = moody_answer(&buffer[..length], true) {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                if stream.read_exact(&mut question).is_err() {
                    break;
                }
                if let Some(answer) = moody_answer(&question, false) {
                    let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &answer].concat());
                }
            }
        }
    });
}

fn moody_answer(question: &[u8], udp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.add_query(query);
    let mut add = |name: &Name, data| {
        answer.add_answer(Record::from_rdata(name.clone(), 60, data));
    };
    match name.to_ascii().to_ascii_lowercase().as_str() {
        "big." if udp => answer.metadata.truncation = true,
        "big." => (0..60).for_each(|n| add(&name, RData::A(rdata::A([203, 0, 113, n].into())))),
        "alias." => {
            let target = Name::from_ascii("target.").expect("a name");
            add(&name, RData::CNAME(rdata::CNAME(target.clone())));
            add(&target, RData::A(rdata::A([203, 0, 113, 7].into())));
        }
        "none." => {}
        "fails." => answer.metadata.response_code = ResponseCode::ServFail,
        "hung." => return None,
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let name = |text| Name::from_ascii(text).expect("a name");
            let soa = rdata::SOA::new(name("ns."), name("keeper."), 1, 3600, 600, 86_400, 77);
            answer.add_authority(Record::from_rdata(Name::root(), 600, RData::SOA(soa)));
        }
    }
    answer.to_vec().ok()
}

#[test]
fn other_names_come_from_upstream() {
    if !may_run() {
        return;
    }
    served("upstream", &[(OUTSIDE[0], 53).into()], |lab, instance, _| {
        moody_server(&lab.outside, OUTSIDE[0]);
        let ask = Ask::new(GATEWAY[0]);
        let code = |name| ask.from(&instance.ns, name, A).metadata.response_code;
        assert_eq!(code("elsewhere."), ResponseCode::NXDomain);
        // For how long it holds is said on.
        let nowhere = ask.from(&instance.ns, "nowhere.", A);
        let RData::SOA(top) = &nowhere.authorities[0].data else { panic!("{:?}", nowhere.authorities) };
        assert_eq!(top.minimum, 77);
        assert!(nowhere.authorities[0].ttl <= 600 && !nowhere.metadata.authoritative);
        assert_eq!(code("none."), ResponseCode::NoError);
        assert_eq!(code("fails."), ResponseCode::ServFail);
        let alias = ask.from(&instance.ns, "alias.", A);
        assert_eq!(ips(&alias), ["203.0.113.7".parse::<IpAddr>().expect("an address")]);
        assert_eq!(alias.answers[0].record_type(), RecordType::CNAME);
        // Ours comes first.
        assert_eq!(ips(&ask.from(&instance.ns, "shop.example.", A)), [IpAddr::from([10, 96, 0, 2])]);
        // What does not fit says so, and fits over TCP.
        let cut = ask.from(&instance.ns, "big.", A);
        assert!(cut.metadata.truncation && cut.answers.len() < 60, "{} answers", cut.answers.len());
        let whole = Ask { tcp: true, ..Ask::new(GATEWAY[0]) }.from(&instance.ns, "big.", A);
        assert_eq!(whole.answers.len(), 60);
    });
}

#[test]
fn a_hung_upstream_holds_up_nobody_and_ends() {
    if !may_run() {
        return;
    }
    served("hung", &[(OUTSIDE[0], 53).into()], |lab, instance, _| {
        moody_server(&lab.outside, OUTSIDE[0]);
        let ask = Ask::new(GATEWAY[0]);
        thread::scope(|scope| {
            let hung: Vec<_> =
                (0..20).map(|_| scope.spawn(|| ask.from(&instance.ns, "hung.", A).metadata.response_code)).collect();
            #[expect(clippy::disallowed_methods, reason = "the time that real packets take")]
            let begun = Instant::now();
            assert_eq!(ips(&ask.from(&instance.ns, "web.local.", A)).len(), 1);
            assert_eq!(ask.from(&instance.ns, "none.", A).metadata.response_code, ResponseCode::NoError);
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            for answer in hung {
                assert_eq!(answer.join().expect("an answer within the deadline"), ResponseCode::ServFail);
            }
        });
    });
}

#[test]
fn without_upstream_other_names_are_refused_at_once() {
    if !may_run() {
        return;
    }
    served("alone", &[], |_, instance, _| {
        let answer = Ask::new(GATEWAY[0]).from(&instance.ns, "example.org.", A);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    });
}

#[test]
fn a_taken_port_is_named() {
    if !may_run() {
        return;
    }
    served("taken", &[], |lab, _, _| {
        let error = lab.host.block_on(|| async {
            let (_names, told) = watch::channel(table(1));
            DnsServer::start(&DnsConfig::new(vec![(GATEWAY[0], 53).into()]), told).await.expect_err("taken").to_string()
        });
        assert!(error.contains("10.88.0.1:53"), "{error}");
    });
}
