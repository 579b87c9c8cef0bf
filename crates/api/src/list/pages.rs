//! Pages of a list: where the next one begins, and the version of the rows that all of them are of.
//!
//! Whoever takes a list page by page sees it as it was at the first page: the snapshot is kept meanwhile, which costs as
//! much as changes. How many are kept, and for how long, is bounded; whoever comes later begins again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use hivemind_core::model::{ClusterSnapshot, ErrorCode, Problem, Revision};

/// Versions that are kept for those who are in the middle of a list.
const KEPT: usize = 32;
/// How long one is kept after a page of it was asked for.
const AGE: Duration = Duration::from_secs(300);
/// The form of the tokens.
const FORM: u8 = 1;

/// The versions that lists are being taken of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    kept: Arc<Mutex<VecDeque<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    snapshot: Arc<ClusterSnapshot>,
    /// When a page of it was last asked for.
    asked: Instant,
}

impl Pages {
    /// Keeps a version for who is going to ask for its next page.
    pub(crate) fn keep(&self, snapshot: &Arc<ClusterSnapshot>) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = kept.iter().position(|kept| kept.snapshot.revision == snapshot.revision);
        // Pages of one version are of one snapshot: also what is not of the store stays as it was then.
        let snapshot = same.and_then(|at| kept.remove(at)).map_or_else(|| Arc::clone(snapshot), |kept| kept.snapshot);
        kept.retain(|kept| now - kept.asked < AGE);
        kept.push_back(Kept { snapshot, asked: now });
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }

    /// The version of a token: one that is kept, or the newest, if that is it.
    pub(crate) fn find(
        &self,
        revision: Revision,
        newest: Arc<ClusterSnapshot>,
    ) -> Result<Arc<ClusterSnapshot>, Problem> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let living = kept.iter().filter(|kept| kept.asked.elapsed() < AGE);
        let found = living.map(|kept| &kept.snapshot).find(|snapshot| snapshot.revision == revision);
        if let Some(found) = found {
            return Ok(Arc::clone(found));
        }
        if newest.revision == revision {
            return Ok(newest);
        }
        let title = format!("continue: the list as it was at revision {revision} is not kept any more");
        let detail = format!("a list can be gone on with for {} s, and until the daemon ends", AGE.as_secs());
        Err(Problem::new(ErrorCode::Expired, title)
            .detail(detail)
            .hint("ask for the list again, without continue; larger pages (limit) need fewer requests"))
    }
}

/// Where the next page of a list begins. On the wire it is opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The version of the rows.
    pub(crate) revision: Revision,
    /// The key of the last object of the page before.
    pub(crate) after: String,
}

impl Token {
    /// As text, which is good for the same `question` only: path and selectors.
    pub(crate) fn write(&self, question: &str) -> String {
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&digest(question));
        bytes.extend_from_slice(&self.revision.to_be_bytes());
        bytes.extend_from_slice(self.after.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text that was given for the same `question`.
    pub(crate) fn read(text: &str, question: &str) -> Result<Self, String> {
        let none = || format!("continue: {text:?} is no token of this API; take the one of the page before, as it is");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| none())?;
        let (form, rest) = bytes.split_first().ok_or_else(none)?;
        let (of, rest) = rest.split_first_chunk::<8>().ok_or_else(none)?;
        let (revision, after) = rest.split_first_chunk::<8>().ok_or_else(none)?;
        let after = String::from_utf8(after.to_vec()).map_err(|_| none())?;
        if *form != FORM {
            return Err(none());
        }
        if *of != digest(question) {
            return Err(
                "continue: the token is of another list; path, tenant and selectors must stay as they were".into()
            );
        }
        Ok(Self { revision: Revision::from_be_bytes(*revision), after })
    }
}

/// Tells one question from another. No protection: a token gives nothing that the question does not.
fn digest(question: &str) -> [u8; 8] {
    let all: [u8; 32] = Sha256::digest(question).into();
    let mut first = [0; 8];
    first.copy_from_slice(&all[..8]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: Revision) -> Arc<ClusterSnapshot> {
        Arc::new(ClusterSnapshot::at(revision))
    }

    #[test]
    fn a_token_is_good_for_its_list_only() {
        let token = Token { revision: 17, after: "default\0web".into() };
        let text = token.write("/v1/apps?");
        assert!(!text.contains("web"), "{text}");
        assert_eq!(Token::read(&text, "/v1/apps?"), Ok(token));
        assert!(Token::read(&text, "/v1/instances?").expect_err("another").contains("another list"));
        for wrong in ["", "AA", "no token!", &text[..8], "/w8", "Ag"] {
            assert!(Token::read(wrong, "/v1/apps?").expect_err(wrong).contains("no token"), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn versions_are_kept_for_a_while_and_so_many() {
        let pages = Pages::default();
        pages.keep(&at(1));
        assert_eq!(pages.find(1, at(2)).map(|found| found.revision), Ok(1));
        assert_eq!(pages.find(2, at(2)).map(|found| found.revision), Ok(2), "the newest needs not be kept");
        let gone = pages.find(3, at(2)).expect_err("never was");
        assert_eq!(gone.code, ErrorCode::Expired);
        tokio::time::advance(AGE / 2).await;
        pages.keep(&at(1));
        tokio::time::advance(AGE / 2).await;
        assert!(pages.find(1, at(2)).is_ok(), "it was asked for meanwhile");
        tokio::time::advance(AGE / 2).await;
        assert!(pages.find(1, at(2)).is_err(), "it is too old");
        for revision in 10..10 + KEPT as u64 + 1 {
            pages.keep(&at(revision));
        }
        assert!(pages.find(10, at(2)).is_err() && pages.find(11, at(2)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_stays_the_snapshot_that_it_was() {
        let pages = Pages::default();
        let first = at(1);
        pages.keep(&first);
        pages.keep(&at(1));
        assert!(Arc::ptr_eq(&pages.find(1, at(1)).expect("kept"), &first));
    }
}
