//! What this process uses, read from `/proc/self`.

use std::fs;

use super::Sample;

/// Memory, CPU time, open files and threads; what cannot be read is left out.
pub fn samples() -> Vec<Sample> {
    let sample = |name, help, counter, value| Sample { name, help, counter, labels: Vec::new(), value };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<f64>().ok())
    };
    let rss = field("VmRSS").map(|kib| {
        let help = "Resident memory of the daemon";
        sample("process_resident_memory_bytes", help, false, kib * 1024.0)
    });
    let threads = field("Threads").map(|n| sample("process_threads", "Threads of the daemon", false, n));
    let files = fs::read_dir("/proc/self/fd").ok().and_then(|dir| u32::try_from(dir.count()).ok());
    let files = files.map(|n| sample("process_open_fds", "Open files of the daemon", false, n.into()));
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
    let cpu = usage.map(|usage| {
        #[expect(clippy::cast_precision_loss, reason = "seconds with microseconds: exact for centuries")]
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let value = seconds(usage.user_time()) + seconds(usage.system_time());
        sample("process_cpu_seconds", "CPU time of the daemon, user and system", true, value)
    });
    [rss, threads, files, cpu].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_process_is_seen() {
        let samples = super::samples();
        let value = |name: &str| samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
        assert!(value("process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
        assert!(value("process_threads").is_some_and(|n| n >= 1.0));
        assert!(value("process_open_fds").is_some_and(|n| n >= 3.0));
        assert!(value("process_cpu_seconds").is_some_and(|seconds| seconds >= 0.0));
    }
}
