//! Having the kernel's connection tracking forget addresses, for all who ask at the same moment by one look.
//!
//! A look walks every bucket of the kernel's table, however little is in it: 262,144 of them on a machine with 24 GiB, some
//! 5 ms of processor time. Instances that are made together ask together.

use std::{
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{
    Mutex as Turns,
    oneshot::{self, error::TryRecvError},
};

use super::tracked;
use crate::{lifecycle::killpoint, net::NetError};

/// Those who wait for a look. Who has the turn looks for all who wait by then.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    waiting: Mutex<Vec<Asked>>,
    turn: Turns<()>,
}

#[derive(Debug)]
struct Asked {
    addresses: Vec<IpAddr>,
    /// `Err` has what the system said.
    told: oneshot::Sender<Result<u64, (io::ErrorKind, String)>>,
}

impl Forgetting {
    /// See [`tracked::forget`]. How much was forgotten is told to one of those whom a look was for, the others are told 0:
    /// it is counted once.
    pub(super) async fn forget(&self, addresses: Vec<IpAddr>) -> Result<u64, NetError> {
        self.forget_by(addresses, tracked::forget).await
    }

    async fn forget_by(
        &self,
        addresses: Vec<IpAddr>,
        look: impl FnOnce(&[IpAddr]) -> io::Result<u64> + Copy + Send + 'static,
    ) -> Result<u64, NetError> {
        if addresses.is_empty() {
            return Ok(0);
        }
        killpoint::before("forgetting what is tracked");
        loop {
            let (told, mut answer) = oneshot::channel();
            self.waiting().push(Asked { addresses: addresses.clone(), told });
            let _turn = self.turn.lock().await;
            let mut answered = answer.try_recv();
            if let Err(TryRecvError::Empty) = answered {
                let asked = std::mem::take(&mut *self.waiting());
                let all: Vec<_> = asked.iter().flat_map(|one| one.addresses.iter().copied()).collect();
                tell(asked, super::node::blocking(move || Ok(look(&all))).await?);
                answered = answer.try_recv();
            }
            if let Ok(answered) = answered {
                return answered
                    .map_err(|(kind, why)| NetError::Tracked { addresses, source: io::Error::new(kind, why) });
            }
            // Who looked for us was cancelled.
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(asked: Vec<Asked>, looked: io::Result<u64>) {
    let mut told = looked.map_err(|error| (error.kind(), error.to_string()));
    for one in asked {
        // One that does not listen any more was cancelled.
        let counted = one.told.send(told.clone()).is_ok();
        if let (true, Ok(count)) = (counted, &mut told) {
            *count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, atomic::AtomicUsize, atomic::Ordering};

    use super::*;

    /// What was looked for, look by look.
    #[derive(Debug, Default)]
    struct Looks(Mutex<Vec<Vec<IpAddr>>>);

    fn address(last: u8) -> Vec<IpAddr> {
        vec![[10, 0, 0, last].into()]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn those_who_ask_during_a_look_share_the_next_one() {
        let forgetting = Arc::new(Forgetting::default());
        let looks: &'static Looks = Box::leak(Box::default());
        let first: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
        let begun: &'static AtomicUsize = Box::leak(Box::default());
        let look = move |addresses: &[IpAddr]| {
            looks.0.lock().unwrap().push(addresses.to_vec());
            if begun.fetch_add(1, Ordering::SeqCst) == 0 {
                first.wait();
            }
            Ok(7)
        };
        let ask = |last| {
            let forgetting = Arc::clone(&forgetting);
            tokio::spawn(async move { forgetting.forget_by(address(last), look).await })
        };
        let mut all = vec![ask(1)];
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The one that would look next goes away: the others look without it.
        let gone = ask(9);
        while forgetting.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.is_err());
        all.extend([ask(2), ask(3), ask(4)]);
        while forgetting.waiting().len() < 4 {
            tokio::task::yield_now().await;
        }
        first.wait();
        let mut counted = 0;
        for one in all {
            counted += one.await.unwrap().unwrap();
        }
        assert_eq!(counted, 14, "each look is counted once");
        let looks = looks.0.lock().unwrap();
        assert_eq!(looks.len(), 2, "{looks:?}");
        let second: std::collections::BTreeSet<_> = looks[1].iter().copied().collect();
        assert!([2, 3, 4].into_iter().flat_map(address).all(|one| second.contains(&one)), "{looks:?}");
    }

    #[tokio::test]
    async fn what_the_system_says_is_told_to_everybody() {
        let refused = |_: &[IpAddr]| Err(io::ErrorKind::PermissionDenied.into());
        let forgetting = Forgetting::default();
        let (one, other) =
            tokio::join!(forgetting.forget_by(address(1), refused), forgetting.forget_by(address(2), refused));
        for refused in [one, other] {
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("permission denied") && said.contains("10.0.0."), "{said}");
        }
    }
}
