//! The network of a node with the real kernel: what reaches what, what never leaves, and what is mended.

#![expect(clippy::needless_range_loop, reason = "the two families are indices into several tables")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use hivemind::{
    model::{InstanceId, Protocol},
    net::{Gone, InstanceLink, LinkState, Mended, Net, NetError, NodeNet, PACING_QUEUE, PublishedPort},
};
use hivemind_tests::netlab::{DEADLINE, GATEWAY, HOST, Lab, Ns, OUTSIDE, link, may_run, node, sh, until};

/// Everything of the host's that the network makes, as text to compare.
fn state(host: &Ns) -> String {
    host.sh("ip -o addr show | grep -v 'scope link' | sed 's/^[0-9]*: //' | sort
         ip -o link show | grep -o 'hm-.*mtu [0-9]*' | sed 's/,LOWER_UP//; s/NO-CARRIER,//; s/,M-DOWN//' | sort
         ip route show table all | grep -v ' uplink ' | sort
         ip -6 route show table all | grep -v -e ' uplink ' -e '^fe80' -e ff00 | sort
         nft list ruleset")
}

/// Counts what arrives at a device, by destination; drops it.
fn count_arrivals(ns: &Ns, device: &str, rules: &[&str]) {
    let rules: String = rules.iter().map(|rule| format!("{rule} counter drop; ")).collect();
    let chain = format!("type filter hook ingress device \"{device}\" priority 0; {rules}");
    ns.sh(&format!("nft 'table netdev seen {{ chain seen {{ {chain} }}; }}'"));
}

/// Packets counted by the n-th rule of [`count_arrivals`].
fn arrivals(ns: &Ns, rule: usize) -> u64 {
    let text = ns.sh("nft list table netdev seen");
    let mut counts =
        text.lines().filter_map(|line| line.split_once("counter packets ")?.1.split(' ').next()?.parse().ok());
    counts.nth(rule).expect("the rule's counter")
}

#[test]
fn host_and_instances_reach_each_other_in_both_families() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("reach", 2);
    instances[0].ns.tells_peer(80);
    lab.host.tells_peer(53);
    for family in 0..2 {
        let server = instances[0].addresses[family];
        assert_eq!(lab.host.ask(server, 80).expect("host to instance"), GATEWAY[family], "the host's source");
        let client = instances[1].addresses[family];
        assert_eq!(instances[1].ns.ask(server, 80).expect("instance to instance"), client);
        assert_eq!(instances[1].ns.ask(GATEWAY[family], 53).expect("instance to host"), client);
    }
}

#[test]
fn instances_reach_the_outside_with_the_nodes_address() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("masquerade", 1);
    lab.outside.tells_peer(80);
    for family in 0..2 {
        assert_eq!(instances[0].ns.ask(OUTSIDE[family], 80).expect("outside"), HOST[family]);
    }
    // Without it, the outside (which knows the way back) sees the instance.
    let config = hivemind::net::linux::NetConfig { masquerade: false, ..lab.config() };
    lab.with_config(config, async |net| net.ensure_node(&node()).await.expect("the node"));
    for family in 0..2 {
        assert_eq!(instances[0].ns.ask(OUTSIDE[family], 80).expect("outside"), instances[0].addresses[family]);
    }
}

#[test]
fn what_is_meant_for_our_ranges_never_leaves() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("unreachable", 1);
    let ours = ["ip daddr { 10.88.0.0/16, 10.96.0.0/16 }", "ip6 daddr fd68:6d00::/32", "ip daddr 203.0.113.0/24"];
    count_arrivals(&lab.outside, "eth0", &ours);
    let targets = ["10.88.7.7", "10.96.0.9", "fd68:6d00:0:1::77", "fd68:6d00:0:2::9"];
    for from in [&lab.host, &instances[0].ns] {
        for target in targets {
            let error = from.ask(target.parse().expect("an address"), 80).expect_err("nobody is there");
            let kinds = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
            assert!(kinds.contains(&error.kind()), "{target}: {error}");
        }
    }
    // The same way, a packet for somebody else does arrive: the counters work.
    instances[0].ns.send_udp("203.0.113.9".parse().expect("an address"), 9).expect("sent");
    until("a packet outside", || (arrivals(&lab.outside, 2) > 0).then_some(()));
    assert_eq!((arrivals(&lab.outside, 0), arrivals(&lab.outside, 1)), (0, 0));
}

#[test]
fn the_mtu_is_the_smallest_of_the_uplinks_unless_it_is_given() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("mtu");
    lab.host
        .sh("ip link set uplink mtu 1430; ip link add other mtu 9000 type veth peer name other2; ip link set other up
                 ip addr add 198.51.100.1/24 dev other");
    let mtu = |there: hivemind::net::HostLink| {
        let inside = Ns::open(&there.netns).sh("ip -o link show eth0");
        (
            inside.contains("mtu 1430"),
            inside.contains("mtu 1300"),
            lab.host.sh(&format!("ip -o link show {}", there.name)),
        )
    };
    let there = lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        net.ensure_link(&link(0)).await.expect("a link")
    });
    let (derived, _, outer) = mtu(there);
    assert!(derived && outer.contains("mtu 1430"), "{outer}");
    let config = hivemind::net::linux::NetConfig { mtu: Some(1300), ..lab.config() };
    let there = lab.with_config(config, async |net| net.ensure_link(&link(1)).await.expect("a link"));
    let (_, given, outer) = mtu(there);
    assert!(given && outer.contains("mtu 1300"), "{outer}");
}

#[test]
fn a_second_time_changes_nothing_and_drift_is_repaired() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("drift");
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        let good = state(&lab.host);
        for part in ["hm-node", "unreachable 10.96.0.0/16", "unreachable fd68:6d00:0:1::/64", "masquerade"] {
            assert!(good.contains(part), "{part} is missing in {good}");
        }
        net.ensure_node(&node()).await.expect("the node again");
        assert_eq!(state(&lab.host), good);
        for damage in [
            "ip addr del 10.88.0.1/32 dev hm-node",
            "ip addr del fd68:6d00:0:1::1/128 dev hm-node",
            "ip addr add 10.88.0.9/32 dev hm-node",
            "ip link set hm-node down",
            "ip link set hm-pub down",
            "ip link set hm-pub mtu 1500",
            "ip link set hm-pub arp on",
            "ip link del hm-pub",
            "ip link del hm-node; ip link add hm-node type bridge",
            "ip route del unreachable 10.96.0.0/16; ip -6 route del unreachable fd68:6d00:0:2::/112",
            "ip route add unreachable 10.99.0.0/16 metric 2147483647 proto 104",
            "nft delete table inet hivemind",
            "nft flush chain inet hivemind postrouting",
            "nft add rule inet hivemind forward accept",
            "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
        ] {
            lab.host.sh(damage);
            let mended = net.ensure_node(&node()).await.unwrap_or_else(|error| panic!("{damage}: {error}"));
            assert_eq!(state(&lab.host), good, "after {damage}");
            assert_eq!(mended.firewall, u64::from(damage.contains("nft")), "counted after {damage}");
            assert_eq!(net.ensure_node(&node()).await.expect("the node"), Mended::default(), "once, after {damage}");
            let forwarding = lab.host.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding");
            assert_eq!(forwarding, "1\n1\n", "after {damage}");
        }
    });
}

#[test]
fn router_advertisements_keep_working_on_uplinks() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("accept-ra");
    lab.host.sh("sysctl -qw net.ipv6.conf.uplink.accept_ra=1");
    lab.with_net(async |net| net.ensure_node(&node()).await.expect("the node"));
    assert_eq!(lab.host.sh("sysctl -n net.ipv6.conf.uplink.accept_ra"), "2\n");
}

#[test]
fn one_family_alone() {
    if !may_run() {
        return;
    }
    for (name, keep) in [("only-v4", 0), ("only-v6", 1)] {
        let lab = Lab::new(name);
        let full = node();
        let mut only = NodeNet { instances_v4: None, services_v4: None, ..full.clone() };
        if keep == 0 {
            only = NodeNet { instances_v6: None, services_v6: None, ..full };
        }
        let mut links = [link(0), link(1)];
        for addresses in
            links.iter_mut().flat_map(|link| [&mut link.addresses, &mut link.gateway]).chain([&mut only.gateway])
        {
            if keep == 0 {
                addresses.v6 = None;
            } else {
                addresses.v4 = None;
            }
        }
        let spaces: Vec<Ns> = lab.with_net(async |net| {
            net.ensure_node(&only).await.expect("the node");
            net.sync_published(&[]).await.expect("no ports");
            let mut spaces = Vec::new();
            for link in &links {
                spaces.push(Ns::open(&net.ensure_link(link).await.expect("a link").netns));
                net.bring_up(link).await.expect("up");
            }
            spaces
        });
        spaces[0].tells_peer(80);
        lab.outside.tells_peer(80);
        let ip = links[0].addresses.iter().next().expect("one address");
        spaces[1].ask(ip, 80).expect("instance to instance");
        assert_eq!(spaces[1].ask(OUTSIDE[keep], 80).expect("outside"), HOST[keep]);
    }
}

#[test]
fn a_running_instance_is_adopted_and_what_is_half_is_made_whole() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("adopt", 1);
    instances[0].ns.tells_peer(80);
    let name = format!("hm{}", link(0).id);
    lab.with_net(async |net| {
        let before = net.ensure_link(&link(0)).await.expect("the link");
        assert_eq!(net.list_links().await.expect("a list"), [(link(0).id, Some(before.clone()))]);
        net.bring_up(&link(0)).await.expect("up");
        assert_eq!(net.ensure_link(&link(0)).await.expect("the link again"), before, "the device was made anew");
    });
    let works = || (0..2).all(|family| lab.host.ask(instances[0].addresses[family], 80).is_ok());
    assert!(works());
    let path = lab.netns_dir.join(format!("hm-{}", link(0).id));
    // The device is gone; the namespace lives.
    lab.host.sh(&format!("ip link del {name}"));
    lab.with_net(async |net| {
        assert_eq!(net.list_links().await.expect("a list"), [(link(0).id, None)]);
        net.ensure_link(&link(0)).await.expect("the link");
        net.bring_up(&link(0)).await.expect("up");
    });
    assert!(works());
    // A device of that name whose other end is elsewhere.
    lab.host.sh(&format!("ip link del {name}; ip link add {name} type veth peer name elsewhere"));
    lab.with_net(async |net| {
        net.ensure_link(&link(0)).await.expect("the link");
        net.bring_up(&link(0)).await.expect("up");
    });
    assert!(works());
    // The namespace is gone, its file stays, the device is an orphan (the old namespace is held by this test).
    sh(&format!("umount -l {}", path.display()));
    lab.with_net(async |net| {
        let listed = net.list_links().await.expect("a list");
        assert!(matches!(&listed[..], [(id, Some(_))] if *id == link(0).id), "{listed:?}");
        let there = net.ensure_link(&link(0)).await.expect("the link");
        net.bring_up(&link(0)).await.expect("up");
        Ns::open(&there.netns).tells_peer(80);
    });
    assert!(works());
    // Only the file.
    std::fs::write(lab.netns_dir.join("hm-abcdefghij"), "").expect("a file");
    lab.with_net(async |net| {
        let other: InstanceId = "abcdefghij".parse().expect("an id");
        assert!(net.list_links().await.expect("a list").contains(&(other.clone(), None)));
        for _ in 0..2 {
            net.remove_link(&other).await.expect("removed");
            net.remove_link(&link(0).id).await.expect("removed");
        }
        assert_eq!(net.list_links().await.expect("a list"), []);
    });
    assert!(!path.exists());
    assert!(!lab.host.sh("ip -o link; ip route; ip neigh").contains(&name));
}

#[test]
fn an_instance_finds_what_containers_expect() {
    if !may_run() {
        return;
    }
    let (_lab, instances) = Lab::with_instances("inside", 1);
    let ns = &instances[0].ns;
    let values =
        ns.sh("sysctl -n net.ipv4.ip_unprivileged_port_start net.ipv4.ping_group_range net.ipv6.conf.eth0.accept_ra");
    assert_eq!(values, "0\n0\t2147483647\n0\n");
    // Those that it was given are usable at once. The one that the kernel makes by itself, which nothing of it needs, is
    // not looked for either, but that is left to a worker of the kernel's.
    let addresses = ns.sh("ip -o addr show scope global");
    assert!(addresses.lines().count() == 2 && !addresses.contains("tentative"), "{addresses}");
    until("the link-local address to be usable", || {
        (!ns.sh("ip -o addr show dev eth0").contains("tentative")).then_some(())
    });
    assert!(ns.sh("ip -o link show lo").contains("UP"));
    let neighbours = ns.sh("ip neigh show nud permanent");
    assert_eq!(neighbours.lines().count(), 2, "{neighbours}");
    for gateway in GATEWAY {
        assert!(neighbours.contains(&gateway.to_string()), "{neighbours}");
    }
}

#[test]
fn a_new_link_is_down_until_it_is_brought_up() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("down");
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        let there = net.ensure_link(&link(0)).await.expect("a link");
        let down = |text: String| assert!(text.contains("state DOWN") && !text.contains(",UP"), "{text}");
        down(lab.host.sh(&format!("ip -o link show {}", there.name)));
        down(Ns::open(&there.netns).sh("ip -o link show eth0"));
        assert!(!lab.host.sh("ip route").contains(&there.name));
        let shown = lab.host.sh(&format!("ip -o link show {}", there.name));
        assert!(shown.contains(&there.host_mac.to_string()), "{shown}");
        let shown = Ns::open(&there.netns).sh("ip -o link show eth0");
        assert!(shown.contains(&there.instance_mac.to_string()), "{shown}");
    });
}

#[test]
fn the_first_packet_after_a_link_is_up_is_not_lost() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("first");
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        let server = lab.host.run(|| UdpSocket::bind("[::]:9").expect("a port"));
        server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        for n in 0..20 {
            let there = net.ensure_link(&link(n)).await.expect("a link");
            net.bring_up(&link(n)).await.expect("up");
            let ns = Ns::open(&there.netns);
            for gateway in GATEWAY {
                ns.send_udp(gateway, 9).expect("sent");
                server.recv_from(&mut [0; 8]).unwrap_or_else(|error| panic!("link {n}, {gateway}: {error}"));
            }
        }
    });
}

#[test]
fn every_overlap_is_named_and_our_own_is_none() {
    if !may_run() {
        return;
    }
    let (lab, _instances) = Lab::with_instances("overlap", 1);
    lab.with_net(async |net| {
        net.check_ranges(&node()).await.expect("our own devices and routes do not count");
        lab.host.sh("ip addr add 10.88.3.4/24 dev uplink; ip route add 10.96.0.0/12 via 192.0.2.2
                     ip -6 route add fd68:6d00::/32 via 2001:db8::2");
        let error = net.check_ranges(&node()).await.expect_err("overlaps");
        let NetError::Overlaps(all) = &error else { panic!("{error}") };
        let named: std::collections::BTreeSet<_> = all.iter().map(|o| (o.option, o.other.to_string())).collect();
        let wanted = [
            ("--instance-cidr4", "10.88.3.0/24"),
            ("--instance-cidr6", "fd68:6d00::/32"),
            ("--service-cidr4", "10.96.0.0/12"),
            ("--service-cidr6", "fd68:6d00::/32"),
        ];
        assert_eq!(named, wanted.map(|(option, net)| (option, net.to_owned())).into(), "{error}");
        assert!(error.to_string().contains("uplink"), "{error}");
    });
}

#[test]
fn addresses_and_uplinks_of_the_node_are_found_and_changes_are_told() {
    if !may_run() {
        return;
    }
    let (lab, _instances) = Lab::with_instances("facts", 1);
    lab.with_net(async |net| {
        let own = net.node_addresses().await.expect("addresses");
        assert_eq!(own, ["192.0.2.1/24", "2001:db8::1/64"].map(|net| net.parse::<ipnet::IpNet>().expect("a network")));
        let uplinks = net.uplinks().await.expect("uplinks");
        assert_eq!(uplinks.iter().map(|u| (u.name.as_str(), u.mtu)).collect::<Vec<_>>(), [("uplink", 1500)]);

        // Somebody on the link, somebody behind the default route, and addresses of instances and services.
        let to = [OUTSIDE[0], OUTSIDE[1], [203, 0, 113, 7].into(), [10, 96, 0, 9].into(), [10, 88, 0, 2].into()];
        let ways = net.ways(&to).await.expect("ways");
        let leads_out: Vec<_> = to.iter().map(|to| ways[to].as_ref().is_some_and(|way| *way == uplinks[0])).collect();
        assert_eq!(leads_out, [true, true, true, false, false], "{ways:?}");

        // Neither instances that come and go nor a node that is as it should be are changes.
        net.ensure_link(&link(1)).await.expect("a link");
        net.bring_up(&link(1)).await.expect("up");
        net.remove_link(&link(1).id).await.expect("removed");
        net.ensure_node(&node()).await.expect("the node");
        let quiet = tokio::time::timeout(Duration::from_millis(300), net.changed()).await;
        assert!(quiet.is_err(), "woken by its own doing");

        for change in [
            "ip addr add 192.0.2.78/24 dev uplink",
            "ip addr del 192.0.2.78/24 dev uplink",
            "ip addr add 192.0.2.77/24 dev uplink",
            "ip link set uplink mtu 1400",
            "ip route add 203.0.113.0/24 via 192.0.2.2",
            "ip link del hm-pub",
        ] {
            // What the one before has told late is not this one's.
            while tokio::time::timeout(Duration::from_millis(300), net.changed()).await.is_ok() {}
            lab.host.sh(change);
            let told = tokio::time::timeout(DEADLINE, net.changed()).await;
            told.unwrap_or_else(|_| panic!("not told of {change}")).expect("told");
        }
        let found = net.node_addresses().await.expect("addresses");
        assert!(found.iter().any(|own| own.addr() == IpAddr::from([192, 0, 2, 77])), "{found:?}");
    });
}

#[test]
fn the_queue_of_each_device_is_found_also_if_it_is_one_for_each_of_the_hardware() {
    if !may_run() {
        return;
    }
    let (lab, _instances) = Lab::with_instances("queues", 0);
    lab.with_net(async |net| {
        let queue = async |device: &str| net.queues().await.expect("queues").get(device).cloned().unwrap_or_default();
        // A device in software has none by itself.
        assert_eq!(queue("uplink").await, "noqueue");
        lab.host.sh(
            "ip link add multi numtxqueues 2 type veth peer name other; tc qdisc replace dev multi root handle 7: mq",
        );
        assert_eq!(queue("multi").await, "mq");
        // Not every kernel has fq: then it is another one that is found.
        let kind = lab.host.sh("tc qdisc replace dev uplink root fq 2>&- && echo fq || echo pfifo");
        let kind = kind.trim();
        println!("with the queue {kind}");
        lab.host.sh(&format!("tc qdisc replace dev uplink root {kind}; tc qdisc replace dev multi parent 7:1 {kind}"));
        assert_eq!((queue("uplink").await, queue("multi").await), (kind.into(), "mq".into()));
        lab.host.sh(&format!("tc qdisc replace dev multi parent 7:2 {kind}"));
        assert_eq!(queue("multi").await, if kind == PACING_QUEUE { PACING_QUEUE } else { "mq" });
    });
}

/// Whatever goes out at the publish device, comes in at the other end of the pair.
fn watch_publish_device(lab: &Lab) {
    let rules = [
        "ip version 4 tcp dport 8080",
        "ip6 version 6 tcp dport 8080",
        "ip version 4 udp dport 8053",
        "ip6 version 6 udp dport 8053",
    ];
    count_arrivals(&lab.host, "hm-node", &rules);
}

#[test]
fn the_first_packet_for_a_published_port_goes_to_the_publish_device() {
    if !may_run() {
        return;
    }
    let (lab, _instances) = Lab::with_instances("publish", 1);
    let ports =
        [PublishedPort { port: 8080, protocol: Protocol::Tcp }, PublishedPort { port: 8053, protocol: Protocol::Udp }];
    lab.with_net(async |net| {
        for _ in 0..2 {
            assert_eq!(net.sync_published(&ports).await.expect("rules"), Mended::default());
        }
        let rules = || lab.host.sh("nft list table ip hivemind_pub; nft list table ip6 hivemind_pub");
        let good = rules();
        for damage in [
            "nft delete table ip6 hivemind_pub",
            "nft flush chain ip hivemind_pub input",
            // In its other language, where a set may be called "tcp".
            r#"echo '{"nftables": [{"delete": {"element": {"family": "ip", "table": "hivemind_pub", "name": "tcp",
                "elem": [8080]}}}]}' | nft -j -f -"#,
        ] {
            lab.host.sh(damage);
            for firewall in [1, 0] {
                let mended = net.sync_published(&ports).await.expect("rules");
                assert_eq!(mended, Mended { firewall, ..Mended::default() }, "{damage}");
                assert_eq!(rules(), good, "{damage}");
            }
        }
        assert_eq!(net.sync_published(&ports[..1]).await.expect("rules"), Mended::default(), "our own change is none");
        assert_eq!(net.sync_published(&ports).await.expect("rules"), Mended::default());
    });
    watch_publish_device(&lab);
    for (family, ip) in HOST.into_iter().enumerate() {
        lab.outside.run(|| {
            let error = std::net::TcpStream::connect_timeout(&(ip, 8080).into(), Duration::from_millis(200));
            assert_eq!(error.expect_err("nobody answers").kind(), ErrorKind::TimedOut, "the host itself answered");
        });
        assert!(arrivals(&lab.host, family) > 0, "{ip}: nothing at the publish device");
        lab.outside.send_udp(ip, 8053).expect("sent");
        until("a datagram at the publish device", || (arrivals(&lab.host, 2 + family) > 0).then_some(()));
        // Other ports, and the node's own processes, are none of our business.
        for (from, port) in [(&lab.outside, 8081), (&lab.host, 8080)] {
            let error = from.ask(ip, port).expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}:{port}");
        }
    }
    lab.with_net(async |net| net.sync_published(&[]).await.expect("no ports"));
    for ip in HOST {
        let error = lab.outside.ask(ip, 8080).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}");
    }
}

#[test]
fn the_hosts_firewall_decides_before_a_published_port_is_reached() {
    if !may_run() {
        return;
    }
    let (lab, _instances) = Lab::with_instances("firewall", 1);
    let ports =
        [PublishedPort { port: 8080, protocol: Protocol::Tcp }, PublishedPort { port: 8053, protocol: Protocol::Udp }];
    lab.with_net(async |net| net.sync_published(&ports).await.expect("rules"));
    watch_publish_device(&lab);
    let send = || {
        for ip in HOST {
            lab.outside.run(|| {
                let _ = std::net::TcpStream::connect_timeout(&(ip, 8080).into(), Duration::from_millis(100));
            });
            lab.outside.send_udp(ip, 8053).expect("sent");
        }
    };
    lab.host.sh("nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }
                 add rule inet fw in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                 add rule inet fw in udp dport 9 counter accept'");
    send();
    // Behind those on the same path: when it has arrived, they would have.
    lab.outside.send_udp(HOST[0], 9).expect("sent");
    until("the last packet at the firewall", || {
        lab.host.sh("nft list table inet fw").contains("packets 1 ").then_some(())
    });
    assert_eq!([0, 1, 2, 3].map(|rule| arrivals(&lab.host, rule)), [0; 4]);

    lab.host.sh("nft 'add rule inet fw in tcp dport 8080 accept; add rule inet fw in udp dport 8053 accept'");
    send();
    for rule in 0..4 {
        until("what the firewall accepts", || (arrivals(&lab.host, rule) > 0).then_some(()));
    }
}

#[test]
fn nothing_is_left_behind() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("nothing");
    lab.host.sh("nft 'add table inet other'");
    let before = state(&lab.host);
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("mounts").matches("-nothing ").count();
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        net.sync_published(&[PublishedPort { port: 80, protocol: Protocol::Tcp }]).await.expect("rules");
        net.ensure_link(&link(0)).await.expect("a link");
        net.bring_up(&link(0)).await.expect("up");
        assert!(state(&lab.host) != before && mounts() > 0);
        for _ in 0..2 {
            net.remove_link(&link(0).id).await.expect("removed");
            net.remove_node().await.expect("removed");
        }
    });
    assert_eq!(state(&lab.host), before);
    assert_eq!(mounts(), 0);
}

#[test]
fn errors_name_their_object() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("errors");
    lab.with_net(async |net| {
        let error = net.bring_up(&link(0)).await.expect_err("there is none").to_string();
        assert!(error.contains(&format!("hm-{}", link(0).id)), "{error}");
    });
    let config = hivemind::net::linux::NetConfig { nft: "/nonexistent/nft".into(), ..lab.config() };
    lab.with_config(config, async |net| {
        let error = net.sync_published(&[]).await.expect_err("no nft").to_string();
        assert!(error.contains("/nonexistent/nft") && error.contains("install"), "{error}");
    });
}

/// Not a benchmark: a bound that running a process for each step would break.
#[test]
fn links_are_made_without_processes() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("quick");
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        #[expect(clippy::disallowed_methods, reason = "the time of the real kernel")]
        let begun = Instant::now();
        for n in 0..20 {
            net.ensure_link(&link(n)).await.expect("a link");
            net.bring_up(&link(n)).await.expect("up");
        }
        let each = begun.elapsed() / 20;
        println!("{each:?} for one link");
        assert!(each < Duration::from_millis(60), "{each:?} for one link");
        for n in 0..20 {
            net.remove_link(&link(n).id).await.expect("removed");
        }
    });
}

#[test]
fn sockets_to_who_is_gone_are_closed_and_no_others() {
    if !may_run() {
        return;
    }
    let (lab, instances) = Lab::with_instances("sockets", 2);
    let close = |of: Option<&InstanceId>, within: &[IpAddr], known: &[IpAddr]| {
        let gone =
            Gone { within: within.iter().map(|ip| (*ip).into()).collect(), known: known.iter().copied().collect() };
        lab.with_net(async |net| net.close_sockets(of, Arc::new(gone)).await).expect("an answer")
    };
    let client = link(0).id;
    for family in 0..2 {
        let [stays, goes] = [0, 1].map(|n| instances[n].addresses[family]);
        let listeners = [0, 1].map(|n| instances[n].ns.run(|| TcpListener::bind((instances[n].addresses[family], 80))));
        let listeners = listeners.map(|listener| listener.expect("a port"));
        let tcp = |to: IpAddr| {
            let stream = instances[0].ns.run(|| TcpStream::connect((to, 80))).expect("connected");
            stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            stream
        };
        let udp = |to: IpAddr| {
            let socket = instances[0].ns.run(|| {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect((to, 9)).map(|()| socket)
            });
            let socket = socket.expect("connected");
            socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            socket
        };
        let (mut there, mut left) = (tcp(stays), tcp(goes));
        let accepted = listeners.each_ref().map(|listener| listener.accept().expect("the connection").0);
        let (other, quiet) = (udp(stays), udp(goes));
        assert_eq!(close(Some(&client), &[goes], &[goes]), 0, "somebody has the address");
        assert_eq!(close(None, &[goes], &[]), 0, "the host has no socket to it");
        assert_eq!(close(Some(&client), &[goes], &[]), 2);
        assert_eq!(close(Some(&client), &[goes], &[]), 0, "once is enough");
        let mut byte = [0];
        let aborted = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        aborted(left.read(&mut byte).expect_err("closed"));
        aborted(quiet.recv(&mut byte).expect_err("closed"));
        // The server has not to wait for it either.
        assert!(matches!((&accepted[1]).read(&mut byte), Ok(0) | Err(_)));
        (&accepted[0]).write_all(b"x").expect("open");
        there.read_exact(&mut byte).expect("open");
        other.send(&byte).expect("open");
    }
    let nobody = InstanceId::from_bits(1);
    assert_eq!(close(Some(&nobody), &[instances[0].addresses[0]], &[]), 0, "no such instance");
}

#[test]
fn what_is_deleted_of_an_instances_network_comes_back_and_is_counted() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("mend");
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        assert_eq!(net.ensure_node(&node()).await.expect("the node"), Mended::default(), "nothing lacks");
        let there = net.ensure_link(&link(0)).await.expect("a link");
        let links = [link(0), link(1)];
        assert_eq!(net.mend_links(&links).await.expect("looked at"), Mended::default(), "it is not up yet");
        net.bring_up(&link(0)).await.expect("up");
        let inside = |command: &str| lab.host.sh(&format!("nsenter --net={} {command}", there.netns.display()));
        let whole = || {
            let (v4, v6) = (inside("ip -4 addr show dev eth0"), inside("ip -6 addr show dev eth0 scope global"));
            let kept = |text: String| text.lines().filter(|line| line.contains("inet")).map(str::to_owned).collect();
            let addresses: Vec<Vec<String>> = [v4, v6].map(kept).into();
            (state(&lab.host), addresses, inside("ip route"), inside("ip -6 route show default"), inside("ip neigh"))
        };
        let good = whole();
        assert_eq!(net.mend_links(&links).await.expect("looked at"), Mended::default());
        assert_eq!(whole(), good, "what is whole is left alone");
        let [v4, v6] = [0, 1].map(|n| link(0).addresses.iter().nth(n).expect("both families"));
        let name = &there.name;
        lab.host.sh(&format!("ip route del {v4}/32; ip -6 route del {v6}/128; ip neigh del {v4} dev {name}"));
        let lacked = Mended { routes: 2, neighbours: 1, ..Mended::default() };
        assert_eq!(net.mend_links(&links).await.expect("mended"), lacked);
        assert_eq!(whole(), good);
        // One that is there, but no longer permanent or with another Ethernet address, and the instance's own.
        lab.host.sh(&format!("ip neigh change {v6} dev {name} lladdr 02:00:00:00:00:99 nud permanent"));
        inside("ip neigh change 10.88.0.1 dev eth0 nud stale");
        let lacked = Mended { neighbours: 2, ..Mended::default() };
        assert_eq!(net.mend_links(&links).await.expect("mended"), lacked);
        assert_eq!(whole(), good);
        // The device of the host's end.
        assert_eq!(net.look_at_link(&there).await.expect("looked at"), LinkState::Up);
        lab.host.sh(&format!("ip link set {name} down"));
        assert_eq!(net.look_at_link(&there).await.expect("looked at"), LinkState::Down);
        net.bring_up(&link(0)).await.expect("up");
        assert_eq!((net.look_at_link(&there).await.expect("looked at"), whole()), (LinkState::Up, good.clone()));
        // With an address its routes go.
        inside(&format!("ip addr del {v4}/32 dev eth0"));
        inside("ip -6 route del default");
        let mended = net.mend_links(&links).await.expect("mended");
        assert!(mended.addresses == 1 && mended.routes >= 1, "{mended:?}");
        assert_eq!(whole(), good);
        lab.host.sh("ip addr del 10.88.0.1/32 dev hm-node; ip route del unreachable 10.96.0.0/16");
        let mended = net.ensure_node(&node()).await.expect("mended");
        assert_eq!((mended.addresses, mended.devices), (1, 0));
        assert!(mended.routes >= 1, "{mended:?}");
        lab.host.sh(&format!(
            "ip link del {name}; ip link add {name} type veth peer name elsewhere; ip link set {name} up"
        ));
        assert_eq!(net.look_at_link(&there).await.expect("looked at"), LinkState::Gone, "another one of its name");
        lab.host.sh(&format!("ip link del {name}"));
        assert_eq!(net.look_at_link(&there).await.expect("looked at"), LinkState::Gone);
    });
}

/// Sends until something comes: a machine that is busy loses datagrams.
fn until_comes<T>(send: impl Fn(), receive: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    until("an answer, or an error", || {
        send();
        Some(receive()).filter(|got| !got.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    })
}

/// A conversation of an instance with the outside, one datagram each way: the ends of both.
fn converses(lab: &Lab, instance: &Ns, family: usize) -> [UdpSocket; 2] {
    let bind = |ns: &Ns, port: u16| {
        let socket = ns.run(|| UdpSocket::bind((["0.0.0.0", "::"][family], port))).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a deadline");
        socket
    };
    let (inside, outside) = (bind(instance, 5000 + family as u16), bind(&lab.outside, 0));
    let to = (OUTSIDE[family], outside.local_addr().expect("its address").port());
    let asks = || assert_eq!(inside.send_to(b"asks", to).expect("sent"), 4);
    let (_, seen) = until_comes(asks, || outside.recv_from(&mut [0; 9])).expect("asked");
    assert_eq!(seen.ip(), HOST[family], "masqueraded");
    outside.connect(seen).expect("a peer");
    answers(&inside, &outside);
    [inside, outside]
}

fn answers(inside: &UdpSocket, outside: &UdpSocket) {
    let answers = || assert_eq!(outside.send(b"answers").expect("sent"), 7);
    assert_eq!(until_comes(answers, || inside.recv(&mut [0; 9])).expect("answered"), 7);
}

#[test]
fn who_gets_an_address_gets_nothing_of_what_was_meant_for_who_had_it() {
    if !may_run() {
        return;
    }
    let lab = Lab::new("heirs");
    lab.with_net(async |net| {
        net.ensure_node(&node()).await.expect("the node");
        let get = async |n: u8| {
            let link = InstanceLink { id: link(n).id, ..link(0) };
            let there = net.ensure_link(&link).await.expect("a link");
            let forgotten = net.bring_up(&link).await.expect("up");
            (Ns::open(&there.netns), link, there, forgotten)
        };
        let (mut ns, mut link, mut there, mut forgotten) = get(0).await;
        assert_eq!(forgotten, 0);
        // The last one goes as it should, or its device is gone already: nobody knows then what addresses it had.
        for (heir, loses_device) in [(1, false), (2, true), (3, false)] {
            let old = [0, 1].map(|family| converses(&lab, &ns, family));
            assert_eq!(net.bring_up(&link).await.expect("up"), 0, "what is its own is left to it");
            for [inside, outside] in &old {
                answers(inside, outside);
            }
            if loses_device {
                lab.host.sh(&format!("ip link del {}", there.name));
            }
            let removed = net.remove_link(&link.id).await.expect("removed");
            (ns, link, there, forgotten) = get(heir).await;
            let (first, second) = if loses_device { (forgotten, removed) } else { (removed, forgotten) };
            assert!(first >= 2 && second == 0, "{heir}: {removed} when it went, {forgotten} when the next one came");
            for (family, [_, outside]) in old.iter().enumerate() {
                let at = (["0.0.0.0", "::"][family], 5000 + family as u16);
                let heirs = ns.run(|| UdpSocket::bind(at)).expect("a socket");
                // The host says that nobody is there.
                // What had come before is passed over.
                let receive = || outside.recv(&mut [0; 9]).and(Err::<(), _>(ErrorKind::WouldBlock.into()));
                let refused = until_comes(|| drop(outside.send(b"late")), receive);
                let refused = refused.expect_err("nobody answers");
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{heir}: {refused}");
                heirs.set_nonblocking(true).expect("a socket");
                assert_eq!(heirs.recv(&mut [0; 9]).expect_err("nothing came").kind(), ErrorKind::WouldBlock);
            }
        }
    });
}
