use hickory_proto::rr::{RData, rdata};

use super::*;

fn question(edns: Option<(u16, u8)>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii("Web.Local.").expect("a name"), RecordType::A));
    if let Some((payload, version)) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_version(version).set_dnssec_ok(true);
        message.set_edns(edns);
    }
    message.to_vec().expect("a message")
}

fn asked(edns: Option<u16>) -> Box<Question> {
    match read(&question(edns.map(|payload| (payload, 0)))) {
        Read::Question(question) => question,
        other => panic!("{other:?}"),
    }
}

fn addresses(count: u8) -> Vec<Record> {
    let name = Name::from_ascii("Web.Local.").expect("a name");
    (0..count).map(|last| Record::from_rdata(name.clone(), 1, RData::A(rdata::A([10, 0, 0, last].into())))).collect()
}

fn reply(answers: u8, also: u8) -> Reply {
    Reply { ours: true, answers: addresses(answers), also: addresses(also), ..Reply::code(ResponseCode::NoError) }
}

#[test]
fn what_does_not_fit_is_said_and_what_fits_is_there() {
    for (edns, transport, limit, answers) in [
        (None, Transport::Udp, 512, 30),
        (Some(100), Transport::Udp, 512, 29),
        (Some(512), Transport::Udp, 512, 29),
        (Some(800), Transport::Udp, 800, 47),
        (Some(1232), Transport::Udp, 1232, 74),
        (Some(65_535), Transport::Udp, 1232, 74),
        (None, Transport::Tcp, 65_535, 255),
        (Some(512), Transport::Tcp, 65_535, 255),
    ] {
        let bytes = asked(edns).answer(&reply(255, 0), transport);
        assert!(bytes.len() <= limit, "{} bytes for {edns:?} over {transport:?}", bytes.len());
        let message = Message::from_vec(&bytes).expect("a message");
        let said = (message.answers.len(), message.metadata.truncation);
        assert_eq!(said, (answers, answers < 255), "{edns:?} over {transport:?}");
        let theirs = message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok));
        assert_eq!(theirs, edns.map(|_| (1232, true)), "{edns:?} over {transport:?}");
        assert_eq!(message.queries[0].name().to_ascii(), "Web.Local.", "the question comes back as it was");
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
    }
}

#[test]
fn what_was_not_asked_for_is_left_out_first() {
    for (answers, also, there, cut) in [(2, 2, (2, 2), false), (2, 60, (2, 0), false), (60, 2, (30, 0), true)] {
        let message = Message::from_vec(&asked(None).answer(&reply(answers, also), Transport::Udp)).expect("a message");
        assert_eq!((message.answers.len(), message.additionals.len()), there);
        assert_eq!(message.metadata.truncation, cut);
    }
}

#[test]
fn what_is_no_question_is_refused_or_not_answered_at_all() {
    let code = |bytes: &[u8]| match read(bytes) {
        Read::Question(_) => None,
        Read::Refused(answer) => Some(Message::from_vec(&answer).expect("a message").metadata.response_code),
        Read::Nothing => Some(ResponseCode::Unknown(0)),
    };
    let good = question(None);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(code(&good), None);
    for (bytes, expected) in [
        (good[..11].to_vec(), ResponseCode::Unknown(0)),
        (changed(2, 0x80), ResponseCode::Unknown(0)),
        (good[..13].to_vec(), ResponseCode::FormErr),
        (changed(5, 0), ResponseCode::FormErr),
        (changed(5, 2), ResponseCode::FormErr),
        // UPDATE; class CHAOS; version 1 of EDNS.
        (changed(2, 0x28), ResponseCode::NotImp),
        (changed(good.len() - 1, 3), ResponseCode::Refused),
        (question(Some((1232, 1))), ResponseCode::BADVERS),
    ] {
        // 16 is BADVERS, and BADSIG.
        assert_eq!(code(&bytes).map(u16::from), Some(expected.into()), "{bytes:?}");
    }
}
