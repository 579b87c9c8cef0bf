//! Names of hosts in policies of the host: it asks other name servers than instances do, so that nobody tells us what it
//! hears. They are looked up here instead, again and again, before what is known of them is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use hivemind_dns::Lookups;

/// The longest pause between two looks: a name may stand for another address at any time.
const LONGEST: Duration = Duration::from_secs(30);
/// The shortest.
const SHORTEST: Duration = Duration::from_secs(1);
/// How soon a name is looked up again that nobody knows.
const RETRY: Duration = Duration::from_secs(5);
/// How many are looked up at once.
const AT_ONCE: usize = 16;

/// Looks up `names` until cancelled. What is known of one is kept for `least` at the shortest.
pub async fn run(mut names: watch::Receiver<BTreeSet<String>>, lookups: Lookups, least: Duration) {
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    // Said once, and not at every look.
    let mut unknown = BTreeSet::new();
    loop {
        let now = Instant::now();
        follow(&mut due, &names.borrow_and_update(), now);
        unknown.retain(|name| due.contains_key(name));
        let asked: Vec<String> = due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        let looked = asked.into_iter().map(|name| async {
            let found = lookups.open(&name).await;
            (name, found)
        });
        let looked: Vec<_> = stream::iter(looked).buffer_unordered(AT_ONCE).collect().await;
        for (name, found) in looked {
            if found.is_some() {
                unknown.remove(&name);
            } else if unknown.insert(name.clone()) {
                tracing::warn!(name, "a name in a policy of the host stands for no address now; trying again");
            }
            due.insert(name, Instant::now() + pause(found, least));
        }
        let next = due.values().min().copied();
        tokio::select! {
            changed = names.changed() => if changed.is_err() {
                // The owner of the tables has ended: the daemon is stopping.
                std::future::pending().await
            },
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Who comes is looked up at once. A name with a star cannot be: it is open for what the host asks us for.
fn follow(due: &mut BTreeMap<String, Instant>, names: &BTreeSet<String>, now: Instant) {
    due.retain(|name, _| names.contains(name));
    for name in names.iter().filter(|name| !name.starts_with('*')) {
        due.entry(name.clone()).or_insert(now);
    }
}

/// Until the next look at a name whose first address holds for `found`: before it is closed.
fn pause(found: Option<Duration>, least: Duration) -> Duration {
    found.map_or(RETRY, |ttl| (ttl.max(least) / 2).clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_again_before_they_are_over() {
        let seconds = Duration::from_secs;
        for (found, least, expected) in [
            (None, 60, RETRY),
            (Some(1), 60, seconds(30)),
            (Some(1), 15, Duration::from_millis(7_500)),
            (Some(3_600), 60, LONGEST),
            (Some(0), 0, SHORTEST),
        ] {
            assert_eq!(pause(found.map(seconds), seconds(least)), expected, "{found:?} {least}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_is_due_and_who_goes_is_not() {
        let now = Instant::now();
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut due = BTreeMap::new();
        follow(&mut due, &names(&["a.b", "*.c.d"]), now);
        assert_eq!(due, [("a.b".to_owned(), now)].into());
        let later = now + RETRY;
        due.insert("a.b".into(), later);
        follow(&mut due, &names(&["a.b", "e.f"]), now);
        assert_eq!(due, [("a.b".to_owned(), later), ("e.f".to_owned(), now)].into());
        follow(&mut due, &names(&[]), now);
        assert!(due.is_empty());
    }
}
