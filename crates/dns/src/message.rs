//! Messages as they are on the wire: one question in, one answer out. Pure.

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts},
    rr::{DNSClass, Name, Record, RecordType},
    serialize::binary::BinEncoder,
};

/// The bytes of a header.
const HEADER: usize = 12;
/// The largest answer over UDP to who does not say what it takes (RFC 1035).
const PLAIN_UDP: u16 = 512;
/// The largest answer over UDP: what every path carries unfragmented (the agreement of DNS Flag Day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// The bytes of an OPT record without options.
const OPT: u16 = 11;
/// The flag in an OPT record by which its sender says that it knows DNSSEC (RFC 3225).
const DNSSEC_OK: u16 = 0x8000;

/// How an answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    metadata: Metadata,
    query: Query,
    /// What its EDNS says.
    edns: Option<Edns>,
    /// The name, in lower case and without its final dot.
    pub(super) text: String,
}

/// What bytes are.
#[derive(Debug)]
pub(super) enum Read {
    Question(Box<Question>),
    /// No question that we answer: this is said.
    Refused(Vec<u8>),
    /// An answer, or not even a header. An answer to it could go round for ever.
    Nothing,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    /// Whether the name is ours.
    pub(super) ours: bool,
    pub(super) answers: Vec<Record>,
    /// For how long a name may be taken as not there (RFC 2308): the top of its zone.
    pub(super) authority: Vec<Record>,
    /// What helps with the answers. Left out if it does not fit.
    pub(super) also: Vec<Record>,
}

impl Reply {
    /// A code and nothing else.
    pub(super) const fn code(code: ResponseCode) -> Self {
        Self { code, ours: false, answers: Vec::new(), authority: Vec::new(), also: Vec::new() }
    }
}

impl Question {
    /// What is asked for.
    pub(super) fn name(&self) -> &Name {
        self.query.name()
    }

    /// Which records of it.
    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The answer as bytes. What does not fit is left out and said to be (TC): its asker comes again over TCP.
    pub(super) fn answer(&self, reply: &Reply, transport: Transport) -> Vec<u8> {
        let limit = match (transport, &self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_UDP,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP, UDP_PAYLOAD),
        };
        let whole = self.write(reply, &reply.also, limit);
        let whole = match whole {
            // What was not asked for is not worth a second question.
            Some((_, true)) if !reply.also.is_empty() => self.write(reply, &[], limit),
            whole => whole,
        };
        whole.map(|(bytes, _)| bytes).unwrap_or_else(|| refusal(self.metadata, ResponseCode::ServFail))
    }

    /// The answer, and whether something did not fit.
    fn write(&self, reply: &Reply, also: &[Record], limit: u16) -> Option<(Vec<u8>, bool)> {
        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.response_code = reply.code;
        metadata.recursion_available = true;
        metadata.authoritative = reply.ours;
        let mut bytes = Vec::with_capacity(usize::from(UDP_PAYLOAD));
        let mut encoder = BinEncoder::new(&mut bytes);
        // RFC 6891: who speaks EDNS is answered with it, also where not everything fits.
        encoder.set_max_size(limit - if self.edns.is_some() { OPT } else { 0 });
        let header = emit_message_parts(
            &metadata,
            &mut std::iter::once(&self.query),
            &mut reply.answers.iter(),
            &mut reply.authority.iter(),
            &mut also.iter(),
            None,
            None,
            &mut encoder,
        );
        // What was begun and did not fit is behind the end.
        encoder.trim();
        let header = header
            .inspect_err(|error| tracing::error!(%error, name = self.text, "an answer cannot be written"))
            .ok()?;
        if let Some(theirs) = &self.edns {
            put_edns(&mut bytes, header.counts.additionals, reply.code, theirs.flags().dnssec_ok);
        }
        Some((bytes, header.metadata.truncation))
    }
}

/// Appends an OPT record: what we take over UDP, the upper bits of the code, and version 0 (RFC 6891, 6.1).
fn put_edns(bytes: &mut Vec<u8>, additionals: u16, code: ResponseCode, dnssec_ok: bool) {
    let flags = if dnssec_ok { DNSSEC_OK } else { 0 };
    bytes.push(0);
    bytes.extend(u16::from(RecordType::OPT).to_be_bytes());
    bytes.extend(UDP_PAYLOAD.to_be_bytes());
    bytes.extend([code.high(), 0]);
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0, 0]);
    bytes[HEADER - 2..HEADER].copy_from_slice(&(additionals + 1).to_be_bytes());
}

/// What bytes ask for.
pub(super) fn read(bytes: &[u8]) -> Read {
    // QR, the first bit of the third byte: an answer.
    if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
        return Read::Nothing;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        return Read::Refused(refusal(Metadata::new(id, MessageType::Query, OpCode::Query), ResponseCode::FormErr));
    };
    let Message { metadata, mut queries, edns, .. } = message;
    if metadata.op_code != OpCode::Query {
        return Read::Refused(refusal(metadata, ResponseCode::NotImp));
    }
    let (Some(query), true) = (queries.pop(), queries.is_empty()) else {
        return Read::Refused(refusal(metadata, ResponseCode::FormErr));
    };
    let mut text = query.name().to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    let question = Question { metadata, query, edns, text };
    let code = match &question.edns {
        Some(edns) if edns.version() > 0 => ResponseCode::BADVERS,
        _ if question.query.query_class() != DNSClass::IN => ResponseCode::Refused,
        _ => return Read::Question(Box::new(question)),
    };
    Read::Refused(question.answer(&Reply::code(code), Transport::Udp))
}

/// An answer with a code only, to who could not be understood.
fn refusal(question: Metadata, code: ResponseCode) -> Vec<u8> {
    let mut metadata = Metadata::response_from_request(&question);
    metadata.response_code = code;
    let mut bytes = Vec::with_capacity(HEADER);
    let none = || std::iter::empty::<&Record>();
    let mut encoder = BinEncoder::new(&mut bytes);
    // A header always fits.
    let _ = emit_message_parts(
        &metadata,
        &mut std::iter::empty::<&Query>(),
        &mut none(),
        &mut none(),
        &mut none(),
        None,
        None,
        &mut encoder,
    );
    bytes
}

#[cfg(test)]
mod tests;
