//! The specification of the plainest container, and what each option changes of it.

use std::collections::BTreeMap;

use super::{process::PATH, *};
use crate::types::{ExecSpec, Image, Mount, TtySize};
use hivemind_core::{
    model::{Bytes, InstanceId, MilliCpu},
    spec::v1::{Resources, all_capabilities},
};

fn image() -> Image {
    let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect();
    Image {
        reference: "docker.io/library/x:latest".to_owned(),
        digest: String::new(),
        chain_id: String::new(),
        entrypoint: words(&["/entry"]),
        cmd: words(&["serve"]),
        env: words(&["A=image", "HOME=/img"]),
        user: None,
        workdir: None,
        stop_signal: None,
        exposed: Vec::new(),
        volumes: Vec::new(),
        health: None,
    }
}

fn spec() -> ContainerSpec {
    ContainerSpec {
        id: InstanceId::from_bits(7).into(),
        image: image(),
        hostname: "web-1".to_owned(),
        command: None,
        args: None,
        env: BTreeMap::from([("A".to_owned(), "own".to_owned())]),
        user: None,
        workdir: Some("srv".to_owned()),
        resources: Resources { cpu: Some(MilliCpu(250)), memory: Some(Bytes(64 << 20)), pids: Some(9) },
        netns: "/run/netns/x".into(),
        resolv_conf: String::new(),
        mounts: Vec::new(),
        addresses: Vec::new(),
        extra_hosts: Vec::new(),
        logging: Default::default(),
        options: Default::default(),
        labels: BTreeMap::new(),
    }
}

fn user() -> ResolvedUser {
    ResolvedUser { uid: 5, gid: 6, extra_groups: vec![7], home: "/home/u".to_owned() }
}

/// A host whose daemon has all capabilities but one.
fn build(spec: &ContainerSpec) -> Result<Value, String> {
    let loaded = ["docker-default".to_owned()];
    let (gpio, disk) = (device("/dev/gpio0", false, 254), device("/dev/sda", true, 8));
    let all = [gpio, disk];
    let wanted: Vec<Device> =
        all.into_iter().filter(|device| spec.options.devices.iter().any(|asked| asked.host == device.path)).collect();
    let capabilities: Vec<String> =
        all_capabilities().filter(|name| *name != "CAP_SYS_RESOURCE").map(str::to_owned).collect();
    let host = Host {
        cgroup_parent: "/hivemind",
        files: Path::new("/run/h/x"),
        init: Path::new("/run/h/x/init"),
        input: Path::new("/run/l/x/stdin"),
        open_files: 4096,
        swap: true,
        seccomp: true,
        cgroup_namespace: true,
        arch: "amd64",
        kernel: (6, 1),
        capabilities: &capabilities,
        apparmor: spec.options.security.apparmor.is_some().then_some(&loaded),
        devices: &wanted,
        cdi: &[],
    };
    container(spec, &user(), &host)
}

fn device(path: &str, block: bool, major: u64) -> Device {
    let access = "rw".to_owned();
    Device { path: path.to_owned(), block, major, minor: 1, mode: 0o660, uid: 0, gid: 44, access }
}

/// The specification of the plainest container with these options.
fn with(options: Value) -> Result<Value, String> {
    let options = serde_json::from_value(options).expect("options");
    build(&ContainerSpec { options, ..spec() })
}

#[test]
fn is_a_valid_specification() {
    let value = build(&spec()).expect("builds");
    let typed: oci_spec::runtime::Spec = serde_json::from_value(value.clone()).expect("is one");
    let resources = typed.linux().as_ref().and_then(|l| l.resources().clone()).expect("has limits");
    assert_eq!(resources.cpu().as_ref().and_then(|c| c.quota()), Some(25_000));
    assert_eq!(resources.memory().and_then(|m| m.swap()), Some(64 << 20));
    let process = typed.process().as_ref().expect("has one");
    assert_eq!(process.cwd(), Path::new("/srv"));
    let env = [PATH, "HOSTNAME=web-1", "HOME=/img", "A=own"].map(str::to_owned).to_vec();
    assert_eq!(process.env(), &Some(env));
    let exec = ExecSpec {
        command: vec!["ls".to_owned()],
        env: vec!["A=exec".to_owned()],
        user: None,
        workdir: None,
        tty: Some(TtySize { rows: 24, cols: 80 }),
        stdin: true,
    };
    let process: oci_spec::runtime::Process =
        serde_json::from_value(exec_process(&value, &exec, None)).expect("is one");
    assert_eq!(process.terminal(), Some(true));
    assert!(process.env().as_ref().is_some_and(|e| e.contains(&"A=exec".to_owned())));
}

#[test]
fn rights_are_dockers_and_no_more() {
    let value = build(&spec()).expect("builds");
    // Written down again, from Docker's documentation: a right more is a decision.
    let rights = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID \
                  SETPCAP SETUID SYS_CHROOT";
    let rights: Vec<String> = rights.split_whitespace().map(|right| format!("CAP_{right}")).collect();
    let expected = json!({"bounding": rights, "effective": rights, "permitted": rights});
    assert_eq!(value["process"]["capabilities"], expected, "nothing inheritable, nothing ambient");
    assert_eq!(value["process"]["noNewPrivileges"], json!(true));
    assert_eq!(value["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [7]}));
    let exec = ExecSpec {
        command: vec!["id".to_owned()],
        env: Vec::new(),
        user: None,
        workdir: None,
        tty: None,
        stdin: false,
    };
    let other = ResolvedUser { uid: 8, gid: 9, extra_groups: vec![10, 11], home: "/".to_owned() };
    let process = exec_process(&value, &exec, Some(&other));
    assert_eq!(process["user"], json!({"uid": 8, "gid": 9, "additionalGids": [10, 11]}));
    assert_eq!(process["capabilities"], expected);
    assert_eq!(exec_process(&value, &exec, None)["user"], value["process"]["user"]);
}

#[test]
fn what_tells_of_or_changes_the_host_is_masked_or_read_only() {
    let linux = &build(&spec()).expect("builds")["linux"];
    let paths = |of: &str| -> Vec<String> { serde_json::from_value(linux[of].clone()).expect("a list") };
    let masked = paths("maskedPaths");
    for path in "acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats".split(' ') {
        assert!(masked.contains(&format!("/proc/{path}")), "{path}: {masked:?}");
    }
    assert!(masked.contains(&"/sys/firmware".into()) && masked.contains(&"/sys/devices/virtual/powercap".into()));
    let read_only = paths("readonlyPaths");
    for path in "bus fs irq sys sysrq-trigger".split(' ') {
        assert!(read_only.contains(&format!("/proc/{path}")), "{path}: {read_only:?}");
    }
}

#[test]
fn command_and_args_replace_as_docker_does() {
    let words = |w: &[&str]| Some(w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let args = |command: Option<Vec<String>>, args: Option<Vec<String>>| {
        build(&ContainerSpec { command, args, ..spec() }).map(|v| v["process"]["args"].clone())
    };
    assert_eq!(args(None, None), Ok(json!(["/entry", "serve"])));
    assert_eq!(args(None, words(&["b"])), Ok(json!(["/entry", "b"])));
    assert_eq!(args(words(&["a"]), None), Ok(json!(["a"])));
    assert_eq!(args(words(&["a"]), words(&["b"])), Ok(json!(["a", "b"])));
    assert!(args(words(&[]), None).is_err());
}

#[test]
fn without_options_it_is_what_it_was_before_there_were_any() {
    let value = build(&spec()).expect("builds");
    assert_eq!(value["process"]["terminal"], json!(false));
    let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]);
    assert_eq!(value["process"]["rlimits"], limit);
    assert_eq!(value["root"]["readonly"], json!(false));
    assert_eq!(value["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    for absent in ["/annotations", "/hooks", "/linux/devices", "/process/oomScoreAdj", "/process/apparmorProfile"] {
        assert_eq!(value.pointer(absent), None, "{absent}");
    }
}

#[test]
fn each_option_changes_its_part() {
    for (options, pointer, expected) in [
        (json!({"read_only": true}), "/root/readonly", json!(true)),
        (json!({"domainname": "example.org"}), "/linux/sysctl/kernel.domainname", json!("example.org")),
        (json!({"sysctls": {"net.core.somaxconn": "9"}}), "/linux/sysctl/net.core.somaxconn", json!("9")),
        (
            json!({"sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"}}),
            "/linux/sysctl/net.ipv4.ip_unprivileged_port_start",
            json!("1024"),
        ),
        (json!({"security": {"no_new_privileges": false}}), "/process/noNewPrivileges", json!(false)),
        (json!({"security": {"apparmor": "docker-default"}}), "/process/apparmorProfile", json!("docker-default")),
        (json!({"oom_score_adj": -7}), "/process/oomScoreAdj", json!(-7)),
        (json!({"tty": true}), "/process/terminal", json!(true)),
        (json!({"annotations": {"a.b": "c"}}), "/annotations/a.b", json!("c")),
        (json!({"init": true}), "/process/args", json!([INIT, "reap", "--", "/entry", "serve"])),
        (json!({"stdin_open": true}), "/process/args", json!([INIT, "hold", "--", "/entry", "serve"])),
        (json!({"stdin_open": true, "tty": true}), "/process/args", json!(["/entry", "serve"])),
        (
            json!({"ulimits": {"nofile": {"soft": 5, "hard": -1}, "core": {"soft": 0, "hard": -1}}}),
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX},
                {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 4096},
            ]),
        ),
        (
            json!({"devices": [{"host": "/dev/gpio0"}]}),
            "/linux/resources/devices",
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 254, "minor": 1, "access": "rw"},
            ]),
        ),
        (json!({"devices": [{"host": "/dev/sda"}]}), "/linux/devices/0/type", json!("b")),
    ] {
        let value = with(options.clone()).expect("builds");
        assert_eq!(value.pointer(pointer), Some(&expected), "{options}");
        serde_json::from_value::<oci_spec::runtime::Spec>(value).expect("is a valid specification");
    }
}

#[test]
fn capabilities_are_added_and_taken_away() {
    let of = |options: Value| -> Result<Vec<String>, String> {
        let caps = with(options)?["process"]["capabilities"]["bounding"].clone();
        Ok(serde_json::from_value(caps).expect("a list"))
    };
    assert_eq!(of(json!({"cap_drop": ["all"], "cap_add": ["net_raw"]})), Ok(vec!["CAP_NET_RAW".to_owned()]));
    let most = of(json!({"cap_drop": ["chown"], "cap_add": ["SYS_TIME"]})).expect("builds");
    assert!(most.contains(&"CAP_SYS_TIME".to_owned()) && !most.contains(&"CAP_CHOWN".to_owned()), "{most:?}");
    assert_eq!(most.len(), 14);
    assert_eq!(of(json!({"cap_add": ["ALL"]})).map(|all| all.len()), Ok(40), "all that the daemon has");
    assert_eq!(of(json!({"cap_add": ["ALL"], "cap_drop": ["SYS_ADMIN"]})).map(|all| all.len()), Ok(39));
    assert!(of(json!({"cap_add": ["SYS_RESOURCE"]})).expect_err("cannot be given").contains("CAP_SYS_RESOURCE"));
}

#[test]
fn what_the_node_does_not_have_is_an_error() {
    let why = with(json!({"security": {"apparmor": "own"}})).expect_err("is not loaded");
    assert!(why.contains("own is not loaded on this node"), "{why}");
}

#[test]
fn a_privileged_container_is_not_hidden_from() {
    let value = with(json!({"privileged": true})).expect("builds");
    assert_eq!(value["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    for absent in ["/linux/maskedPaths", "/linux/readonlyPaths", "/linux/seccomp"] {
        assert_eq!(value.pointer(absent), None, "{absent}");
    }
    assert_eq!(value["process"]["noNewPrivileges"], json!(false));
    assert_eq!(mount(&value, "/sys")["options"], json!(["nosuid", "noexec", "nodev", "rw"]));
}

fn mount(spec: &Value, at: &str) -> Value {
    let mut found = spec["mounts"].as_array().expect("a list").iter().filter(|mount| mount["destination"] == at);
    let mount = found.next().unwrap_or_else(|| panic!("nothing is mounted at {at}")).clone();
    assert!(found.next().is_none(), "twice at {at}");
    mount
}

#[test]
fn file_systems_in_memory_replace_what_is_there() {
    let tmpfs = json!([{"path": "/a/b"}, {"path": "/run/", "size": "1Mi", "mode": "755", "uid": 5, "exec": true}, {"path": "/a"}]);
    let value = with(json!({"tmpfs": tmpfs, "shm_size": "1Mi"})).expect("builds");
    assert_eq!(
        mount(&value, "/run")["options"],
        json!(["nosuid", "nodev", "exec", "mode=755", "size=1048576", "uid=5"])
    );
    assert_eq!(mount(&value, "/a/b")["options"], json!(["nosuid", "nodev", "noexec", "mode=1777"]));
    assert_eq!(mount(&value, "/dev/shm")["options"][4], "size=1048576");
    let paths: Vec<_> =
        value["mounts"].as_array().expect("a list").iter().map(|mount| mount["destination"].clone()).collect();
    let at = |path: &str| paths.iter().position(|other| other == path);
    assert!(at("/a") < at("/a/b"), "{paths:?}");
}

#[test]
fn the_hosts_file_has_everybody() {
    let mut spec = spec();
    spec.addresses = vec!["10.88.0.7".parse().expect("one"), "fd00::7".parse().expect("one")];
    spec.extra_hosts = vec![("db".to_owned(), "192.0.2.1".parse().expect("one"))];
    let first = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let rest = "10.88.0.7\tweb-1\nfd00::7\tweb-1\n192.0.2.1\tdb\n";
    assert_eq!(hosts(&spec), format!("{first}{rest}"));
    spec.options.domainname = Some("example.org".to_owned());
    assert!(hosts(&spec).contains("10.88.0.7\tweb-1.example.org web-1\n"), "{}", hosts(&spec));
}

#[test]
fn mounts_of_the_node_are_private_and_take_the_place_of_others() {
    let mount = |target: &str, read_only| Mount { source: "/v/data".into(), target: target.into(), read_only };
    let mounts = vec![mount("/run/secrets/x", true), mount("/run/", false)];
    let value = build(&ContainerSpec { mounts, ..spec() }).expect("builds");
    let mounts = value["mounts"].as_array().expect("a list");
    let shown: Vec<_> = mounts.iter().filter(|m| m["source"] == "/v/data").collect();
    let shown: Vec<_> = shown.iter().map(|m| (m["destination"].clone(), m["options"].clone())).collect();
    let expected = [
        (json!("/run"), json!(["rbind", "rprivate", "rw"])),
        (json!("/run/secrets/x"), json!(["rbind", "rprivate", "ro", "rro"])),
    ];
    assert_eq!(shown, expected);
    assert_eq!(mounts.iter().filter(|m| m["destination"] == "/run").count(), 1);
}
