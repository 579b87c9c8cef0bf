//! Machines that lack something: `hivemind doctor` says what and how to mend it, and the daemon does not start.

use std::net::UdpSocket;

use anyhow::{Context, Result, bail, ensure};
use hivemind_tests::{Census, PATIENCE, unique};
use serde_json::Value;
use xtask::{
    daemon::{Said, finish},
    machine::Machine,
};

/// Words before `hivemind` that take something away from it. They begin with a mount namespace of their own, so that
/// nobody else misses it.
fn lacking(script: &str) -> [String; 5] {
    let script = format!("{script}; exec \"$@\"");
    ["unshare", "--mount", "sh", "-ec", &script].map(str::to_owned)
}

/// `hivemind <args>` with these words before it.
fn run(machine: &Machine, before: &[&str], args: &[&str]) -> Result<Said> {
    let (first, more) = before.split_first().context("no program")?;
    let mut command = machine.sandbox.command(first);
    // What `sh -c` takes for its name.
    let name: &[&str] = if before.contains(&"-ec") { &["sh"] } else { &[] };
    command.args(more).args(name).arg(machine.daemon.program()).args(args);
    command.env("HIVEMIND_SOCKET", machine.daemon.socket()).env("NO_COLOR", "1").env_remove("HIVEMIND_BPF_ROOT");
    finish(command, "hivemind", PATIENCE)
}

/// Flags of a daemon on this machine; those of `more` instead of ours.
fn flags(machine: &Machine, more: &[&str]) -> Vec<String> {
    let path = |name: &str| machine.daemon.dir().join(name).display().to_string();
    let ours = [
        ("--state-dir", path("state")),
        ("--run-dir", path("run")),
        ("--containerd-socket", machine.containerd.socket().display().to_string()),
        ("--cgroup-root", machine.sandbox.cgroup().display().to_string()),
    ];
    let kept = ours.into_iter().filter(|(name, _)| !more.contains(name));
    let kept = kept.flat_map(|(name, value)| [name.to_owned(), value]);
    kept.chain(more.iter().map(|word| (*word).to_owned())).collect()
}

/// What doctor found about one thing; its exit code must go with what it found of all.
fn found(said: &Said, check: &str) -> Result<(String, String, String)> {
    let findings: Vec<Value> = serde_json::from_str(&said.out).with_context(|| format!("no findings: {said}"))?;
    let fails = findings.iter().any(|finding| finding["verdict"] == "fail");
    ensure!(said.code == i32::from(fails), "the exit code does not say what was found: {said}");
    for finding in &findings {
        let mends = finding["mend"].as_str().is_some_and(|mend| !mend.is_empty());
        ensure!(mends == (finding["verdict"] != "ok"), "what is wrong is to be mended somehow: {finding}");
    }
    let Some(finding) = findings.iter().find(|finding| finding["check"] == check) else { bail!("no {check}: {said}") };
    let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("found"), text("mend")))
}

#[test]
fn what_a_machine_lacks_is_said_and_how_to_mend_it() -> Result<()> {
    let machine = Machine::prepare(&unique("doctor"), &[])?;
    let doctor = |before: &[&str], more: &[&str]| {
        let flags = flags(&machine, more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        run(&machine, before, &[&["doctor", "-o", "json"][..], &flags].concat())
    };
    let well = doctor(&["env"], &[])?;
    ensure!(well.code == 0, "nothing is lacking: {well}");

    let hide = |program: &str| lacking(&format!("mount --bind /dev/null \"$(command -v {program})\""));
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let small = "mkdir -p /run/small; mount -t tmpfs -o size=1m tmpfs /run/small";
    let small_state = ["--state-dir", "/run/small/state"];
    let deaf = machine.sandbox.dir().join("deaf.sock");
    drop(std::os::unix::net::UnixListener::bind(&deaf)?);
    let deaf = deaf.display().to_string();
    for (before, more, check, verdict, what, mend) in [
        (lacking("umount -a -t bpf").to_vec(), &[][..], "bpffs", "fail", "BPF file system", "mount -t bpf"),
        (
            lacking("mount -t tmpfs tmpfs /sys/kernel/btf").to_vec(),
            &[],
            "btf",
            "fail",
            "no /sys",
            "CONFIG_DEBUG_INFO_BTF",
        ),
        (own(&["setarch", "--uname-2.6"]), &[], "kernel", "fail", "2.6.", "Linux 6.1 or newer"),
        (own(&["setpriv", "--reuid", "65534", "--clear-groups"]), &[], "root", "fail", "not root", "sudo"),
        (
            own(&["setpriv", "--bounding-set", "-net_admin"]),
            &[],
            "capabilities",
            "fail",
            "missing: CAP_NET_ADMIN",
            "give the container",
        ),
        (
            own(&["env"]),
            &["--cgroup-root", "/proc"],
            "cgroups",
            "fail",
            "/proc is no folder of a cgroup2",
            "--cgroup-root",
        ),
        (own(&["env"]), &["--containerd-socket", "/no/such"], "containerd", "fail", "/no/such", "install containerd"),
        (own(&["env"]), &["--containerd-socket", &deaf], "containerd", "fail", "refused", "restart containerd"),
        (hide("runc").to_vec(), &[], "runc", "fail", "not found", "install runc"),
        (hide("nft").to_vec(), &[], "nft", "fail", "not found", "install nftables"),
        (own(&["env"]), &["--web-port", "5000"], "web port", "fail", "used by another", "--web-port"),
        (own(&["env"]), &["--service-cidr4", "127.0.0.0/16"], "ranges", "fail", "127.0.0.0", "--service-cidr4"),
        (lacking(small).to_vec(), &small_state, "state disk", "warn", "free for", "free some space"),
    ] {
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let shown = format!("{} … {}", before.join(" "), more.join(" "));
        let said = doctor(&before, more).context(shown.clone())?;
        let (is, says, mends) = found(&said, check).context(shown.clone())?;
        ensure!(is == verdict && says.contains(what) && mends.contains(mend), "{shown}: {is}, {says}, {mends}");
    }
    let everywhere = machine.sandbox.on_network(|| Ok(UdpSocket::bind("0.0.0.0:53")?))?;
    let (is, says, mends) = found(&doctor(&["env"], &[])?, "dns port")?;
    ensure!(is == "fail" && says.contains("port 53") && mends.contains("bind"), "{is}, {says}, {mends}");
    drop(everywhere);
    // What people read: the same, with the way to mend it beneath, and a sentence at the end.
    let said = run(&machine, &["env"], &["doctor", "--containerd-socket", "/no/such"])?;
    let lines = said.out.lines().collect::<Vec<_>>();
    let at = lines.iter().position(|line| line.starts_with("FAIL  containerd")).context(said.to_string())?;
    ensure!(lines.get(at + 1).is_some_and(|line| line.contains("-> apt-get install containerd")), "{said}");
    ensure!(said.err.contains("does not work on this machine until"), "{said}");
    machine.close()
}

#[test]
fn a_daemon_on_a_machine_that_lacks_something_says_so_and_leaves_nothing() -> Result<()> {
    let machine = Machine::prepare(&unique("lacking"), &[])?;
    let before = Census::take(&machine)?;
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let deaf = machine.sandbox.dir().join("deaf.sock");
    drop(std::os::unix::net::UnixListener::bind(&deaf)?);
    let deaf = deaf.display().to_string();
    for (words, more, code, exit, what) in [
        (lacking("umount -a -t bpf").to_vec(), &[][..], "E-KERN-001", 1, "mount -t bpf"),
        (lacking("mount -t tmpfs tmpfs /sys/kernel/btf").to_vec(), &[], "E-KERN-001", 1, "/sys/kernel/btf/vmlinux"),
        (own(&["setarch", "--uname-2.6"]), &[], "E-KERN-001", 1, "6.1 or newer is needed"),
        (own(&["setpriv", "--reuid", "65534", "--clear-groups"]), &[], "E-KERN-002", 5, "sudo hivemind daemon"),
        (own(&["setpriv", "--bounding-set", "-net_admin"]), &[], "E-KERN-002", 5, "CAP_NET_ADMIN"),
        (own(&["env"]), &["--cgroup-root", "/proc"], "E-KERN-001", 1, "/proc"),
        (own(&["env"]), &["--containerd-socket", "/no/such"], "E-RUN-001", 1, "/no/such"),
        (own(&["env"]), &["--containerd-socket", &deaf], "E-RUN-001", 1, "deaf.sock"),
        (own(&["env"]), &["--web-port", "5000"], "E-NET-003", 4, "5000"),
    ] {
        let shown = format!("{} … {}", words.join(" "), more.join(" "));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let flags = flags(&machine, more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let said = run(&machine, &words, &[&["daemon"][..], &flags].concat()).context(shown.clone())?;
        ensure!(said.code == exit && said.err.contains(&format!("error[{code}]")), "{shown}: {code}, {exit}: {said}");
        ensure!(said.err.contains(what) && said.err.contains("try: "), "{shown}: {what}: {said}");
        before.again(&machine).context(shown)?;
    }
    machine.close()
}
