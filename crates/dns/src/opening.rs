//! What instances ask for is opened before they hear of it, where policies name it.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use hickory_proto::rr::{Name, RData, Record};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long an answer waits for its addresses to be open. Then it goes out all the same: a client that comes too early
/// tries again, one without an answer fails.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an instance is about to be told.
#[derive(Debug)]
pub struct Resolved {
    /// Who has asked.
    pub asker: IpAddr,
    /// For what: in lower case, without a final dot. Not what it is an alias of.
    pub name: String,
    /// The addresses, and for how long they hold.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// To be sent, or dropped, when they are open. Closed if the answer could not wait for it.
    pub opened: oneshot::Sender<()>,
}

/// Tells of the addresses in an answer and waits until they are open, but not for long.
pub(super) async fn open(opener: &mpsc::Sender<Resolved>, asker: IpAddr, name: &Name, answer: &[Record]) {
    let addresses = addresses(name, answer);
    if addresses.is_empty() {
        return;
    }
    let name = name.to_ascii().to_ascii_lowercase().trim_end_matches('.').to_owned();
    let (opened, open) = oneshot::channel();
    let told = async {
        if opener.send(Resolved { asker, name, addresses, opened }).await.is_ok() {
            // Dropped without a word is as good: nobody will open anything.
            let _ = open.await;
        }
    };
    if timeout(PATIENCE, told).await.is_err() {
        tracing::warn!(%asker, "an answer went out before its addresses were open");
    }
}

/// The addresses that the answer gives the name, by way of its aliases. Records of other names say nothing.
fn addresses(name: &Name, answer: &[Record]) -> Vec<(IpAddr, Duration)> {
    let mut names = HashSet::from([name.to_lowercase()]);
    // An alias may stand behind what it is an alias of; each round finds one more name, or there is none.
    loop {
        let before = names.len();
        for record in answer {
            if let RData::CNAME(alias) = &record.data
                && names.contains(&record.name.to_lowercase())
            {
                names.insert(alias.0.to_lowercase());
            }
        }
        if names.len() == before {
            break;
        }
    }
    let address = |record: &Record| {
        let address: IpAddr = match &record.data {
            RData::A(a) => a.0.into(),
            RData::AAAA(aaaa) => aaaa.0.into(),
            _ => return None,
        };
        names.contains(&record.name.to_lowercase()).then(|| (address, Duration::from_secs(record.ttl.into())))
    };
    answer.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn a(owner: &str, last: u8) -> Record {
        Record::from_rdata(name(owner), 30, RData::A(rdata::A([203, 0, 113, last].into())))
    }

    fn alias(owner: &str, of: &str) -> Record {
        Record::from_rdata(name(owner), 30, RData::CNAME(rdata::CNAME(name(of))))
    }

    fn found(asked: &str, answer: &[Record]) -> Vec<u8> {
        let last = |(address, ttl): (IpAddr, Duration)| match address {
            IpAddr::V4(v4) if ttl == Duration::from_secs(30) => v4.octets()[3],
            other => panic!("{other} for {ttl:?}"),
        };
        addresses(&name(asked), answer).into_iter().map(last).collect()
    }

    #[test]
    fn only_what_the_name_leads_to_is_its() {
        let chain = [a("c.example.", 1), alias("B.example.", "c.example."), alias("a.example.", "b.example.")];
        assert_eq!(found("a.example.", &chain), [1]);
        assert_eq!(found("A.Example.", &[a("a.example.", 1), a("other.example.", 2), a("a.example.", 3)]), [1, 3]);
        assert_eq!(found("a.example.", &[alias("a.example.", "a.example.")]), [0u8; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_its_addresses_but_not_for_ever() {
        let (opener, mut inbox) = mpsc::channel::<Resolved>(1);
        let asker = IpAddr::from([10, 88, 0, 2]);
        let (asked, answer) = (name("A.Example."), [a("a.example.", 1)]);
        let begun = tokio::time::Instant::now();
        let open_it = async {
            let resolved = inbox.recv().await.expect("told");
            assert_eq!((resolved.asker, &resolved.name[..], resolved.addresses.len()), (asker, "a.example", 1));
            tokio::time::advance(PATIENCE / 2).await;
            resolved.opened.send(()).expect("somebody waits");
        };
        tokio::join!(open(&opener, asker, &asked, &answer), open_it);
        assert_eq!(begun.elapsed(), PATIENCE / 2);
        open(&opener, asker, &asked, &answer).await;
        assert!(begun.elapsed() >= PATIENCE * 3 / 2);
        assert!(inbox.recv().await.expect("told").opened.is_closed(), "so that it can be counted");
        // With nobody there, and without an address, it does not wait.
        open(&opener, asker, &asked, &[]).await;
        drop(inbox);
        open(&opener, asker, &asked, &answer).await;
        assert!(begun.elapsed() < PATIENCE * 2);
    }
}
