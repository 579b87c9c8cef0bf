//! Loads the programs, each past the kernel's verifier.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    num::NonZeroUsize,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use hivemind_ebpf::program;

use super::chain;
use crate::DataplaneError;

/// How many programs are loaded at once at most.
const LOADERS: usize = 4;

/// The object, if it is one and not the stub of a binary that was built without the programs.
pub(super) fn programs(object: &[u8]) -> Result<&[u8], DataplaneError> {
    if object.is_empty() { Err(DataplaneError::Stub) } else { Ok(object) }
}

/// Loads every program. A refusal is shown in short and kept in full.
///
/// Nearly all of the time that a start takes is the verifier's, so several are loaded at once.
pub(super) fn all(ebpf: &mut Ebpf, log_dir: &Path) -> Result<(), DataplaneError> {
    let mut programs: BTreeMap<&str, &mut Program> = ebpf.programs_mut().collect();
    // Those of devices are the large ones: they come first, so that no CPU is left with one at the end.
    let mut waiting = VecDeque::new();
    for name in program::all() {
        let missing = || DataplaneError::Kernel { what: "a program of the object", why: name.into() };
        waiting.push_back((name, programs.remove(name).ok_or_else(missing)?));
    }
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(LOADERS);
    each(waiting, threads, |(name, program)| load(name, program, log_dir))
}

/// Does something with each, in order, on so many threads, this one among them. A thread ends at its first failure;
/// the result is a failure if any thread has one.
fn each<T: Send, E: Send>(
    waiting: VecDeque<T>,
    threads: usize,
    act: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let some = || {
        while let Some(one) = next() {
            act(one)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(some)).collect();
        let own = some();
        let joined = others.into_iter().map(|other| match other.join() {
            Ok(loaded) => loaded,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.fold(own, Result::and)
    })
}

fn load(name: &str, program: &mut Program, log_dir: &Path) -> Result<(), DataplaneError> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => return Err(DataplaneError::Kernel { what: "a program of the object", why: name.into() }),
    };
    loaded.map_err(|error| refused(name, &error, log_dir))
}

fn refused(name: &str, error: &ProgramError, log_dir: &Path) -> DataplaneError {
    let full = chain(error);
    let log = log_dir.join(format!("verifier-{name}.log"));
    if let Err(error) = fs::create_dir_all(log_dir).and_then(|()| fs::write(&log, &full)) {
        tracing::warn!(%error, path = %log.display(), "the verifier's log could not be kept");
    }
    let lines: Vec<_> = full.lines().filter(|line| !line.trim().is_empty()).collect();
    let short = lines[lines.len().saturating_sub(3)..].join(" / ");
    DataplaneError::Rejected { program: name.into(), short, log }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_failure_on_any_thread_is_the_result() {
        let own = thread::current().id();
        for fails_here in [Some(true), Some(false), None] {
            let all_have_one = Barrier::new(LOADERS);
            let result = each((0..LOADERS).collect(), LOADERS, |number| {
                all_have_one.wait();
                let here = thread::current().id() == own;
                // Of the other threads, those with an odd number: there is one at least.
                let fails = fails_here.is_some_and(|fails| if fails { here } else { !here && number % 2 == 1 });
                if fails { Err(here) } else { Ok(()) }
            });
            assert_eq!(result, fails_here.map_or(Ok(()), Err));
        }
    }

    #[test]
    fn the_stub_is_refused_with_its_own_code() {
        let refused = programs(&[]).expect_err("nothing to load");
        assert!(matches!(refused, DataplaneError::Stub), "{refused}");
        assert_eq!(refused.code().as_str(), "E-BPF-003");
        assert_eq!(programs(b"object").expect("an object"), b"object");
    }

    #[test]
    fn everything_is_done_once() {
        let done = Mutex::new(Vec::new());
        let result: Result<(), ()> = each((0..100).collect(), LOADERS, |number| {
            done.lock().expect("not poisoned").push(number);
            Ok(())
        });
        let mut done = done.into_inner().expect("not poisoned");
        done.sort_unstable();
        assert_eq!((result, done), (Ok(()), (0..100).collect::<Vec<_>>()));
    }
}
