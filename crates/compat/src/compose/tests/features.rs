//! One test for each feature, over the typed model: what the lines of the documents cannot say.

use std::time::Duration;

use super::{
    super::{
        files::{Disk, Files, Request},
        load,
        matrix::{self, Stance},
        model::{Mode, Size, service::Condition},
        short::Ports,
    },
    Bundle, faults, good,
};
use hivemind_core::model::Hidden;

fn ports(first: u16, last: u16) -> Option<Ports> {
    Some(Ports { first, last })
}

#[test]
fn leaves_have_their_units() {
    let project = good(
        "services:\n  a:\n    image: a\n    stop_grace_period: 1m30s\n    mem_limit: 512m\n    shm_size: 64\n    cpus: '1.5'\n\
         \x20   memswap_limit: -1\n    cpu_quota: 50ms\n    init: yes\n    pids_limit: 100.0\n    scale: '2'\n\
         \x20   ulimits: {nofile: 1024, core: {soft: -1, hard: '0x10'}}\n    oom_score_adj: '-5'\n\
         \x20   healthcheck: {test: x, interval: 1.5s, retries: '3', start_interval: 500ms}\n\
         \x20   configs: [{source: c, mode: 0440}, {source: c, target: /d, mode: '0400'}]\n\
         configs: {c: {content: x}}\n",
    )
    .project;
    let a = &project.services["a"];
    assert_eq!(a.stop_grace_period, Some(Duration::from_secs(90)));
    assert_eq!((a.mem_limit, a.shm_size, a.memswap_limit), (Some(Size(512 << 20)), Some(Size(64)), Some(Size(-1))));
    assert_eq!((a.cpus, a.init, a.pids_limit, a.scale), (Some(1.5), Some(true), Some(100), Some(2)));
    assert_eq!(
        (a.ulimits["nofile"].soft, a.ulimits["core"].soft, a.ulimits["core"].hard),
        (Some(1024), Some(-1), Some(16))
    );
    assert_eq!(a.oom_score_adj, Some(-5));
    let check = a.healthcheck.as_ref().unwrap();
    assert_eq!(check.test.as_deref(), Some(&["CMD-SHELL".to_owned(), "x".to_owned()][..]));
    assert_eq!((check.interval, check.retries), (Some(Duration::from_millis(1500)), Some(3)));
    assert_eq!(check.start_interval, Some(Duration::from_millis(500)));
    assert_eq!((a.configs[0].mode, a.configs[1].mode), (Some(Mode(0o440)), Some(Mode(0o400))));
}

#[test]
fn short_forms_are_long_ones() {
    let project = good(
        "services:\n  a:\n    image: a\n    command: sh -c 'a b'\n    entrypoint: []\n    dns: 1.1.1.1\n    networks: [n]\n\
         \x20   ports: ['127.0.0.1:8000-8001:80-81/udp', 9000, {target: 1, published: '2', mode: host}]\n\
         \x20   volumes: ['v:/v:ro', './x:/x', {type: tmpfs, target: /t, tmpfs: {size: 1g, mode: 1777}}]\n\
         \x20   depends_on: [b]\n    expose: [80, '81-82/udp']\n    group_add: [1, adm]\n  b: {build: .}\n\
         networks: {n: }\nvolumes: {v: }\n",
    )
    .project;
    let a = &project.services["a"];
    assert_eq!(a.command.as_deref().unwrap(), ["sh", "-c", "a b"]);
    assert_eq!(a.entrypoint.as_deref(), Some(&[][..]));
    assert_eq!((a.ports[0].published, a.ports[0].target), (ports(8000, 8001), ports(80, 81)));
    assert_eq!((a.ports[0].host_ip.as_deref(), a.ports[0].protocol.as_deref()), (Some("127.0.0.1"), Some("udp")));
    assert_eq!((a.ports[1].published, a.ports[1].target), (None, ports(9000, 9000)));
    assert_eq!((a.ports[2].published, a.ports[2].mode.as_deref()), (ports(2, 2), Some("host")));
    assert_eq!((a.volumes[0].kind.as_str(), a.volumes[0].read_only), ("volume", Some(true)));
    assert_eq!((a.volumes[1].kind.as_str(), a.volumes[1].source.as_deref()), ("bind", Some("/p/x")));
    let tmpfs = a.volumes[2].tmpfs.as_ref().unwrap();
    assert_eq!((tmpfs.size, tmpfs.mode), (Some(Size(1 << 30)), Some(Mode(1777))));
    assert_eq!(a.depends_on["b"].condition, Condition::Started);
    assert_eq!(
        (&a.expose[..], &a.group_add[..]),
        (&["80".into(), "81-82/udp".into()][..], &["1".into(), "adm".into()][..])
    );
    assert_eq!(project.services["b"].build.as_ref().unwrap().context.as_deref(), Some("/p"));
}

#[test]
fn variables_come_from_everywhere_in_order() {
    let project = good(
        "services:\n  a:\n    image: a\n    env_file: [one.env, {path: two.env, format: raw}]\n    label_file: l.env\n\
         \x20   labels: {x: own}\n    environment: [OWN=own, INHERITED, NONE, BOTH=own, UNSET]\n\
         #env INHERITED=env\n#env BASE=env\n\
         #file one.env\nONE=${BASE}-${OWN}-${EARLIER:-no}\nBOTH=file\nEARLIER=1\nUNSET=file\n#file two.env\nEARLIER='2'\n\
         #file l.env\nx=file\ny=file\n",
    )
    .project;
    let a = &project.services["a"];
    let value = |name: &str| a.environment[name].as_deref();
    assert_eq!(value("ONE"), Some("env-own-no"));
    assert_eq!(value("EARLIER"), Some("'2'"));
    assert_eq!((value("BOTH"), value("OWN"), value("INHERITED")), (Some("own"), Some("own"), Some("env")));
    assert_eq!((value("NONE"), value("UNSET")), (None, None));
    assert_eq!((a.labels["x"].as_str(), a.labels["y"].as_str()), ("own", "file"));
}

#[test]
fn everything_has_a_name_beyond_the_project() {
    let project = good(
        "name: shop\nservices: {a: {image: a}, b: {image: b, network_mode: none}}\n\
         volumes: {v: , w: {name: x}, e: {external: true}}\nsecrets: {s: {external: true}, t: {file: none}}\n",
    )
    .project;
    assert_eq!(project.name, "shop");
    assert_eq!(project.networks["default"].name.as_deref(), Some("shop_default"));
    let volume = |key: &str| project.volumes[key].name.as_deref();
    assert_eq!((volume("v"), volume("w"), volume("e")), (Some("shop_v"), Some("x"), Some("e")));
    assert_eq!(project.secrets["s"].name.as_deref(), Some("s"));
    assert!(project.services["a"].networks.contains_key("default"));
    assert!(project.services["b"].networks.is_empty());
}

#[test]
fn the_name_of_a_project_comes_from_the_nearest() {
    let name = |text: &str| good(text).project.name;
    let file = "services: {a: {image: a}}\n";
    assert_eq!(name(file), "p");
    assert_eq!(name(&format!("name: file\n{file}")), "file");
    assert_eq!(name(&format!("name: file\n{file}#env COMPOSE_PROJECT_NAME=env\n")), "env");
    assert_eq!(name(&format!("name: file\n{file}#env COMPOSE_PROJECT_NAME=env\n#name flag\n")), "flag");
    assert_eq!(name(&format!("name: file\n{file}#file compose.override.yaml\nname: later\n")), "later");
}

#[test]
fn profiles_enable_services() {
    let text = "services:\n  foo: {image: foo}\n  bar: {image: bar, profiles: [test]}\n\
                \x20 baz: {image: baz, depends_on: [bar], profiles: [test]}\n\
                \x20 zot: {image: zot, depends_on: [bar], profiles: [debug]}\n";
    let names = |more: &str| good(&format!("{text}{more}")).project.services.into_keys().collect::<Vec<_>>();
    assert_eq!(names(""), ["foo"]);
    assert_eq!(names("#profile test\n"), ["bar", "baz", "foo"]);
    assert_eq!(names("#profile test\n#profile debug\n"), ["bar", "baz", "foo", "zot"]);
    assert_eq!(names("#profile *\n").len(), 4);
    assert_eq!(names("#env COMPOSE_PROFILES=test,debug\n").len(), 4);
    assert_eq!(names("#service bar\n"), ["bar"]);
    assert_eq!(names("#service baz\n"), ["bar", "baz"]);
    assert_eq!(names("#service zot\n#profile test\n"), ["bar", "zot"]);
    let wanted = "compose.yaml:5:34: services.zot.depends_on.bar: bar is needed, and only the profile test enables it: add --profile test";
    for more in ["#profile debug\n", "#service zot\n"] {
        assert_eq!(faults(&format!("{text}{more}")), [wanted]);
    }
}

#[test]
fn what_may_be_missing_is_not_waited_for() {
    let project = good(
        "services:\n  a: {image: a, depends_on: {m: {condition: service_started, required: false}}}\n\
         \x20 m: {image: m, profiles: [m], env_file: missing.env}\n",
    )
    .project;
    assert!(project.services["a"].depends_on.is_empty());
    assert!(project.disabled.contains_key("m"));
}

#[test]
fn secrets_and_configs_of_variables_have_their_text() {
    let project = good(
        "include: [inner/compose.yaml]\nservices: {a: {image: a, secrets: [s], configs: [c]}}\nsecrets: {s: {environment: S}}\n\
         #env S=own\n#file inner/compose.yaml\nconfigs: {c: {environment: C}}\n#file inner/.env\nC=inner\n",
    )
    .project;
    assert_eq!(project.secrets["s"].data, Some(Hidden(b"own".to_vec())));
    assert_eq!(project.configs["c"].data, Some(Hidden(b"inner".to_vec())));
}

#[test]
fn places_are_kept_over_merges() {
    let loaded = good(
        "services:\n  web:\n    image: a\n    ports:\n      - 80:80\n#file compose.override.yaml\nservices:\n  web:\n    ports:\n\
         \x20     - 81:81\n    image: b\n",
    );
    let place = |path: &[&str]| loaded.project.place(path).to_string();
    assert_eq!(place(&["services", "web", "ports", "0", "target"]), "compose.yaml:5:9");
    assert_eq!(place(&["services", "web", "ports", "1"]), "compose.override.yaml:4:9");
    assert_eq!(place(&["services", "web", "image"]), "compose.override.yaml:5:5");
    assert_eq!(place(&["services", "web"]), "compose.yaml:2:3");
    assert_eq!(place(&["services", "web", "command"]), "compose.yaml:2:3");
}

#[test]
fn files_are_found_from_a_folder_beneath() {
    let mut bundle = Bundle::of(
        "services: {a: {image: 'a:${TAG}', volumes: ['./x:/x']}}\n#file compose.override.yml\nservices: {a: {hostname: h}}\n\
         #file .env\nTAG=1\n#file docker-compose.yml\nservices: {no: {image: no}}\n",
    );
    bundle.request.working_dir = "/p/deep/er".into();
    let loaded = bundle.load().unwrap();
    let a = &loaded.project.services["a"];
    assert_eq!((a.image.as_deref(), a.hostname.as_deref()), (Some("a:1"), Some("h")));
    assert_eq!(a.volumes[0].source.as_deref(), Some("/p/x"));
    let warned: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warned,
        ["/p/compose.yaml: this file is taken and /p/docker-compose.yml is not: name the file with --file"]
    );
    bundle.request.working_dir = "/elsewhere".into();
    let found = bundle.load().unwrap_err();
    assert_eq!(
        found.faults[0].message,
        "there is no compose.yaml, compose.yml, docker-compose.yml, docker-compose.yaml in /elsewhere or a folder above it: \
         go to the project's folder, or name the file with --file"
    );
}

#[test]
fn what_is_not_honoured_is_named() {
    let loaded = good(
        "services:\n  a:\n    image: a\n    mac_address: x\n    container_name: aa\n    blkio_config: {weight: 3}\n\
         \x20   networks: {default: {ipv4_address: 10.0.0.2, aliases: [x]}}\n    x-own: {pid: host}\n    environment: {pid: x}\n\
         \x20   volumes: ['./x:/x:z', {type: bind, source: /a, target: /b}]\n    ports: ['80:80/udp']\n",
    );
    let uses: Vec<String> = matrix::uses(&loaded.project.document)
        .into_iter()
        .map(|one| {
            let word = if matches!(one.stance, Stance::Refused(_)) { "refused" } else { "differently" };
            format!("{} {} {word}", one.place.line, one.path)
        })
        .collect();
    assert_eq!(
        uses,
        [
            "6 services.a.blkio_config refused",
            "5 services.a.container_name differently",
            "4 services.a.mac_address refused",
            "7 services.a.networks.default.ipv4_address refused",
            "11 services.a.ports differently",
            "10 services.a.volumes differently",
            "10 services.a.volumes[1].type differently",
        ]
    );
}

#[test]
fn all_faults_are_told_at_once_in_order() {
    let told = faults(
        "services:\n  a: {image: 1, x: 2}\n  b: {image: b, ports: [x]}\nnetworks: 3\n#file compose.override.yaml\n\
         services: {c: {build: {args: 3}}}\n",
    );
    let places: Vec<&str> = told.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "compose.override.yaml:1:30",
            "compose.yaml:2:14",
            "compose.yaml:2:17",
            "compose.yaml:3:25",
            "compose.yaml:4:11"
        ]
    );
}

#[test]
fn files_of_the_disk_are_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("compose.yaml"), "services: {a: {image: a, env_file: e}}").unwrap();
    std::fs::write(dir.path().join("e"), [0xff, 0xfe]).unwrap();
    let request =
        Request { working_dir: dir.path().to_owned(), project_name: Some("x".to_owned()), ..Request::default() };
    let found = load(&request, &Disk).unwrap_err();
    assert_eq!(
        found.faults[0].to_string(),
        "compose.yaml:1:36: services.a.env_file[0]: e: the file is not text (UTF-8); write path and required: false if it may be \
         missing"
    );
    std::fs::write(dir.path().join("e"), "A=1\n").unwrap();
    assert_eq!(load(&request, &Disk).unwrap().project.services["a"].environment["A"].as_deref(), Some("1"));
    let endless = Disk.read(std::path::Path::new("/dev/zero")).unwrap_err();
    assert_eq!(endless.kind(), std::io::ErrorKind::FileTooLarge);
    assert_eq!(
        faults(&format!("services: {{a: {{image: a, env_file: e}}}}\n#file e\n{}", "A=1\n".repeat(600_000))),
        [
            "compose.yaml:1:36: services.a.env_file[0]: e: the file has more than 2 MiB, which is the most that is read; write path \
          and required: false if it may be missing"
        ]
    );
}
