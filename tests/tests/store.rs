//! The store against `kill -9`: an acknowledged write is there afterwards, and nothing half is.
//!
//! A child process writes and says which revisions were acknowledged; it is killed at a random moment, again and again
//! over the same file. The moments are drawn from a fixed seed.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use hivemind::store::{RedbStore, Store, Txn, TxnOutcome};

/// Tells the child, which is this program again, where the store is.
const STORE: &str = "HIVEMIND_TEST_STORE";
/// How often to kill.
const KILLS: u32 = 100;

/// A small generator (Steele, Lea, Flood: SplitMix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Not a test of its own: what the next one kills. Writes two rows in each transaction, for ever, and says what was acknowledged.
#[test]
#[ignore = "run by another test"]
fn child() {
    let Some(path) = std::env::var_os(STORE) else { return };
    runtime().block_on(async {
        let store = RedbStore::open(Path::new(&path)).await.expect("opens");
        let (_, mut n) = store.get("/n").await.expect("reads");
        loop {
            n += 1;
            let txn = Txn::new().put("/n", n.to_string()).put(format!("/row/{n:08}"), n.to_string());
            match store.txn(txn).await.expect("writes") {
                TxnOutcome::Committed(revision) => println!("ack {revision}"),
                TxnOutcome::Refused(_) => unreachable!("there is no condition"),
            }
        }
    });
}

#[test]
fn no_acknowledged_write_is_lost_to_kill_9() {
    let dir = std::env::temp_dir().join(format!("hmt-store-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let path = dir.join("store.redb");
    let mut random = Random(42);
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let wanted = random.below(12);
        let (mut seen, late) = (0, Duration::from_micros(random.below(3_000)));
        for line in lines {
            let line = line.expect("a line");
            let Some(revision) = line.rsplit_once("ack ").and_then(|(_, n)| n.parse::<u64>().ok()) else { continue };
            acknowledged = acknowledged.max(revision);
            seen += 1;
            if seen == wanted + 1 {
                // Somewhere in the middle of the next write. What it says after this is read until its end.
                let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
                let until = tokio::time::Instant::now() + late;
                while tokio::time::Instant::now() < until {
                    std::hint::spin_loop();
                }
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
            }
        }
        child.wait().expect("ended");
        runtime().block_on(async {
            let store = RedbStore::open(&path).await.expect("opens after the kill");
            let rows = store.range("/row/").await.expect("reads");
            let (n, _) = store.get("/n").await.expect("reads");
            let n: u64 = n.and_then(|row| std::str::from_utf8(&row.value).ok()?.parse().ok()).unwrap_or(0);
            assert!(rows.revision >= acknowledged, "kill {kill}: {} of {acknowledged}", rows.revision);
            assert_eq!(rows.entries.len() as u64, n, "kill {kill}: half a transaction");
            let values = rows.entries.iter().enumerate().all(|(i, row)| *row.value == *(i + 1).to_string().as_bytes());
            assert!(values, "kill {kill}: a row is not what was written");
        });
    }
    assert!(acknowledged > u64::from(KILLS), "the child has written: {acknowledged}");
    std::fs::remove_dir_all(&dir).expect("removed");
}
