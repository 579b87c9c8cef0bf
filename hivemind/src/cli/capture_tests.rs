use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{enhanced_packet::EnhancedPacketOption, interface_statistics::InterfaceStatisticsOption},
};

use super::*;

/// A frame of TCP over IPv4 from 10.88.0.2:40000 to 10.96.0.1:80 with these flags, and 10 bytes of data.
fn frame(flags: u8) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 6, 0, 0, 10, 88, 0, 2, 10, 96, 0, 1]);
    frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend([7; 10]);
    frame
}

fn packet(data: Vec<u8>) -> PacketView {
    PacketView {
        kind: CaptureKind::Packet,
        at_ns: 1_800_000_000_123_456_789,
        direction: "out".into(),
        verdict: FlowVerdict::Forwarded,
        reason: None,
        why: None,
        policy: None,
        rule: None,
        answer: false,
        length: u32::try_from(data.len()).expect("short"),
        data,
        lost: 0,
    }
}

fn dropped(data: Vec<u8>) -> PacketView {
    PacketView {
        verdict: FlowVerdict::Dropped,
        reason: Some("policy-out".into()),
        why: Some("no policy allows it out of the instance".into()),
        policy: Some("default/default/web".into()),
        rule: Some(2),
        ..packet(data)
    }
}

#[test]
fn a_packet_is_a_line() {
    let mut fragment = frame(2);
    (fragment[20], fragment[21]) = (0x00, 0x10);
    let mut arp = vec![2; 12];
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 88, 0, 2, 0, 0, 0, 0, 0, 0, 10, 88, 0, 1]);
    for (view, expected) in [
        (packet(frame(0x12)), "out 10.88.0.2:40000 -> 10.96.0.1:80 tcp SYN,ACK  64 B  passes"),
        (
            PacketView { direction: "in".into(), answer: true, ..packet(frame(4)) },
            "in  10.88.0.2:40000 -> 10.96.0.1:80 tcp RST  64 B  made by the data plane, to answer a packet that it dropped",
        ),
        (
            // What is cut off was there: the headers are whole.
            PacketView { length: 64, ..dropped(frame(2)[..54].to_vec()) },
            "out 10.88.0.2:40000 -> 10.96.0.1:80 tcp SYN  64 B  dropped: policy-out (no policy allows it out of the \
             instance), by rule 2 of policy default/default/web",
        ),
        (packet(fragment), "out 10.88.0.2 -> 10.96.0.1 tcp fragment  64 B  passes"),
        (packet(arp), "out 10.88.0.2 -> 10.88.0.1 arp request  42 B  passes"),
        (packet(frame(0)[..20].to_vec()), "out Ethernet protocol 0x0800  20 B  passes"),
        (packet(vec![1; 5]), "out less than a header  5 B  passes"),
    ] {
        assert_eq!(line(&view), format!("08:00:00.123456Z {expected}"));
    }
}

#[test]
fn a_file_holds_packets_times_directions_and_why_they_were_dropped() {
    let mut bytes = Vec::new();
    let mut file = PcapNg::new(&mut bytes, "web-abcde", 60).expect("begun");
    let views =
        [packet(frame(2)), PacketView { length: 64, direction: "in".into(), ..dropped(frame(2)[..60].to_vec()) }];
    for view in &views {
        file.packet(view, comment(view).as_deref()).expect("written");
    }
    file.finish(3).expect("ended");
    drop(file);
    let mut reader = PcapNgReader::new(&bytes[..]).expect("a file");
    let mut found = Vec::new();
    let mut lost = None;
    while let Some(block) = reader.next_block() {
        match block.expect("a block").0 {
            Block::EnhancedPacket(packet) => found.push(packet.into_owned()),
            Block::InterfaceStatistics(statistics) => {
                lost = statistics.options.iter().find_map(|option| match option {
                    InterfaceStatisticsOption::IsbIfDrop(lost) => Some(*lost),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    assert_eq!((found.len(), lost), (2, Some(3)));
    for (block, view) in found.iter().zip(&views) {
        assert_eq!((block.original_len, &block.data[..]), (view.length, &view.data[..]));
        assert_eq!(block.timestamp.as_nanos(), u128::from(view.at_ns));
    }
    assert_eq!(found[0].options, [EnhancedPacketOption::Flags(2)]);
    let text = format!("{:?}", found[1].options);
    assert!(text.contains("Flags(1)") && text.contains("dropped: policy-out"), "{text}");
}

#[test]
fn protocols_are_named_or_numbered() {
    assert_eq!((protocol("TCP"), protocol("icmp"), protocol("47")), (Ok(6), Ok(1), Ok(47)));
    assert!(protocol("0").is_err() && protocol("256").is_err() && protocol("quic").is_err());
}

#[test]
fn a_wrong_address_is_told_by_an_example() {
    assert_eq!(address("fd68::7"), Ok("fd68::7".parse().expect("an address")));
    for wrong in ["web", "10.88.0.0/16", "10.88.0", ""] {
        let why = address(wrong).expect_err(wrong);
        assert!(why.contains("10.88.0.7") && why.contains("fd68:6d00:0:1::7"), "{why}");
    }
}
