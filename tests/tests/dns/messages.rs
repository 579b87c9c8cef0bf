//! What is in an answer, and what does not fit into one.

use super::*;

#[test]
fn that_there_is_nothing_is_said_with_for_how_long_it_holds() {
    if !may_run() {
        return;
    }
    served("nothing", &[], |_, instance, _| {
        let (none, no_such) = (ResponseCode::NoError, ResponseCode::NXDomain);
        for (name, kind, code, zone) in [
            ("web.local.", RecordType::MX, none, "web.local."),
            ("hivemind.", A, none, "hivemind."),
            ("default.hivemind.", A, none, "hivemind."),
            ("nope.default.default.hivemind.", A, no_such, "hivemind."),
            ("_81._tcp.web.local.", RecordType::SRV, no_such, "web.local."),
            ("9.9.88.10.in-addr.arpa.", RecordType::PTR, no_such, "88.10.in-addr.arpa."),
        ] {
            let answer = Ask::new(GATEWAY[0]).from(&instance.ns, name, kind);
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
            assert!(answer.metadata.authoritative, "{name}");
            let [top] = &answer.authorities[..] else { panic!("{name}: {:?}", answer.authorities) };
            assert_eq!(top.name.to_ascii(), zone, "{name}");
            let RData::SOA(soa) = &top.data else { panic!("{name}: {top:?}") };
            assert_eq!((top.ttl, soa.minimum), (1, 1), "{name}");
        }
        let top = Ask::new(GATEWAY[0]).from(&instance.ns, "hivemind.", RecordType::SOA);
        assert_eq!(top.answers[0].record_type(), RecordType::SOA);
    });
}

#[test]
fn ports_and_addresses_have_names_and_instances_too() {
    if !may_run() {
        return;
    }
    served("kinds", &[], |_, instance, names| {
        names.send_replace(table(2));
        let ask = |name: &str, kind| {
            let answer = Ask::new(GATEWAY[1]).from(&instance.ns, name, kind);
            let mut said: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
            said.sort_unstable();
            said
        };
        let (one, two) = ("web-aaaaa.peers.default.default.hivemind.", "web-baaaa.peers.default.default.hivemind.");
        assert_eq!(ask("_80._tcp.web.local.", RecordType::SRV), ["0 0 80 web.default.default.hivemind."]);
        let both = [one, two].map(|name| format!("0 100 80 {name}"));
        assert_eq!(ask("_80._tcp.peers.default.default.hivemind.", RecordType::SRV), both);
        assert_eq!(ask(one, A), ["10.88.1.0"]);
        assert_eq!(ask(two, AAAA), ["fd68:6d00:0:1::1:1"]);
        assert_eq!(ask("peers.default.default.hivemind.", A), ["10.88.1.0", "10.88.1.1"]);
        assert_eq!(ask("2.0.96.10.in-addr.arpa.", RecordType::PTR), ["web.default.default.hivemind."]);
        // Of its app's own service, not of another that it serves too.
        let of_instance = ["web-baaaa.web.default.default.hivemind."];
        assert_eq!(ask("1.1.88.10.in-addr.arpa.", RecordType::PTR), of_instance);
        let v6 = Name::from_ascii("1.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.d.6.8.6.d.f.ip6.arpa.");
        assert_eq!(ask(&v6.expect("a name").to_ascii(), RecordType::PTR), of_instance);
    });
}

#[test]
fn what_does_not_fit_says_so_and_is_whole_over_tcp() {
    if !may_run() {
        return;
    }
    served("many", &[], |_, instance, names| {
        names.send_replace(table(600));
        let name = "peers.default.default.hivemind.";
        for (edns, most) in [(None, 512), (Some(600), 600), (Some(4096), 1232)] {
            let ask = Ask { edns, ..Ask::new(GATEWAY[0]) };
            for kind in [A, AAAA] {
                let cut = ask.from(&instance.ns, name, kind);
                assert!(cut.metadata.truncation && !cut.answers.is_empty(), "{edns:?}: {} answers", cut.answers.len());
                assert_eq!(cut.edns.is_some(), edns.is_some());
                assert!(cut.to_vec().expect("a message").len() <= most, "{edns:?}");
                let whole = Ask { edns, tcp: true, ..Ask::new(GATEWAY[0]) }.from(&instance.ns, name, kind);
                let mut all = ips(&whole);
                all.sort_unstable();
                all.dedup();
                assert_eq!((whole.metadata.truncation, all.len()), (false, 600), "{edns:?}");
            }
        }
    });
}

#[test]
fn one_connection_takes_many_questions_and_one_client_leaves_others_theirs() {
    if !may_run() {
        return;
    }
    served("pipelined", &[(OUTSIDE[0], 53).into()], |lab, instance, _| {
        moody_server(&lab.outside, OUTSIDE[0]);
        let framed = |name, id| {
            let question = question(name, id, DNSClass::IN);
            [&u16::try_from(question.len()).expect("short").to_be_bytes()[..], &question].concat()
        };
        let next = |stream: &mut TcpStream| {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("an answer");
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).expect("an answer");
            let answer = Message::from_vec(&answer).expect("a message");
            (answer.metadata.id, answer.metadata.response_code)
        };
        instance.ns.run(|| {
            let mut stream = TcpStream::connect((GATEWAY[0], 53)).expect("connects");
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            stream.write_all(&[framed("hung.", 1), framed("web.local.", 2)].concat()).expect("written");
            // Nothing more is asked: what was is answered all the same.
            stream.shutdown(std::net::Shutdown::Write).expect("shut down");
            assert_eq!(next(&mut stream), (2, ResponseCode::NoError));
            assert_eq!(next(&mut stream), (1, ResponseCode::ServFail));
            assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        });
        instance.ns.run(|| {
            let mut open: Vec<_> = (0..16).map(|_| TcpStream::connect((GATEWAY[0], 53)).expect("connects")).collect();
            let mut one_more = TcpStream::connect((GATEWAY[0], 53)).expect("connects");
            one_more.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            assert!(matches!(one_more.read(&mut [0]), Ok(0) | Err(_)), "it is closed");
            open[0].write_all(&framed("web.local.", 3)).expect("written");
            assert_eq!(next(&mut open[0]), (3, ResponseCode::NoError));
        });
        let from_the_node = Ask { tcp: true, ..Ask::new(GATEWAY[0]) }.from(&lab.host, "web.local.", A);
        assert_eq!(ips(&from_the_node).len(), 1);
    });
}

#[test]
fn edns_is_answered_with_edns() {
    if !may_run() {
        return;
    }
    served("edns", &[], |_, instance, _| {
        let with = Ask { edns: Some(4096), ..Ask::new(GATEWAY[0]) }.from(&instance.ns, "web.local.", A);
        assert_eq!(with.edns.expect("EDNS").max_payload(), 1232);
        assert!(Ask::new(GATEWAY[0]).from(&instance.ns, "web.local.", A).edns.is_none());
        let chaos =
            Ask { class: DNSClass::CH, ..Ask::new(GATEWAY[0]) }.from(&instance.ns, "version.bind.", RecordType::TXT);
        assert_eq!(chaos.metadata.response_code, ResponseCode::Refused);
    });
}
