//! How rows and the change log are written: fixed little-endian headers before the caller's bytes.

use std::sync::Arc;

use crate::{Entry, LeaseId, WatchEvent};
use hivemind_core::model::Revision;

/// Bytes that this module did not write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damaged {
    /// Of a row.
    #[error("the row {0} is damaged")]
    Row(String),
    /// Of the log.
    #[error("revision {0} of the log is damaged")]
    Log(Revision),
}

/// `created, modified, lease (0: none)`, each a u64, then the value.
pub(super) fn encode_row(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + entry.value.len());
    for number in [entry.created, entry.modified, entry.lease.map_or(0, |lease| lease.0)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&entry.value);
    bytes
}

/// The row of `key` from what [`encode_row`] wrote.
pub(super) fn decode_row(key: &str, bytes: &[u8]) -> Result<Entry, Damaged> {
    let mut reader = Reader(bytes);
    let mut header = || Some((reader.u64()?, reader.u64()?, reader.u64()?));
    let (created, modified, lease) = header().ok_or_else(|| Damaged::Row(key.to_owned()))?;
    Ok(Entry { key: key.into(), value: reader.0.into(), created, modified, lease: lease_of(lease) })
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// The changes of one revision. `modified` is that revision and not written again.
pub(super) fn encode_events(events: &[WatchEvent]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let chunk = |bytes: &mut Vec<u8>, chunk: &[u8]| {
        // A transaction far below 4 GiB is enforced by the API's body limit; redb itself ends at 3 GiB.
        bytes.extend_from_slice(&u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(chunk);
    };
    for event in events {
        match event {
            WatchEvent::Put(entry) => {
                bytes.push(PUT);
                bytes.extend_from_slice(&entry.created.to_le_bytes());
                bytes.extend_from_slice(&entry.lease.map_or(0, |lease| lease.0).to_le_bytes());
                chunk(&mut bytes, entry.key.as_bytes());
                chunk(&mut bytes, &entry.value);
            }
            WatchEvent::Delete { key, .. } => {
                bytes.push(DELETE);
                chunk(&mut bytes, key.as_bytes());
            }
        }
    }
    bytes
}

/// The changes of `revision` from what [`encode_events`] wrote.
pub(super) fn decode_events(revision: Revision, bytes: &[u8]) -> Result<Vec<WatchEvent>, Damaged> {
    events(revision, Reader(bytes)).ok_or(Damaged::Log(revision))
}

fn events(revision: Revision, mut reader: Reader<'_>) -> Option<Vec<WatchEvent>> {
    let mut events = Vec::new();
    while !reader.0.is_empty() {
        events.push(match reader.take(1)? {
            [PUT] => {
                let (created, lease) = (reader.u64()?, lease_of(reader.u64()?));
                let (key, value): (Arc<str>, Arc<[u8]>) = (reader.text()?.into(), reader.chunk()?.into());
                WatchEvent::Put(Entry { key, value, created, modified: revision, lease })
            }
            [DELETE] => WatchEvent::Delete { key: reader.text()?.into(), revision },
            _ => return None,
        });
    }
    Some(events)
}

fn lease_of(number: u64) -> Option<LeaseId> {
    (number != 0).then_some(LeaseId(number))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn chunk(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(length as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.chunk()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_and_every_truncation_is_noticed() {
        let put = |key: &str, value: &[u8], lease| {
            WatchEvent::Put(Entry { key: key.into(), value: value.into(), created: 3, modified: 9, lease })
        };
        let events = vec![
            put("/v1/a", b"value", None),
            WatchEvent::Delete { key: "/v1/b".into(), revision: 9 },
            put("/v1/c", b"", Some(LeaseId(7))),
        ];
        let bytes = encode_events(&events);
        assert_eq!(decode_events(9, &bytes), Ok(events.clone()));
        let whole = (0..=events.len()).map(|n| encode_events(&events[..n]).len()).collect::<Vec<_>>();
        for length in (0..bytes.len()).filter(|length| !whole.contains(length)) {
            assert_eq!(decode_events(9, &bytes[..length]), Err(Damaged::Log(9)), "{length}");
        }
    }

    #[test]
    fn rows_survive() {
        let row = Entry { key: "k".into(), value: b"v"[..].into(), created: 1, modified: 2, lease: Some(LeaseId(3)) };
        assert_eq!(decode_row("k", &encode_row(&row)), Ok(row));
        assert_eq!(decode_row("k", &[0; 23]), Err(Damaged::Row("k".to_owned())));
    }
}
