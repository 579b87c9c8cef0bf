//! What services become, and what is refused or told.

use serde_json::json;

use super::{
    super::{build::When, tests::Bundle},
    *,
};
use hivemind_core::model::Hidden;

fn translated(text: &str) -> Translated {
    match translate(&Bundle::of(text).load().expect("a good document"), &Options::default()) {
        Ok(made) => made,
        Err(found) => panic!("{text}\nis refused:\n{:#?}", found.faults),
    }
}

fn refused(text: &str) -> Vec<String> {
    match translate(&Bundle::of(text).load().expect("a good document"), &Options::default()) {
        Ok(_) => panic!("{text}\nis taken"),
        Err(found) => found.faults.iter().map(ToString::to_string).collect(),
    }
}

fn warned(text: &str) -> Vec<String> {
    translated(text).warnings.iter().map(ToString::to_string).collect()
}

/// The one service `web` with more lines.
fn web(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("name: shop\nservices:\n  web:\n    image: web:1\n{lines}")
}

fn spec(lines: &str) -> AppSpec {
    translated(&web(lines)).apps.remove(&"web".parse().expect("a name")).expect("an app")
}

#[test]
fn a_service_is_an_app_with_all_that_it_says() {
    let text = "\
command: serve --port 80
environment: {A: '1', B: }
user: '1:2'
working_dir: /srv
ports: ['8080:80', '5353:53/udp', '9000-9001:9000-9001']
healthcheck: {test: [CMD, check], interval: 2s, timeout: 1s, retries: 4, start_period: 3s}
restart: unless-stopped
stop_signal: SIGQUIT
stop_grace_period: 1m30s
pull_policy: always
labels: {team: blue}
deploy: {replicas: 3, resources: {limits: {cpus: '0.5', memory: 64m, pids: 9}}}
networks: {default: {aliases: [www]}}
container_name: own";
    // A container's name is for one of them.
    let text = text.replace("replicas: 3, ", "");
    let document = serde_json::to_value(spec(&text)).expect("JSON");
    let expected = json!({
        "image": "web:1",
        "replicas": 1,
        "args": ["serve", "--port", "80"],
        "env": { "A": "1" },
        "user": "1:2",
        "workdir": "/srv",
        "resources": { "cpu": "500m", "memory": "64Mi", "pids": 9 },
        "ports": [
            { "target": 80, "published": 8080, "protocol": "tcp" },
            { "target": 53, "published": 5353, "protocol": "udp" },
            { "target": 9000, "published": 9000, "protocol": "tcp" },
            { "target": 9001, "published": 9001, "protocol": "tcp" },
        ],
        "networks": { "default": ["own", "www"] },
        "health": {
            "check": { "type": "exec", "command": ["check"] },
            "interval_ms": 2_000, "timeout_ms": 1_000, "healthy_after": 1, "unhealthy_after": 4, "start_period_ms": 3_000,
        },
        "restart": "always",
        "stop": { "signal": "SIGQUIT", "grace_seconds": 90 },
        "pull": "always",
        "labels": {
            "team": "blue", "hivemind.project": "shop", "hivemind.service": "web",
            "network.hivemind/default": "member",
        },
    });
    assert_eq!(document, expected);
}

#[test]
fn entry_point_and_command_are_the_images_unless_they_are_said() {
    let words = |lines: &str| {
        let spec = spec(lines);
        (spec.command, spec.args)
    };
    let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    for (lines, command, args) in [
        ("", None, None),
        ("command:", None, None),
        ("command: []", None, Some(vec![])),
        ("command: ''", None, Some(vec![])),
        ("command: sh -c 'a b'", None, list(&["sh", "-c", "a b"])),
        ("entrypoint: /run", list(&["/run"]), None),
        ("entrypoint: /run\ncommand: [x]", list(&["/run"]), list(&["x"])),
        ("entrypoint: []\ncommand: [a, b]", list(&["a", "b"]), None),
        ("entrypoint: ''\ncommand: a b", list(&["a", "b"]), None),
    ] {
        assert_eq!(words(lines), (command, args), "{lines}");
    }
    let faults = refused(&web("entrypoint: []"));
    assert!(faults[0].contains("say the whole command"), "{faults:?}");
}

#[test]
fn what_is_said_of_containers_is_said_of_the_apps() {
    let container = spec(
        "hostname: h\nread_only: true\ncap_drop: [ALL]\ncap_add: [CHOWN]\ninit: true\ntmpfs: ['/run:size=1m']\n\
         ulimits: {nofile: 9, nproc: {soft: 1, hard: 2}}\nextra_hosts: ['a:10.0.0.1']\nshm_size: 1m\n\
         security_opt: ['no-new-privileges:false']\npost_start: [{command: [a], environment: {X: y}}]\n\
         pre_start: [{image: i, command: b c}]\ndns: [10.0.0.53]\ngpus: all",
    )
    .container;
    let expected = json!({
        "hostname": "h", "read_only": true, "cap_add": ["CHOWN"], "cap_drop": ["ALL"],
        "security": { "no_new_privileges": false },
        "ulimits": { "nofile": { "soft": 9, "hard": 9 }, "nproc": { "soft": 1, "hard": 2 } },
        "tmpfs": [{ "path": "/run", "size": "1Mi" }], "shm_size": "1Mi", "init": true,
        "cdi": ["nvidia.com/gpu=all"],
        "extra_hosts": [{ "name": "a", "address": "10.0.0.1" }], "dns": { "servers": ["10.0.0.53"] },
        "hooks": {
            "pre_start": [{ "image": "i", "args": ["b", "c"] }],
            "post_start": [{ "command": ["a"], "timeout_seconds": 30, "env": { "X": "y" } }],
        },
    });
    assert_eq!(serde_json::to_value(container).expect("JSON"), expected);
}

#[test]
fn a_profile_of_system_calls_comes_out_of_its_file() {
    let text = |file: &str| format!("{}#file own.json\n{file}\n", web("security_opt: ['seccomp:./own.json']"));
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}"#;
    let apps = translated(&text(profile)).apps;
    let security = &apps.values().next().expect("an app").container.security;
    assert_eq!(security.seccomp, v1::Seccomp::Profile(serde_json::from_str(profile).expect("JSON")));
    for (file, words) in [
        ("{", "services.web.security_opt[0]: /p/own.json is not JSON"),
        ("{}", "container.security.seccomp: is not a profile: missing"),
        (r#"{"defaultAction": "ALLOW"}"#, "container.security.seccomp: is not a profile: \"ALLOW\""),
    ] {
        let faults = refused(&text(file));
        assert!(faults.len() == 1 && faults[0].contains(words), "{file}: {faults:?}");
    }
    assert!(spec("security_opt: ['seccomp=unconfined']").container.security.seccomp == v1::Seccomp::Unconfined);
}

#[test]
fn how_much_of_a_log_is_kept() {
    let logging = |lines: &str| serde_json::to_value(spec(&format!("logging: {lines}")).logging).expect("JSON");
    let kept = json!({ "max_size": "10Mi", "max_files": 5 });
    assert_eq!(logging("{driver: json-file, options: {max-size: 10m, max-file: '5'}}"), kept);
    assert_eq!(logging("{options: {max-size: 10m, max-file: 5, tag: x}}"), kept);
    assert_eq!(logging("{driver: syslog, options: {max-size: 10m}}"), json!({}));
    assert_eq!(logging("{driver: local, options: {max-size: '-1', max-age: 60}}"), json!({ "max_age_seconds": 60 }));
    let faults = refused(&web("logging: {options: {max-size: much}}"));
    assert!(faults[0].contains("max-size: \"much\" is not an amount"), "{faults:?}");
}

#[test]
fn volumes_are_mounted_and_what_shares_one_is_replaced_old_one_first() {
    let mounts = |lines: &str| {
        let made = translated(&(web(lines) + "volumes: {data: }\n"));
        let spec = &made.apps[&"web".parse::<AppName>().expect("a name")];
        (serde_json::to_value(&spec.mounts).expect("JSON"), spec.update.order.as_str())
    };
    assert_eq!(
        mounts("volumes: ['data:/d', '/srv:/s:ro', '/tmp/anonymous']"),
        (
            json!([
                { "target": "/d", "source": { "type": "volume", "name": "data" } },
                { "target": "/s", "source": { "type": "bind", "path": "/srv", "create": true }, "read_only": true },
                { "target": "/tmp/anonymous", "source": { "type": "volume" } },
            ]),
            "stop-first"
        )
    );
    assert_eq!(mounts("volumes: ['/srv:/s:ro', '/own']").1, "start-first");
    assert_eq!(mounts("volumes: ['data:/d']\ndeploy: {update_config: {order: start-first}}").1, "start-first");
    assert_eq!(mounts("deploy: {update_config: {parallelism: 2}}").1, "stop-first");
}

#[test]
fn volumes_are_the_projects_or_of_elsewhere() {
    let text = web("volumes: ['data:/d', 'theirs:/t', 'plain:/p']")
        + "volumes:\n  data: {driver_opts: {size: 64m}, labels: {team: blue}}\n  plain:\n  unused: {external: true}\n  \
           theirs: {external: true, name: archive}\n";
    let made = translated(&text);
    let volumes = serde_json::to_value(&made.volumes).expect("JSON");
    assert_eq!(volumes, json!({ "data": { "size": "64Mi", "labels": { "team": "blue" } }, "plain": {} }));
    assert_eq!(made.external_volumes.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["archive"]);
    let mounts = made.apps.values().flat_map(|app| &app.mounts).filter_map(|mount| mount.volume());
    assert_eq!(mounts.map(|name| name.as_str()).collect::<Vec<_>>(), ["data", "archive", "plain"]);
    let faults = refused(&(web("volumes: ['data:/d']") + "volumes: {data: {driver_opts: {type: nfs, size: big}}}\n"));
    assert!(faults.len() == 2 && faults[1].contains("\"big\" is no size"), "{faults:?}");
    assert!(faults[0].contains("volumes.data.driver_opts.type: volumes take only size here"), "{faults:?}");
}

#[test]
fn without_a_word_a_service_is_not_started_again() {
    use hivemind_core::spec::v1::RestartPolicy as Policy;
    for (lines, policy) in [
        ("", Policy::Never),
        ("restart: 'no'", Policy::Never),
        ("restart: always", Policy::Always),
        ("restart: unless-stopped", Policy::Always),
        ("restart: on-failure:3", Policy::OnFailure),
        ("deploy: {restart_policy: {condition: none}}", Policy::Never),
        ("deploy: {restart_policy: {condition: on-failure}}", Policy::OnFailure),
        ("deploy: {restart_policy: {}}", Policy::Always),
        ("restart: 'no'\ndeploy: {restart_policy: {condition: any}}", Policy::Always),
    ] {
        assert_eq!(spec(lines).restart, policy, "{lines}");
    }
}

#[test]
fn what_is_not_honoured_is_told_with_its_place() {
    assert_eq!(
        warned(&web("ports: ['80']\nrestart: on-failure:3\nplatform: linux/amd64\ntty: false")),
        [
            "compose.yaml:5:13: services.web.ports[0]: no port of the node is chosen by itself: other services reach it, \
             the outside does not. Write PUBLISHED:PORT",
            "compose.yaml:6:5: services.web.restart: it is tried again without end, with growing pauses: the number is ignored",
            "compose.yaml:7:5: services.web.platform: The variant for the node's own platform is taken.",
        ]
    );
}

#[test]
fn the_network_of_another_service_is_refused_with_what_there_is_instead() {
    let faults =
        refused("name: shop\nservices:\n  web: {image: web}\n  proxy: {image: proxy, network_mode: 'service:web'}\n");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("services.proxy.network_mode: service:web is not known here"), "{faults:?}");
    assert!(faults[0].contains("a sidecar (hivemind app deploy --sidecar)"), "{faults:?}");
}

#[test]
fn what_would_make_a_service_wrong_is_refused_with_its_place() {
    for (lines, fault) in [
        ("ports: ['80:80/sctp']", "5:13: services.web.ports[0]: sctp is not published"),
        ("ports: ['10.1.2.3:80:80']", "5:13: services.web.ports[0]: a port is published on all addresses of the node"),
        (
            "ports: ['127.0.0.1:80:80', '81:81']",
            "5:5: services.web.ports: 1 of 2 ports are for the node's loopback only",
        ),
        ("network_mode: host", "5:5: services.web.network_mode: host is not known here"),
        ("cpuset: '0'", "5:5: services.web.cpuset: Instances are not bound to single CPUs. Use cpus."),
        (
            "labels: {hivemind.project: x}",
            "5:5: services.web.labels: hivemind.project is a label that is set by itself",
        ),
        ("mem_limit: 1k", "3:3: services.web: resources.memory: 1Ki is below the minimum of 6Mi"),
        ("deploy: {mode: global-job}", "5:14: services.web.deploy.mode: global-job is not known here"),
    ] {
        let faults = refused(&web(lines));
        assert_eq!(faults.len(), 1, "{lines}: {faults:?}");
        assert!(faults[0].starts_with(&format!("compose.yaml:{fault}")), "{lines}: {faults:?}");
    }
}

#[test]
fn a_port_of_the_loopback_is_for_the_node_alone() {
    let spec = spec("ports: ['127.0.0.1:8080:80', '[::1]:8081:81']");
    let ranges: Vec<_> = spec.balance.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["127.0.0.0/8", "::1/128"]);
}

#[test]
fn names_are_dns_labels_and_stay_known_as_they_were() {
    let made = translated("name: shop\nservices:\n  My_Db: {image: a}\n  web: {image: b, depends_on: [My_Db]}\n");
    assert_eq!(made.names["My_Db"].as_str(), "my-db");
    let db = &made.apps[&"my-db".parse::<AppName>().expect("a name")];
    assert_eq!(db.networks["default"], ["My_Db".to_owned()].into());
    let web = &made.apps[&"web".parse::<AppName>().expect("a name")];
    assert_eq!(web.depends_on.keys().map(AppName::as_str).collect::<Vec<_>>(), ["my-db"]);
    let faults = refused("services:\n  a_b: {image: a}\n  a-b: {image: b}\n");
    assert!(faults[0].contains("would both be the app a-b"), "{faults:?}");
}

#[test]
fn networks_are_kept_apart_by_policies() {
    let made = translated(
        "name: shop\nservices:\n  web: {image: a, networks: [front, back], ports: ['80:80']}\n  \
         db: {image: b, networks: [back]}\nnetworks: {front: , back: {internal: true}}\n",
    );
    let policy = |name: &str| serde_json::to_value(&made.policies[&name.parse::<PolicyName>().expect("a name")]);
    let member = |network: &str| {
        let expressions = json!([{ "key": format!("network.hivemind/{network}"), "operator": "Exists" }]);
        json!({ "instances": { "instances": { "expressions": expressions } } })
    };
    let db = policy("project-db").expect("JSON");
    assert_eq!(db["instances"]["labels"], json!({ "hivemind.project": "shop", "hivemind.service": "db" }));
    assert_eq!(db["ingress"], json!([{ "peers": [member("back")] }]));
    assert_eq!(db["egress"], json!([{ "peers": [member("back")] }]), "it is in internal networks only");
    let web = policy("project-web").expect("JSON");
    assert_eq!(web["ingress"][0]["peers"], json!([member("back"), member("front")]));
    assert_eq!(web["ingress"][1]["ports"], json!([{ "protocol": "tcp", "port": [80, 80] }]));
    assert!(web.get("egress").is_none());
}

#[test]
fn a_network_with_a_name_of_its_own_is_shared() {
    let made = translated(
        "name: shop\nservices:\n  web: {image: a, networks: [proxy, named, own]}\n\
         networks: {proxy: {external: true}, named: {name: x}, own: }\n",
    );
    let web = &made.apps[&"web".parse::<AppName>().expect("a name")];
    assert_eq!(web.networks.keys().collect::<Vec<_>>(), ["own", "shared/proxy", "shared/x"]);
    assert!(web.labels.contains_key("shared-network.hivemind/proxy"), "{:?}", web.labels);
    let policy =
        serde_json::to_value(&made.policies[&"project-web".parse::<PolicyName>().expect("a name")]).expect("JSON");
    let namespaces: Vec<_> =
        (0..3).map(|at| policy["ingress"][0]["peers"][at]["instances"].get("namespaces").cloned()).collect();
    assert_eq!(namespaces, [None, Some(json!({})), Some(json!({}))], "{policy}");
}

#[test]
fn who_comes_first_is_waited_for_as_said() {
    let made = translated(
        "name: shop\nservices:\n  web:\n    image: a\n    links: ['db:sql']\n    depends_on:\n      \
         job: {condition: service_completed_successfully}\n      cache: {condition: service_healthy, restart: true}\n      \
         gone: {condition: service_started, required: false}\n  db: {image: b}\n  job: {image: c}\n  cache: {image: d}\n  \
         gone: {image: e, profiles: [x]}\n",
    );
    let of = |name: &str| made.apps[&name.parse::<AppName>().expect("a name")].clone();
    assert_eq!(
        serde_json::to_value(of("web").depends_on).expect("JSON"),
        json!({
            "cache": { "condition": "healthy", "restart": true },
            "db": { "condition": "started" },
            "job": { "condition": "completed" },
        })
    );
    assert_eq!(of("db").networks["default"], ["sql".to_owned()].into());
    assert_eq!(made.others.iter().map(AppName::as_str).collect::<Vec<_>>(), ["gone"]);
    let faults = refused(
        "services:\n  a: {image: a, depends_on: {b: {condition: service_completed_successfully}}}\n  \
         b: {image: b, restart: always}\n",
    );
    assert!(faults[0].contains("so that it never completes"), "{faults:?}");
}

#[test]
fn every_key_that_the_table_refuses_is_refused() {
    // One word of each kind that the schema takes there.
    let values = ["x", "1", "true", "[x]", "{x: 1}", "{x: y}", "[{x: y}]", "1m"];
    let mut tried = 0;
    for row in matrix::rows() {
        let Some(key) = row.key.strip_prefix("services.*.").filter(|key| !key.contains(['.', '[', '*'])) else {
            continue;
        };
        let (Stance::Refused(words) | Stance::Ignored(words)) = row.stance else { continue };
        let lines = values.iter().map(|value| web(&format!("{key}: {value}")));
        let Some(loaded) = lines.filter_map(|text| Bundle::of(&text).load().ok()).next() else { continue };
        let told = match translate(&loaded, &Options::default()) {
            Ok(made) => made.warnings,
            Err(found) => found.faults,
        };
        assert!(told.iter().any(|fault| fault.message == words), "{key}: {told:?}");
        tried += 1;
    }
    assert!(tried > 10, "only {tried} keys could be tried");
}

#[test]
fn secrets_and_configs_are_files_of_who_is_granted_them() {
    let made = translated(
        "#env TOKEN=abc
#file compose.yaml
name: shop
services:
  web:
    image: web:1
    secrets: [token, {source: key, target: /k, uid: '5', mode: 0400}]
    configs: [{source: theirs, target: dir/file}]
  off: {image: web:1, profiles: [x], secrets: [unused]}
secrets:
  token: {environment: TOKEN}
  key: {file: ./key, labels: {team: blue}}
  unused: {file: ./none}
configs:
  theirs: {external: true, name: site}
#file key
secret
",
    );
    let data = |text: &str| Hidden(text.as_bytes().to_vec());
    let names: Vec<_> = made.secrets.iter().map(|(name, it)| (name.as_str(), it.data.clone())).collect();
    assert_eq!(names, [("key", data("secret\n")), ("token", data("abc"))]);
    assert!(made.configs.is_empty(), "{:?}", made.configs);
    let app = &made.apps[&"web".parse::<AppName>().expect("a name")];
    let files: Vec<_> = app.secrets.iter().chain(&app.configs).map(ToString::to_string).collect();
    assert_eq!(files, ["token:token", "key:/k", "site:dir/file"]);
    assert_eq!((app.secrets[1].uid, app.secrets[1].mode.0), (5, 0o400));
    let text = web("secrets: [{source: s, uid: www-data}]") + "secrets: {s: {environment: S}}\n";
    let faults = refused(&format!("#env S=1\n#file compose.yaml\n{text}"));
    assert!(faults.len() == 1 && faults[0].contains("secrets[0].uid: \"www-data\" is no number"), "{faults:?}");
}

#[test]
fn what_is_built_has_a_name_and_one_build() {
    let text = "name: shop
services:
  own: {build: .}
  named: {image: 'team/app:1', build: .}
  same: {image: 'team/app:1', build: ., pull_policy: build}
  off: {image: db, pull_policy: never, build: {context: sub, tags: ['db:2']}, platform: linux/amd64}
";
    let made = translated(text);
    let of = |image: &str| &made.builds[image];
    assert_eq!(made.builds.len(), 3);
    let own = of("shop-own");
    assert_eq!((own.image.as_str(), own.when, own.context.as_str()), ("shop-own", When::Missing, "/p"));
    let named = of("team/app:1");
    assert_eq!((named.image.as_str(), named.when), ("team/app:1", When::Always));
    assert_eq!(named.services, ["named", "same"]);
    let off = of("db");
    assert_eq!((off.when, &off.platforms[..]), (When::Missing, &["linux/amd64".to_owned()][..]));
    assert!(made.apps.values().all(|app| app.pull == PullPolicy::Never), "what is built is never fetched");
    let pulled = Options { pull: Some(PullPolicy::Always), ..Options::default() };
    let made = translate(&Bundle::of(text).load().expect("good"), &pulled).expect("is taken");
    assert!(made.apps.values().all(|app| app.pull == PullPolicy::Never));
}

#[test]
fn what_cannot_be_built_is_refused_with_its_place() {
    for (lines, fault) in [
        ("a: {image: 'x@sha256:0', build: .}", "a.image: the image names a digest"),
        ("a: {image: x, build: .}\n  b: {image: x, build: sub}", "b.build: a has another build for the image x"),
        ("a: {build: {context: ., secrets: [out]}}", "a.build.secrets[0]: out is external"),
        (
            "a: {build: {additional_contexts: {o: 'service:b'}}}\n  b: {build: .}",
            "additional_contexts.o: an image that is built",
        ),
        (
            "a: {platform: linux/amd64, build: {platforms: [linux/arm64]}}",
            "a.build.platforms: the service is to run as",
        ),
        ("a: {build: {context: ., privileged: true}}", "a.build.privileged: Builds have no rights"),
    ] {
        let faults = refused(&format!("name: shop\nservices:\n  {lines}\nsecrets: {{out: {{external: true}}}}\n"));
        assert!(faults.iter().any(|said| said.contains(fault)), "{fault:?}: {faults:?}");
    }
}

#[test]
fn what_only_builds_see_is_not_sent() {
    let text = "name: shop\nservices:\n  a: {secrets: [seen], build: {context: ., secrets: [token, seen]}}\n\
                secrets: {token: {environment: T}, seen: {environment: T}}\n#env T=1\n";
    let names: Vec<_> = translated(text).secrets.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["seen"]);
}
