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
use crate::dataplane::DataplaneError;

/// How many programs are loaded at once at most.
const LOADERS: usize = 4;

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
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let load_some = || {
        while let Some((name, program)) = next() {
            load(name, program, log_dir)?;
        }
        Ok(())
    };
    let others = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(LOADERS) - 1;
    thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(load_some)).collect();
        let own = load_some();
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
