//! Level 3: the data plane with real sockets and packets, in network namespaces.

#![expect(unreachable_pub, dead_code, reason = "the laboratory is written for more cases than there are yet")]

#[path = "dataplane/lab.rs"]
mod lab;
#[path = "dataplane/traffic.rs"]
mod traffic;

use std::net::{IpAddr, SocketAddr};

use hivemind::{dataplane::Dataplane, model::Protocol};

use lab::{FAMILIES, GATEWAY, Lab, isolated, vip};
use traffic::{Echo, tcp_ask, udp_ask};

#[test]
fn sockets_reach_a_service_and_see_its_address() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 3);
        for i in 0..3 {
            lab.ready(i);
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1, 2]);
        }
        lab.sync();
        let _echoes: Vec<_> =
            [1, 2].iter().map(|i| Echo::start(&lab.instances[*i].ns, 8080, &format!("i{i}"))).collect();
        for family in FAMILIES {
            let service = SocketAddr::new(vip(family, 1), 80);
            let client = lab.instances[0].address(family);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..32 {
                let answer = lab.instances[0].ns.run(|| tcp_ask(service)).expect("tcp");
                assert_eq!(answer.peer, service, "getpeername shows the service");
                assert_eq!(answer.client, client, "the backend sees the client");
                seen.insert(answer.name);
            }
            assert_eq!(seen.len(), 2, "both backends are used: {seen:?}");
            for connected in [true, false] {
                let answer = lab.instances[0].ns.run(|| udp_ask(service, connected)).expect("udp");
                assert_eq!(answer.peer, service, "the answer comes from the service");
                assert_eq!(answer.client, client);
            }
            // From the host as well.
            let answer = tcp_ask(service).expect("tcp from the host");
            assert_eq!(answer.peer, service);
            let own = if service.is_ipv4() { IpAddr::from(GATEWAY.0) } else { GATEWAY.1.into() };
            assert_eq!(answer.client, own, "the node's own address");
        }
        lab.dataplane.unload().expect("unload");
    });
}
