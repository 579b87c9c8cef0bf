//! Wrong documents, with the words that their writers see.

use serde_json::{Value, json};

use crate::spec::v1::{AppSpec, ContainerSpec, validate_app};

/// The faults of an app whose container is `container`.
fn faults(container: Value) -> Vec<String> {
    let mut spec = AppSpec::new("web");
    spec.container = serde_json::from_value(container).expect("has the right types");
    validate_app(&spec)
}

#[test]
fn each_wrong_value_is_named_with_what_would_be_right() {
    let seventeen = "a.b".repeat(30);
    for (container, expected) in [
        (json!({"hostname": "-a"}), "container.hostname: \"-a\" is not a host name"),
        (json!({"hostname": ""}), "container.hostname: \"\" is not a host name: it must have 1"),
        (json!({"hostname": seventeen}), "is longer than 64 characters"),
        (json!({"domainname": "a..b"}), "container.domainname: \"a..b\" is not a host name"),
        (json!({"cap_add": ["NET_ADMINN"]}), "container.cap_add: \"NET_ADMINN\" is not a capability; write e.g. NET"),
        (json!({"cap_drop": [""]}), "container.cap_drop: \"\" is not a capability"),
        (json!({"cap_add": ["chown"], "cap_drop": ["CAP_CHOWN"]}), "container.cap_drop: CAP_CHOWN is added and taken"),
        (json!({"privileged": true, "cap_drop": ["ALL"]}), "a privileged container has all capabilities"),
        (json!({"security": {"seccomp": {"profile": {}}}}), "container.security.seccomp: is not a profile: missing"),
        (json!({"security": {"apparmor": "a b"}}), "container.security.apparmor: \"a b\" is not a profile's name"),
        (json!({"group_add": ["a:b"]}), "container.group_add: \"a:b\" is not a group's name or number"),
        (json!({"oom_score_adj": 1001}), "container.oom_score_adj: 1001 is not from -1000 to 1000"),
        (json!({"annotations": {"": "x"}}), "container.annotations: \"\" is empty"),
        (json!({"ulimits": {"files": {"soft": 1, "hard": 1}}}), "\"files\" is not a limit; write one of as, core"),
        (json!({"ulimits": {"nofile": {"soft": 2, "hard": 1}}}), "nofile: the soft limit 2 is above the hard one, 1"),
        (json!({"ulimits": {"nofile": {"soft": -1, "hard": 1}}}), "nofile: the soft limit -1 is above"),
        (json!({"ulimits": {"nofile": {"soft": -2, "hard": -2}}}), "nofile: a limit is 0 or more, or -1 for none"),
        (json!({"sysctls": {"kernel.panic": "1"}}), "\"kernel.panic\" is not a parameter of the container's own"),
        (json!({"sysctls": {"net/core/somaxconn": "1"}}), "\"net/core/somaxconn\" is not a parameter"),
        (json!({"sysctls": {"net...kernel.panic": "1"}}), "\"net...kernel.panic\" is not a parameter"),
        (json!({"sysctls": {"net.core.somaxconn": ""}}), "net.core.somaxconn: \"\" is not a value"),
        (json!({"tmpfs": [{"path": "run"}]}), "container.tmpfs: \"run\" is not absolute"),
        (json!({"tmpfs": [{"path": "/a/../proc"}]}), "\"/a/../proc\" has '.' or '..' in it"),
        (json!({"tmpfs": [{"path": "/proc/x"}]}), "\"/proc/x\" cannot be mounted over"),
        (json!({"tmpfs": [{"path": "/"}]}), "\"/\" cannot be mounted over"),
        (json!({"tmpfs": [{"path": "/a"}, {"path": "/a/"}]}), "/a/ is there twice"),
        (json!({"tmpfs": [{"path": "/a", "mode": "rwx"}]}), "/a: \"rwx\" is not a mode in octal; write e.g. 1777"),
        (json!({"tmpfs": [{"path": "/a", "mode": "17777"}]}), "/a: \"17777\" is not a mode"),
        (json!({"tmpfs": [{"path": "/a", "size": "1"}]}), "/a: the size 1 is below the minimum of 4Ki"),
        (json!({"tmpfs": [{"path": "/dev/shm", "size": "1Mi"}], "shm_size": "1Mi"}), "/dev/shm has its size from shm"),
        (json!({"shm_size": "0"}), "container.shm_size: 0 is below the minimum of 4Ki"),
        (json!({"devices": [{"host": "fuse"}]}), "container.devices: \"fuse\" is not an absolute path"),
        (json!({"devices": [{"host": "/dev/../etc"}]}), "\"/dev/../etc\" is not an absolute path"),
        (json!({"devices": [{"host": "/dev/a", "permissions": "x"}]}), "/dev/a: \"x\" is not some of rwm"),
        (json!({"devices": [{"host": "/dev/a", "permissions": "rr"}]}), "/dev/a: \"rr\" is not some of rwm"),
        (json!({"cdi": ["nvidia"]}), "container.cdi: \"nvidia\" is not a device's name; write VENDOR/CLASS=NAME"),
        (json!({"cdi": ["a/b/c=d"]}), "\"a/b/c=d\" is not a device's name"),
        (json!({"extra_hosts": [{"name": "a b", "address": "::1"}]}), "container.extra_hosts: \"a b\" is not a host"),
        (json!({"extra_hosts": [{"name": "a", "address": "b"}]}), "a: \"b\" is not an address; write an IP address"),
        (json!({"dns": {"servers": ["::1", "::2", "::3", "::4"]}}), "container.dns.servers: 4 are more than 3"),
        (json!({"dns": {"servers": ["0.0.0.0"]}}), "container.dns.servers: 0.0.0.0 is not a server's address"),
        (json!({"dns": {"search": ["a b"]}}), "container.dns.search: \"a b\" is not a domain"),
        (json!({"dns": {"search": [".", "a"]}}), "container.dns.search: '.' means no domain, and stands alone"),
        (json!({"dns": {"options": ["a b"]}}), "container.dns.options: \"a b\" is not an option; write e.g. ndots:2"),
        (json!({"hooks": {"post_start": [{"command": []}]}}), "container.hooks.post_start: the command is empty"),
        (json!({"hooks": {"pre_stop": [{"command": ["a"], "timeout_seconds": 0}]}}), "timeout_seconds 0 is not from 1"),
        (json!({"hooks": {"pre_stop": [{"command": ["a"], "workdir": "b"}]}}), "workdir \"b\" is not absolute"),
        (json!({"hooks": {"pre_stop": [{"command": ["a"], "env": {"=": ""}}]}}), "\"=\" is not a variable's name"),
        (json!({"hooks": {"pre_stop": [{"command": ["a\0"]}]}}), "container.hooks.pre_stop: contains a NUL"),
        (json!({"hooks": {"pre_start": [{}]}}), "container.hooks.pre_start: has no image and no command"),
        (json!({"hooks": {"pre_start": [{"command": []}]}}), "the command is an empty list"),
        (json!({"hooks": {"pre_start": [{"image": "a b"}]}}), "\"a b\" is not an image"),
        (json!({"hooks": {"pre_start": [{"image": "a", "workdir": "b"}]}}), "workdir \"b\" is not absolute"),
        (json!({"hooks": {"pre_start": [{"image": "a", "env": {"": "b"}}]}}), "\"\" is not a variable's name"),
        (json!({"hooks": {"pre_start": [{"args": ["\0"]}]}}), "contains a NUL"),
    ] {
        let found = faults(container.clone());
        assert!(found.len() == 1 && found[0].contains(expected), "{container}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn all_faults_are_collected() {
    let found = faults(json!({
        "hostname": "-",
        "cap_add": ["X"],
        "tmpfs": [{"path": "x", "mode": "9"}],
        "devices": [{"host": "x", "permissions": ""}],
        "dns": {"options": [""]},
    }));
    let fields: Vec<_> = found.iter().map(|fault| fault.split(':').next().expect("a field")).collect();
    let expected = ["hostname", "cap_add", "tmpfs", "tmpfs", "devices", "devices", "dns.options"];
    assert_eq!(fields, expected.map(|field| format!("container.{field}")));
}

#[test]
fn what_is_right_is_not_refused() {
    let all = json!({
        "hostname": "Web_1.example", "domainname": "example.org", "read_only": true, "cap_add": ["all"],
        "cap_drop": ["cap_net_raw", "CHOWN"],
        "security": {"seccomp": "unconfined", "no_new_privileges": false, "apparmor": "docker-default"},
        "ulimits": {"nofile": {"soft": 1024, "hard": -1}, "core": {"soft": 0, "hard": 0}},
        "tmpfs": [{"path": "/run", "size": "64Mi", "mode": "0755", "uid": 1, "gid": 2, "exec": true}, {"path": "/dev/shm"}],
        "shm_size": "128Mi", "sysctls": {"net.ipv4.conf.eth0.arp_filter": "1", "kernel.shmmax": "65536"}, "init": true,
        "devices": [{"host": "/dev/fuse"}, {"host": "/dev/sda", "container": "/dev/xvda", "permissions": "r"}],
        "cdi": ["nvidia.com/gpu=all", "vendor.example/net-card=0"],
        "extra_hosts": [{"name": "db", "address": "2001:db8::1"}, {"name": "node", "address": "host-gateway"}],
        "dns": {"servers": ["192.0.2.1"], "search": ["example.org."], "options": ["ndots:2", "use-vc"]},
        "tty": true, "stdin_open": true, "group_add": ["audio", "44"], "oom_score_adj": -500,
        "hooks": {"post_start": [{"command": ["true"]}], "pre_stop": [{"command": ["sh", "-c", "x"], "user": "0"}]},
        "annotations": {"example.org/note": ""},
    });
    assert_eq!(faults(all.clone()), Vec::<String>::new());
    assert_eq!(faults(json!({"dns": {"search": ["."]}})), Vec::<String>::new());
    let spec: ContainerSpec = serde_json::from_value(all).expect("is one");
    let fields = ["cap_add", "security.seccomp", "security.apparmor", "devices", "cdi", "oom_score_adj", "annotations"];
    assert_eq!(spec.operator_only(), fields);
    assert_eq!(ContainerSpec::default().operator_only(), Vec::<&str>::new());
    let added = ContainerSpec { cap_add: vec!["net_raw".into()], ..ContainerSpec::default() };
    assert_eq!(added.operator_only(), Vec::<&str>::new(), "it has that capability without a word");
}

#[test]
fn a_document_without_a_container_is_as_it_was_before_there_was_one() {
    let document = r#"{"image":"web","replicas":1,"resources":{},"restart":"always","stop":{"grace_seconds":10},"pull":"if-missing"}"#;
    let spec: AppSpec = serde_json::from_str(document).expect("is read");
    assert_eq!(spec, AppSpec::new("web"));
    assert_eq!(serde_json::to_string(&spec).expect("is written"), document);
    let refused = serde_json::from_str::<AppSpec>(r#"{"image":"web","container":{"capadd":[]}}"#).expect_err("refused");
    assert!(refused.to_string().contains("capadd"), "{refused}");
}
