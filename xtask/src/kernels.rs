//! `cargo xtask kernels`: the programs on other kernels than this machine's. Each is booted in QEMU, without hardware
//! help, with nothing but a small file system in memory, and runs the tests of the data plane that need no more: the
//! packet tables and the traffic in namespaces. Kernels before 6.6 have no TCX, so the other way of attaching is used.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::{deb, shell, wait::Stopwatch};

use crate::{build, setup};

/// Kernels by package, and `/suite` where it is not of the machine's own: the oldest that is supported comes first, the
/// newest that Debian has last.
const KERNELS: [&str; 3] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64/sid"];
/// The test programs of the `tests` crate that are run.
pub(crate) const TESTS: [&str; 3] = ["packets", "dataplane", SYSTEM];
/// The one that runs whole machines.
const SYSTEM: &str = "system";
/// Which of its tests, unless others are asked for: those that show what only another kernel, or a machine with nothing but
/// cgroup2, does otherwise. Limits and what is used of them, pausing, kills for want of memory, what a container may.
const OF_SYSTEM: &str = "life:: options:: pause:: seen:: verbs:: doctor::";
/// Programs that they call, with the package of each.
const PROGRAMS: [(&str, &str); 5] =
    [("ip", "iproute2"), ("tc", "iproute2"), ("ss", "iproute2"), ("nft", "nftables"), ("dash", "dash")];
/// The same for whole machines.
const OF_MACHINES: [(&str, &str); 14] = [
    ("rm", "coreutils"),
    ("cp", "coreutils"),
    ("stat", "coreutils"),
    ("timeout", "coreutils"),
    ("find", "findutils"),
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("docker-registry", "docker-registry"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("curl", "curl"),
];
/// Parts of the kernel's modules that are taken along.
const MODULES: [&str; 8] = [
    "kernel/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/drivers/net",
    "kernel/drivers/block/loop",
    "kernel/fs/overlayfs",
    "kernel/arch",
    "modules.",
];
/// Modules that are loaded before the tests: what `ip` and `nft` do not ask for by themselves.
const LOADED: &str = "veth sch_ingress cls_bpf nf_tables nft_fib_inet nft_dup_ipv4 nft_dup_ipv6 nft_ct sch_fq overlay";
/// A kernel that has said nothing for so long has stopped. Everything is interpreted: slow is no fault.
const SILENCE: Duration = Duration::from_secs(300);

/// What is run on a kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chosen<'a> {
    /// One of the test programs; else all.
    pub(crate) only: Option<&'a str>,
    /// Tests whose names contain this; else all.
    pub(crate) filter: Option<&'a str>,
}

/// What the continuous integration has time for: the oldest kernel, single packets.
pub(crate) fn short() -> Result<()> {
    run(&[KERNELS[0].to_owned()], &Chosen { only: Some(TESTS[0]), filter: None })
}

/// Boots those packages; without any all kernels.
pub(crate) fn run(packages: &[String], chosen: &Chosen<'_>) -> Result<()> {
    setup::run_for_kernels()?;
    let qemu = shell::find("qemu-system-x86_64").context("QEMU is missing")?;
    let Chosen { only, filter } = *chosen;
    let names: Vec<&str> = TESTS.into_iter().filter(|test| only.is_none_or(|only| only == *test)).collect();
    let tests = tests(&names)?;
    let packages: Vec<&str> = match packages {
        [] => KERNELS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let mut failed = Vec::new();
    let mut table = String::from("| kernel | tests | attached by | seconds |\n| --- | --- | --- | --- |\n");
    for package in packages {
        let watch = Stopwatch::start();
        let kernel = Kernel::unpack(package)?;
        let root = file_system(&kernel, &tests, filter.unwrap_or_default())?;
        println!("\n== {}", kernel.version);
        let said = boot(&qemu, &kernel, &root)?;
        let (counts, ways) = said.outcome();
        let seconds = watch.elapsed().as_secs_f64();
        table += &format!("| {} | {counts} | {ways} | {seconds:.0} |\n", kernel.version);
        if !said.well(&names) {
            failed.push(kernel.version);
        }
    }
    println!("\n{table}");
    ensure!(failed.is_empty(), "not everything passed on {}", failed.join(", "));
    Ok(())
}

/// The test programs, built with the real eBPF programs inside.
fn tests(names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--all-features", "--package", "hivemind-tests", "--no-run", "--message-format=json"]);
    cargo.args(names.iter().flat_map(|test| ["--test", test]));
    let messages = shell::output(cargo.env(build::OBJECT, build::object()?))?;
    let built = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?;
        names.contains(&name).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    let built: Vec<_> = built.collect();
    ensure!(built.len() == names.len(), "cargo built {built:?} instead of {names:?}");
    Ok(built)
}

/// A kernel out of its package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

impl Kernel {
    /// `package`, or what it depends on if it has no kernel of its own.
    fn unpack(package: &str) -> Result<Self> {
        let (package, archive) = match package.split_once('/') {
            Some((package, suite)) => (package, deb::Archive::of(suite)?),
            None => (package, deb::Archive::own()),
        };
        let depends = |package: &str| -> Result<Vec<String>> {
            let listed = shell::output(archive.command("apt-cache").args(["depends", package]))?;
            Ok(listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
        };
        let real = depends(package)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let real = real.unwrap_or_else(|| package.to_owned());
        let version = real.trim_start_matches("linux-image-").to_owned();
        // Newer ones come in parts: image and modules are packages of their own.
        let parts = depends(&real)?.into_iter().filter(|part| part.starts_with("linux-") && part.ends_with(&version));
        let mut files = vec![archive.unpacked(&real)?];
        for part in parts {
            files.push(archive.unpacked(&part)?);
        }
        let find = |places: &[String]| {
            let all = files.iter().flat_map(|dir| places.iter().map(|place| dir.join(place)));
            all.into_iter().find(|path| path.exists()).with_context(|| format!("{real} has none of {places:?}"))
        };
        let image = find(&[format!("boot/vmlinuz-{version}"), format!("usr/lib/modules/{version}/vmlinuz")])?;
        let modules = find(&[format!("usr/lib/modules/{version}/kernel"), format!("lib/modules/{version}/kernel")])?;
        let modules = modules.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { modules, image, version })
    }
}

/// The file system in memory: busybox, the tests with their libraries, the kernel's modules, and what runs first.
fn file_system(kernel: &Kernel, tests: &[PathBuf], filter: &str) -> Result<PathBuf> {
    let root = shell::cache("kernels").join(&kernel.version);
    let machines = tests.iter().any(|test| name_of(test) == SYSTEM);
    // Made anew: it is small, and a test that was built again must be in it.
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for dir in ["bin", "proc", "sys", "dev", "tmp", "run", "tests", "var/tmp", "root"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let busybox = deb::program("busybox", "busybox-static")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    for other in ["sbin", "usr/bin", "usr/sbin"] {
        fs::create_dir_all(root.join(other).parent().unwrap_or(&root))?;
        symlink("/bin", root.join(other))?;
    }
    // Busybox's shell would take its own programs before those on the path.
    symlink("dash", root.join("bin/sh"))?;
    let mut libraries = BTreeSet::new();
    let of_machines: &[_] = if machines { &OF_MACHINES } else { &[] };
    for (name, package) in PROGRAMS.iter().chain(of_machines) {
        let program = deb::program(name, package)?;
        libraries.extend(shell::libraries(&program)?);
        copy(&program, &root.join("bin").join(name))?;
    }
    let mut built: Vec<_> = tests.iter().map(|test| (test.clone(), name_of(test))).collect();
    if machines {
        let testkit = build::testkit()?;
        built.extend([(build::run(false)?, "hivemind"), (testkit, "hivemind-testkit")]);
        // What images are made of, where the tests look for it.
        let busybox = deb::unpacked("busybox-static")?;
        shell::output(Command::new("mkdir").arg("-p").arg(root.join(busybox.strip_prefix("/")?)))?;
        shell::output(Command::new("cp").arg("-aT").arg(&busybox).arg(root.join(busybox.strip_prefix("/")?)))?;
    }
    for (program, name) in built {
        libraries.extend(shell::libraries(&program)?);
        let stripped = root.join("tests").join(name);
        shell::output(Command::new("strip").arg("-o").arg(&stripped).arg(&program))?;
    }
    for library in libraries {
        copy(&library, &root.join(library.strip_prefix("/")?))?;
    }
    let modules = root.join("lib/modules").join(&kernel.version);
    take(&kernel.modules, &kernel.modules, &modules)?;
    shell::output(Command::new(&busybox).args(["depmod", "-b"]).arg(&root).arg(&kernel.version))?;
    fs::write(root.join("modules"), LOADED)?;
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/hostname"), "machine\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    let names: Vec<_> = tests.iter().map(|test| name_of(test)).collect();
    for name in &names {
        let filter = if filter.is_empty() && *name == SYSTEM { OF_SYSTEM } else { filter };
        fs::write(root.join("tests").join(format!("{name}.filter")), filter)?;
    }
    fs::write(root.join("run-these"), names.join(" "))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let archive = shell::cache("kernels").join(format!("{}.cpio", kernel.version));
    let packed = fs::File::create(&archive)?;
    let pack = "find . | $0 cpio -o -H newc 2>/dev/null";
    let mut pack = Command::new("sh").args(["-c", pack]).arg(&busybox).current_dir(&root).stdout(packed).spawn()?;
    ensure!(pack.wait()?.success(), "cannot pack {}", root.display());
    Ok(archive)
}

/// `packets` of `…/packets-0123456789abcdef`.
fn name_of(test: &Path) -> &str {
    let name = test.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('-').next().unwrap_or_default()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

/// Copies the wanted parts of the modules.
fn take(top: &Path, dir: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let path = entry.path();
        let within = path.strip_prefix(top)?;
        let text = within.to_string_lossy();
        if path.is_dir() && MODULES.iter().any(|part| part.starts_with(&*text) || text.starts_with(part)) {
            take(top, &path, to)?;
        } else if path.is_file() && MODULES.iter().any(|part| text.starts_with(part)) {
            copy(&path, &to.join(within))?;
        }
    }
    Ok(())
}

/// What the kernel runs first. Debian names modules by what a device or a table needs, so `modprobe` finds the rest.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/root RUST_BACKTRACE=0
export HIVEMIND_BINARY=/tests/hivemind HIVEMIND_TESTKIT_BINARY=/tests/hivemind-testkit
# Containers change their root by pivot_root(2), which the first file system of a kernel refuses.
if [ ! -e /moved ]; then
    /bin/busybox mkdir /root.new && /bin/busybox mount -t tmpfs root /root.new
    for part in /*; do [ $part = /root.new ] || /bin/busybox cp -a $part /root.new; done
    echo yes > /root.new/moved
    exec /bin/busybox switch_root /root.new /init
fi
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
mkdir /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs tmp /var/tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
echo /bin/modprobe > /proc/sys/kernel/modprobe
for module in $(cat /modules); do modprobe $module || echo "no module $module"; done
ip link set lo up
cat /proc/version
export HIVEMIND_FUZZ_CASES=2000 HIVEMIND_NO_SKIP=1
for test in $(cat /run-these); do
    echo "== $test"
    # Single packets have no time to keep, streams have.
    threads=1; [ $test = packets ] && threads=2
    /tests/$test --test-threads=$threads --nocapture $(cat /tests/$test.filter) < /dev/null
    echo "== $test ended with $?"
done
poweroff -f
"#;

/// What a boot printed.
struct Said(Vec<String>);

impl Said {
    fn well(&self, names: &[&str]) -> bool {
        // A program that ran no test would end well, too.
        let none = self.0.iter().any(|line| line.starts_with("test result: ok. 0 passed"));
        !none && names.iter().all(|test| self.0.iter().any(|line| *line == format!("== {test} ended with 0")))
    }

    /// Counts of the tests, and how programs were attached.
    fn outcome(&self) -> (String, String) {
        let results = self.0.iter().filter_map(|line| line.strip_prefix("test result: "));
        let counts = results.map(|line| line.split("; 0 measured").next().unwrap_or(line));
        let counts = counts.collect::<Vec<_>>().join(" + ");
        let ways: BTreeSet<_> =
            self.0.iter().filter_map(|line| line.rsplit_once("attached by ")).map(|w| w.1).collect();
        let ways = ways.into_iter().collect::<Vec<_>>().join(" and ");
        (if counts.is_empty() { "it did not come to the tests".into() } else { counts }, ways)
    }
}

/// Boots and shows what is printed, until the machine turns itself off.
fn boot(qemu: &Path, kernel: &Kernel, root: &Path) -> Result<Said> {
    let mut command = Command::new(qemu);
    command.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "6144",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
    ]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(root);
    command.args(["-append", "console=ttyS0 earlyprintk=serial,ttyS0 loglevel=3 panic=-1 mitigations=off"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run QEMU")?;
    let out = child.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(out).split(b'\n').map_while(Result::ok).try_for_each(|line| sender.send(line).ok())
    });
    let mut said = Vec::new();
    let silent = loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                println!("{line}");
                said.push(line);
            }
            Err(error) => break error == std::sync::mpsc::RecvTimeoutError::Timeout,
        }
    };
    if silent {
        child.kill()?;
    }
    child.wait()?;
    drop(reader);
    if silent {
        bail!("{} has said nothing for {} s", kernel.version, SILENCE.as_secs());
    }
    Ok(Said(said))
}
