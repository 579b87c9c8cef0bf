//! Which of an instance's sidecars may run, and when its own container may begin and end. Pure.
//!
//! Each container has a machine of its own ([`super::next`]). What they have to do with each other is here: one after the
//! other towards running, all beside each other while they run, and in the reverse order towards the end.

/// How far the app's own container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The network is there, and what comes before the app has ended well.
    pub ground: bool,
    /// Its process is there.
    pub runs: bool,
    /// Its process is not to be started again, or the instance is to stop.
    pub ends: bool,
}

/// How far a sidecar is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Its process is there, or has been since it was begun by this worker.
    pub begun: bool,
    /// Its process has started: its hooks of the start were run, and its startup probe has passed.
    pub started: bool,
    /// Nothing is left of it, or it never was.
    pub gone: bool,
}

/// What a sidecar is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nothing but fetch its image: it is not its turn to begin or to end.
    #[default]
    Wait,
    /// Run.
    Run,
    /// End, and leave nothing behind.
    End,
}

/// The turn of each sidecar.
pub fn turns(own: Own, sidecars: &[Beside]) -> Vec<Turn> {
    if own.ends {
        return ends(own, sidecars);
    }
    let mut first = own.ground;
    let turn = |it: &Beside| {
        // What has begun goes on, also while those before it are started again.
        let turn = if first || it.begun || own.runs { Turn::Run } else { Turn::Wait };
        first &= it.started;
        turn
    };
    sidecars.iter().map(turn).collect()
}

/// Those behind first, and none before the app's own process has ended.
fn ends(own: Own, sidecars: &[Beside]) -> Vec<Turn> {
    let mut last = !own.runs;
    let mut turns: Vec<_> = sidecars
        .iter()
        .rev()
        .map(|it| {
            let turn = match (last, own.runs && it.begun) {
                (true, _) => Turn::End,
                (false, true) => Turn::Run,
                (false, false) => Turn::Wait,
            };
            last &= it.gone;
            turn
        })
        .collect();
    turns.reverse();
    turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: Beside = Beside { begun: false, started: false, gone: false };
    const BEGUN: Beside = Beside { begun: true, ..NONE };
    const STARTED: Beside = Beside { started: true, ..BEGUN };
    const GONE: Beside = Beside { gone: true, ..NONE };

    #[test]
    fn they_begin_one_after_the_other() {
        use Turn::{Run, Wait};
        let turns = |ground, sidecars: &[_]| turns(Own { ground, ..Own::default() }, sidecars);
        assert_eq!(turns(false, &[NONE, NONE]), [Wait, Wait], "there is no network yet");
        assert_eq!(turns(true, &[NONE, NONE, NONE]), [Run, Wait, Wait]);
        assert_eq!(turns(true, &[BEGUN, NONE, NONE]), [Run, Wait, Wait], "its startup probe has not passed");
        assert_eq!(turns(true, &[STARTED, NONE, NONE]), [Run, Run, Wait]);
        assert_eq!(turns(true, &[STARTED, STARTED, NONE]), [Run, Run, Run]);
        assert_eq!(turns(true, &[BEGUN, STARTED, NONE]), [Run, Run, Wait], "the first is started again");
        assert_eq!(turns(false, &[STARTED, BEGUN]), [Run, Run], "the network was lost");
    }

    #[test]
    fn all_run_beside_an_app_that_runs() {
        let own = Own { ground: true, runs: true, ends: false };
        assert_eq!(turns(own, &[NONE, BEGUN, STARTED]), [Turn::Run; 3]);
    }

    #[test]
    fn they_end_in_the_reverse_order_when_the_app_has_ended() {
        use Turn::{End, Run, Wait};
        let turns = |runs, sidecars: &[_]| turns(Own { ground: true, runs, ends: true }, sidecars);
        assert_eq!(turns(true, &[STARTED, STARTED]), [Run, Run], "the app still needs them");
        assert_eq!(turns(false, &[STARTED, STARTED]), [Wait, End]);
        assert_eq!(turns(false, &[STARTED, GONE]), [End, End]);
        assert_eq!(turns(false, &[NONE, NONE]), [Wait, End], "what never began as well");
    }

    fn anything() -> impl Strategy<Value = (Own, Vec<Beside>)> {
        let own = (any::<bool>(), any::<bool>(), any::<bool>());
        let own = own.prop_map(|(ground, runs, ends)| Own { ground, runs, ends });
        let one = (any::<bool>(), any::<bool>(), any::<bool>());
        let one = one.prop_map(|(begun, started, gone)| Beside { begun, started: begun && started, gone });
        (own, proptest::collection::vec(one, 0..6))
    }

    proptest! {
        #[test]
        fn nothing_begins_early_or_ends_early((own, sidecars) in anything()) {
            let turns = turns(own, &sidecars);
            prop_assert_eq!(turns.len(), sidecars.len());
            for (at, turn) in turns.iter().enumerate() {
                match turn {
                    Turn::Run if !sidecars[at].begun && !own.runs => {
                        prop_assert!(own.ground && !own.ends && sidecars[..at].iter().all(|it| it.started));
                    }
                    Turn::End => {
                        prop_assert!(own.ends && !own.runs && sidecars[at + 1..].iter().all(|it| it.gone));
                    }
                    Turn::Run | Turn::Wait => {}
                }
            }
        }

        /// As each does what its turn says, all have started in the end, and all are gone.
        #[test]
        fn all_get_their_turn((own, mut sidecars) in anything()) {
            let to_run = Own { ground: true, ends: false, ..own };
            for _ in 0..=sidecars.len() {
                for (at, turn) in turns(to_run, &sidecars).into_iter().enumerate() {
                    if turn == Turn::Run {
                        sidecars[at] = STARTED;
                    }
                }
            }
            prop_assert!(sidecars.iter().all(|it| it.started));
            let to_end = Own { runs: false, ends: true, ..own };
            for _ in 0..=sidecars.len() {
                for (at, turn) in turns(to_end, &sidecars).into_iter().enumerate() {
                    if turn == Turn::End {
                        sidecars[at] = GONE;
                    }
                }
            }
            prop_assert!(sidecars.iter().all(|it| it.gone));
        }
    }
}
