//! What the programs at the sockets do beyond a plain connection.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
};

use hivemind::{dataplane::Dataplane, model::Protocol, net::Family};
use hivemind_ebpf::{abi::ASKS, reason::Reason};
use hivemind_tests::each_row;

use crate::{
    in_both_ways,
    lab::{FAMILIES, Lab, past_the_sockets, vip},
    traffic::{self, Echo, tcp_ask},
};

/// Two instances behind the service, which a third asks.
fn served(lab: &mut Lab) -> Vec<Echo> {
    for i in 0..3 {
        lab.ready(i);
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        lab.service(1, 80, 8080, protocol, &[1, 2]);
    }
    lab.sync();
    [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect()
}

#[test]
fn a_udp_socket_stays_with_its_backend() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        let _echoes = served(&mut lab);
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            let ask = |socket: &UdpSocket| {
                socket.send_to(b"who\n", service).expect("to send");
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).expect("an answer");
                String::from_utf8_lossy(&buffer[..length]).split(' ').next().map(str::to_owned)
            };
            let names: Vec<BTreeSet<_>> = lab.instances[0].ns.run(|| {
                let any: SocketAddr = if service.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
                let sockets = (0..16).map(|_| UdpSocket::bind(any).expect("a socket"));
                let all_names = |socket: UdpSocket| {
                    socket.set_read_timeout(Some(traffic::PATIENCE)).expect("a timeout");
                    (0..16).map(|_| ask(&socket)).collect()
                };
                sockets.map(all_names).collect()
            });
            assert!(names.iter().all(|of_one| of_one.len() == 1), "a socket wanders: {names:?}");
            assert_eq!(names.into_iter().flatten().collect::<BTreeSet<_>>().len(), 2, "both backends are used");
        }
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_ipv6_socket_reaches_a_service_by_its_ipv4_address() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        let _echoes = served(&mut lab);
        let IpAddr::V4(v4) = vip(Family::V4, 1) else { unreachable!("of the family that was asked for") };
        let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), 80);
        let answer = lab.instances[0].ns.run(|| tcp_ask(mapped)).expect("tcp from an instance");
        assert_eq!((answer.client, answer.peer), (lab.instances[0].v4.into(), SocketAddr::new(v4.into(), 80)));
        tcp_ask(mapped).expect("tcp from the host");
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn who_is_alone_behind_its_service_reaches_itself_by_a_socket_and_is_told_otherwise() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 1, open);
        lab.ready(0);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[0]);
        }
        lab.sync();
        let instance = &lab.instances[0];
        let _echo = Echo::start(&instance.ns, 8080, "itself");
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            instance.ns.run(|| tcp_ask(service)).expect("through the hooks");
            // Past them it goes packet by packet, out of its device.
            let told = |result: std::io::Error| assert_eq!(result.kind(), ErrorKind::ConnectionRefused, "{result}");
            past_the_sockets(cgroup, || {
                instance.ns.run(|| {
                    told(TcpStream::connect_timeout(&service, traffic::PATIENCE).expect_err("nobody"));
                    let any: SocketAddr = if service.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
                    let socket = UdpSocket::bind(any).expect("a socket");
                    socket.set_read_timeout(Some(traffic::PATIENCE)).expect("a timeout");
                    socket.connect(service).expect("connected");
                    socket.send(b"who\n").expect("sent");
                    told(socket.recv(&mut [0; 16]).expect_err("nobody"));
                });
            });
        }
        let device = lab.instances[0].link.ifindex;
        assert!(lab.packets(device, 0, Reason::Hairpin as u8) > 0, "its reason");
        lab.dataplane.unload().expect("to unload");
    });
}

/// Sockets of somebody else that ask a service and never get an answer.
const OTHERS: u32 = 40_000;

#[test]
fn sockets_of_others_do_not_change_whose_answer_it_is() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        let _echoes = served(&mut lab);
        // Nobody listens there.
        lab.service(2, 80, 8081, Protocol::Udp, &[1]);
        lab.sync();
        let (service, others) = (SocketAddr::new(vip(Family::V4, 1), 80), SocketAddr::new(vip(Family::V4, 2), 80));
        let bound = || UdpSocket::bind(SocketAddr::from(([0; 4], 0))).expect("a socket");
        let asked = lab.instances[0].ns.run(|| {
            let socket = bound();
            socket.set_read_timeout(Some(10 * traffic::PATIENCE)).expect("a timeout");
            socket.send_to(b"who\n", service).expect("to send");
            socket
        });
        lab.instances[2].ns.run(|| {
            for _ in 0..OTHERS {
                bound().send_to(b"", others).expect("to send");
            }
        });
        let (_, from) = asked.recv_from(&mut [0; 256]).expect("an answer");
        assert_eq!(from, service);
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_socket_knows_in_whose_name_each_of_eight_answers() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 2, open);
        lab.ready(0);
        lab.ready(1);
        let ports = 8081..8081 + u16::try_from(ASKS).expect("a number");
        let _echoes = ports.clone().map(|port| Echo::start(&lab.instances[1].ns, port, "i1")).collect::<Vec<_>>();
        for (n, port) in (1..).zip(ports.clone()) {
            lab.service(n, 80, port, Protocol::Udp, &[1]);
        }
        lab.sync();
        for family in FAMILIES {
            let backend = lab.instances[1].address(family);
            let any: SocketAddr = if backend.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = lab.instances[0].ns.run(|| UdpSocket::bind(any).expect("a socket"));
            socket.set_read_timeout(Some(10 * traffic::PATIENCE)).expect("a timeout");
            let asks = |to: SocketAddr| socket.send_to(b"who\n", to).expect("to send");
            let told = || socket.recv_from(&mut [0; 256]).expect("an answer").1;
            let services = (1..).zip(ports.clone()).map(|(n, _)| SocketAddr::new(vip(family, n), 80));
            let services = services.collect::<BTreeSet<_>>();
            // All are asked before one answer is read, twice.
            for _ in 0..2 {
                services.iter().for_each(|to| _ = asks(*to));
                assert_eq!(services.iter().map(|_| told()).collect::<BTreeSet<_>>(), services);
            }
            // Asked as itself it answers as itself, and as the service again when that is asked.
            for to in [SocketAddr::new(backend, ports.start), SocketAddr::new(vip(family, 1), 80)] {
                asks(to);
                assert_eq!(told(), to);
            }
        }
        lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn a_socket_that_is_connected_anew_shows_its_new_peer_and_counts_for_that_one() {
    in_both_ways(|cgroup, open| {
        let mut lab = Lab::with(cgroup, 3, open);
        let _echoes = served(&mut lab);
        each_row(&mut lab.tables.services, |_, row| row.choice.least = true);
        lab.sync();
        let counted = |lab: &Lab| lab.dataplane.loads().expect("the counts").values().sum::<u64>();
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            let any: SocketAddr = if service.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let backends = [1, 2].map(|i| SocketAddr::new(lab.instances[i].address(family), 8080));
            let socket = lab.instances[0].ns.run(|| UdpSocket::bind(any).expect("a socket"));
            let shows = |to: SocketAddr| {
                lab.instances[0].ns.run(|| socket.connect(to).expect("connected"));
                assert_eq!(socket.peer_addr().expect("a peer"), to);
            };
            for _ in 0..2 {
                shows(service);
                assert_eq!(counted(&lab), 1);
                // One of them is the backend that it had.
                for backend in backends {
                    shows(backend);
                    assert_eq!(counted(&lab), 0);
                }
            }
            shows(service);
            assert_eq!(counted(&lab), 1);
            drop(socket);
            assert_eq!(counted(&lab), 0);
        }
        lab.dataplane.unload().expect("to unload");
    });
}
