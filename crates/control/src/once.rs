//! Requests with a key are done once. Pure.
//!
//! The answer is a row of the same transaction as the effect, so that whoever asks again after a broken connection, or after a
//! daemon that was killed at any moment, gets the first answer, and nothing is done twice. Refusals are not kept: nothing
//! was done.

use serde::{Serialize, de::DeserializeOwned};

use super::{Changed, ControlError, ProjectChanged, Written, decode::encode};
use hivemind_core::model::{ClusterSnapshot, Done, Revision, Timestamp};
use hivemind_store::{StoreError, Txn, keys};

/// Keys that are kept.
pub(super) const KEPT: usize = 1_024;
/// For how long, in milliseconds: a day.
pub(super) const AGE: i64 = 24 * 3_600 * 1_000;

/// The key of a request, and what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The digest of the key, in hexadecimal.
    pub key: String,
    /// The digest of the request, in hexadecimal.
    pub request: String,
}

/// An answer that can be given again.
pub(super) trait Outcome: Serialize + DeserializeOwned {
    /// The same, at the revision that has it.
    fn at(self, revision: Revision) -> Self;
}

impl Outcome for Written {
    fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }
}

impl Outcome for Changed {
    fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }
}

impl Outcome for ProjectChanged {
    fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }
}

/// The answer that a request with this key got; an error if that was another request.
pub(super) fn before<T: Outcome>(
    snapshot: &ClusterSnapshot,
    once: Option<&Once>,
    now: Timestamp,
) -> Option<Result<T, ControlError>> {
    let once = once?;
    let row = snapshot.done.get(&once.key).filter(|row| !is_old(&row.object, now))?;
    let Done { request, outcome, revision, .. } = &*row.object;
    if *request != once.request {
        return Some(Err(ControlError::KeyUsed));
    }
    // The form of an answer may have changed with the version.
    let outcome: T = serde_json::from_value(outcome.clone()).ok()?;
    Some(Ok(outcome.at(revision.unwrap_or(row.modified))))
}

/// A transaction that keeps the answer, and forgets answers that are too old or too many. `revision` is the outcome's, if it
/// is not that of the transaction.
pub(super) fn kept<T: Outcome>(
    snapshot: &ClusterSnapshot,
    once: Option<&Once>,
    outcome: &T,
    revision: Option<Revision>,
    now: Timestamp,
) -> Result<Txn, StoreError> {
    let Some(Once { key, request }) = once else { return Ok(Txn::new()) };
    let outcome = serde_json::to_value(outcome).map_err(|error| StoreError::Encode { why: error.to_string() })?;
    let done = Done { request: request.clone(), at: now, revision, outcome };
    let mut others: Vec<_> = snapshot.done.iter().filter(|(other, _)| *other != key).collect();
    others.sort_by_key(|(_, row)| row.modified);
    let surplus = (others.len() + 1).saturating_sub(KEPT);
    let gone = others.iter().enumerate().filter(|(at, (_, row))| *at < surplus || is_old(&row.object, now));
    let txn = Txn::new().put(keys::done(key), encode(&done)?);
    Ok(gone.fold(txn, |txn, (_, (key, _))| txn.delete(keys::done(key))))
}

/// A clock that was set back makes none old.
fn is_old(done: &Done, now: Timestamp) -> bool {
    now.as_millis().saturating_sub(done.at.as_millis()) > AGE
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use hivemind_core::model::Row;
    use hivemind_store::Op;

    const NOW: Timestamp = Timestamp::from_millis(10 * AGE);

    fn once(key: &str, request: &str) -> Once {
        Once { key: key.into(), request: request.into() }
    }

    fn with(snapshot: &mut ClusterSnapshot, key: &str, at: i64, modified: Revision) {
        let outcome = serde_json::json!({"revision": 0, "created": true, "changed": true});
        let done = Done { request: "r".into(), at: Timestamp::from_millis(at), revision: None, outcome };
        snapshot.done.insert(key.into(), Row { object: Arc::new(done), modified });
    }

    #[test]
    fn the_first_answer_is_given_again_and_another_request_is_refused() {
        let mut snapshot = ClusterSnapshot::at(9);
        with(&mut snapshot, "k", NOW.as_millis(), 7);
        let again: Changed = before(&snapshot, Some(&once("k", "r")), NOW).expect("kept").expect("the same");
        assert_eq!(again, Changed { revision: 7, created: true, changed: true, renewed: Vec::new() });
        let other = before::<Changed>(&snapshot, Some(&once("k", "other")), NOW);
        assert!(matches!(other, Some(Err(ControlError::KeyUsed))), "{other:?}");
        assert!(before::<Changed>(&snapshot, Some(&once("new", "r")), NOW).is_none());
        assert!(before::<Changed>(&snapshot, None, NOW).is_none());
        let later = Timestamp::from_millis(NOW.as_millis() + AGE + 1);
        assert!(before::<Changed>(&snapshot, Some(&once("k", "other")), later).is_none(), "it is too old");
        let earlier = Timestamp::from_millis(0);
        assert!(before::<Changed>(&snapshot, Some(&once("k", "r")), earlier).is_some(), "the clock was set back");
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_with_the_next() {
        let mut snapshot = ClusterSnapshot::at(9);
        with(&mut snapshot, "old", NOW.as_millis() - AGE - 1, KEPT as u64 * 2);
        for n in 0..KEPT {
            with(&mut snapshot, &format!("k{n}"), NOW.as_millis(), n as u64 + 1);
        }
        let outcome = Changed { revision: 0, created: false, changed: true, renewed: Vec::new() };
        let txn = kept(&snapshot, Some(&once("new", "r")), &outcome, None, NOW).expect("encoded");
        let deleted = |op: &Op| match op {
            Op::Delete { key } => Some(key.clone()),
            Op::Put { .. } => None,
        };
        let gone: Vec<_> = txn.ops.iter().filter_map(deleted).collect();
        assert_eq!(gone, [keys::done("k0"), keys::done("k1"), keys::done("old")]);
        assert_eq!(kept(&snapshot, None, &outcome, None, NOW).expect("nothing"), Txn::new());
    }
}
