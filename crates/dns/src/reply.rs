//! From a question to its answer: of the table of the moment, so that a change is seen by the next question, or of those
//! who know other names.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType, rdata},
};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    answer::{Answer, Data, Kind},
    message::{self, Question, Read, Reply, Transport},
    opening::{self, Resolved},
    table::DnsTable,
    upstream::Upstream,
};
use hivemind_core::model::DNS_ZONE;

/// How long others may remember our answers, in seconds, also that there is none: as long as a stale one may live.
const TTL: u32 = 1;
/// How long a question waits for the first complete table after the start.
const FIRST_TABLE: Duration = Duration::from_secs(3);
/// Of who looks after a zone; nobody copies ours, so that its numbers are for show.
const ZONE_TIMES: (i32, i32, i32) = (3600, 600, 86_400);

/// Answers questions.
pub(super) struct Replier {
    pub(super) table: watch::Receiver<Arc<DnsTable>>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) opener: Option<mpsc::Sender<Resolved>>,
    /// Who may ask; everyone if empty.
    pub(super) clients: Vec<IpNet>,
}

/// How soon there is an answer.
pub(super) enum Soon {
    /// Here it is.
    Now(Vec<u8>),
    /// When [`Replier::later`] has it.
    Later(Box<Question>),
    /// Never.
    Never,
}

impl Replier {
    /// What is said to bytes of `asker`. It does not wait.
    pub(super) fn at_once(&self, bytes: &[u8], asker: IpAddr, transport: Transport) -> Soon {
        let question = match message::read(bytes) {
            Read::Question(question) => question,
            Read::Refused(answer) => return Soon::Now(answer),
            Read::Nothing => return Soon::Never,
        };
        if !self.clients.is_empty() && !self.clients.iter().any(|range| range.contains(&asker)) {
            return Soon::Now(question.answer(&Reply::code(ResponseCode::Refused), transport));
        }
        let table = Arc::clone(&self.table.borrow());
        if !table.is_complete() {
            return Soon::Later(question);
        }
        match own(&table, asker, &question) {
            Some(reply) => Soon::Now(question.answer(&reply, transport)),
            None => Soon::Later(question),
        }
    }

    /// The answer to a question that has to wait: for the first table, or for another name server.
    pub(super) async fn later(&self, question: &Question, asker: IpAddr, transport: Transport) -> Vec<u8> {
        let reply = self.reply(question, asker).await;
        question.answer(&reply, transport)
    }

    async fn reply(&self, question: &Question, asker: IpAddr) -> Reply {
        let Some(table) = self.table().await else { return Reply::code(ResponseCode::ServFail) };
        if let Some(reply) = own(&table, asker, question) {
            return reply;
        }
        let name = question.name();
        let reply = self.upstream.ask(name.clone(), question.kind(), table.servers_of(asker)).await;
        if let Some(opener) = &self.opener {
            opening::open(opener, asker, name, &reply.answers).await;
        }
        reply
    }

    /// The table. Just after the start it may not be complete: a question then waits, since "there is no such name"
    /// would be a lie that its asker remembers.
    async fn table(&self) -> Option<Arc<DnsTable>> {
        let mut table = self.table.clone();
        let known = table.wait_for(|table| table.is_complete());
        match timeout(FIRST_TABLE, known).await {
            Ok(Ok(table)) => Some(Arc::clone(&table)),
            _ => None,
        }
    }
}

/// What the table says; `None` if others are to be asked.
fn own(table: &DnsTable, asker: IpAddr, question: &Question) -> Option<Reply> {
    let (code, records, also, zone) = match table.answer_to(asker, &question.text, kind(question.kind())) {
        Answer::Found { records, also, zone } => (ResponseCode::NoError, records, also, zone),
        Answer::NoSuchName { zone } => (ResponseCode::NXDomain, vec![], vec![], zone),
        Answer::NotOurs => return None,
    };
    let name = question.name();
    let mut answers: Vec<_> = records.into_iter().filter_map(|data| record(name, data)).collect();
    // Clients take the first: each gets another one first.
    if answers.len() > 1 {
        let first = usize::from(rand::random::<u16>()) % answers.len();
        answers.rotate_left(first);
    }
    // RFC 2308: without it nobody may remember that there is nothing, and asks again at once.
    let authority = if answers.is_empty() { top(&zone).into_iter().collect() } else { vec![] };
    let also = also.into_iter().filter_map(|(name, address)| record(&full(&name)?, Data::Address(address)));
    Some(Reply { code, ours: true, answers, authority, also: also.collect() })
}

fn kind(asked: RecordType) -> Kind {
    match asked {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

/// A record of ours; `None` if a name in it is none, which those of services and instances always are.
fn record(name: &Name, data: Data) -> Option<Record> {
    let data = match data {
        Data::Address(IpAddr::V4(v4)) => RData::A(rdata::A(v4)),
        Data::Address(IpAddr::V6(v6)) => RData::AAAA(rdata::AAAA(v6)),
        Data::Server { weight, port, target } => RData::SRV(rdata::SRV::new(0, weight, port, full(&target)?)),
        Data::Name(name) => RData::PTR(rdata::PTR(full(&name)?)),
        Data::Zone => RData::SOA(soa()?),
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

/// The record at the top of a zone.
fn top(zone: &str) -> Option<Record> {
    record(&full(zone)?, Data::Zone)
}

fn soa() -> Option<rdata::SOA> {
    let (refresh, retry, expire) = ZONE_TIMES;
    let (server, keeper) = (full(DNS_ZONE)?, full(&format!("hostmaster.{DNS_ZONE}"))?);
    Some(rdata::SOA::new(server, keeper, 1, refresh, retry, expire, TTL))
}

/// A name with its final dot.
fn full(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}
