//! Every flag has its field.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: DeployArgs,
}

fn spec(line: &[&str]) -> Result<AppSpec, Problem> {
    let words = ["deploy", "--image", "a", "--name", "b"].iter().chain(line);
    Line::try_parse_from(words).expect("is understood").args.spec(1, drop)
}

#[test]
fn without_flags_it_is_the_default_document() {
    assert_eq!(spec(&[]), Ok(AppSpec::new("a")));
}

#[test]
fn every_flag_has_its_field() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), "# comment\n\nA=file\n B = two words \n").expect("written");
    let path = file.path().to_str().expect("text");
    let line = format!(
        "--port 8080:80 --port 53/udp --affinity client-ip=60 --service web.local --env A=flag --env-file {path} --cpu 500m --memory 64Mi \
         --pids 9 --user 1:2 --workdir /srv --entrypoint sh --restart on-failure --pull always --health-http 80/up \
         --health-interval 1s --health-timeout 500ms --health-retries 7 --health-start-period 2m \
         --stop-signal SIGQUIT --stop-grace 1m --label team=x --hostname h --domainname d.example --read-only --privileged \
         --cap-add NET_ADMIN --cap-drop CHOWN --security-opt no-new-privileges=false --security-opt apparmor=own \
         --ulimit nofile=1:2 --ulimit core=-1 --tmpfs /t:size=1m --shm-size 2m --sysctl net.core.somaxconn=9 --init \
         --device /dev/fuse:r --device example.com/gpu=0 --add-host db:192.0.2.1 --dns 192.0.2.2 --dns-search d.example \
         --dns-option ndots:2 -t -i --group-add audio --oom-score-adj -5 --pre-start x --post-start true --pre-stop false \
         --annotation a.b=c --volume data:/data:ro --mount type=bind,src=/srv,dst=/srv \
         --secret db --config source=site,target=/s,uid=9,mode=0440 -- -c exit"
    );
    let spec = spec(&line.split_whitespace().collect::<Vec<_>>()).expect("valid");
    let json = serde_json::to_value(&spec).expect("JSON");
    let expected = serde_json::json!({
        "image": "a",
        "replicas": 1,
        "command": ["sh"],
        "args": ["-c", "exit"],
        "env": { "A": "flag", "B": " two words" },
        "user": "1:2",
        "workdir": "/srv",
        "resources": { "cpu": "500m", "memory": "64Mi", "pids": 9 },
        "container": {
            "hostname": "h",
            "domainname": "d.example",
            "read_only": true,
            "privileged": true,
            "cap_add": ["NET_ADMIN"],
            "cap_drop": ["CHOWN"],
            "security": { "no_new_privileges": false, "apparmor": "own" },
            "ulimits": { "nofile": { "soft": 1, "hard": 2 }, "core": { "soft": -1, "hard": -1 } },
            "tmpfs": [{ "path": "/t", "size": "1Mi" }],
            "shm_size": "2Mi",
            "sysctls": { "net.core.somaxconn": "9" },
            "init": true,
            "devices": [{ "host": "/dev/fuse", "permissions": "r" }],
            "cdi": ["example.com/gpu=0"],
            "extra_hosts": [{ "name": "db", "address": "192.0.2.1" }],
            "dns": { "servers": ["192.0.2.2"], "search": ["d.example"], "options": ["ndots:2"] },
            "tty": true,
            "stdin_open": true,
            "group_add": ["audio"],
            "oom_score_adj": -5,
            "hooks": {
                "pre_start": [{ "command": ["/bin/sh", "-c", "x"] }],
                "post_start": [{ "command": ["/bin/sh", "-c", "true"], "timeout_seconds": 30 }],
                "pre_stop": [{ "command": ["/bin/sh", "-c", "false"], "timeout_seconds": 30 }],
            },
            "annotations": { "a.b": "c" },
        },
        "ports": [
            { "target": 80, "published": 8080, "protocol": "tcp" },
            { "target": 53, "protocol": "udp" },
        ],
        "services": ["web.local"],
        "balance": { "affinity": { "client_ip_seconds": 60 } },
        "mounts": [
            { "target": "/data", "source": { "type": "volume", "name": "data" }, "read_only": true },
            { "target": "/srv", "source": { "type": "bind", "path": "/srv" } },
        ],
        "secrets": [{ "name": "db", "mode": "0444" }],
        "configs": [{ "name": "site", "target": "/s", "uid": 9, "mode": "0440" }],
        "health": {
            "check": { "type": "http", "port": 80, "path": "/up" },
            "interval_ms": 1_000,
            "timeout_ms": 500,
            "healthy_after": 1,
            "unhealthy_after": 7,
            "start_period_ms": 120_000,
        },
        "restart": "on-failure",
        "stop": { "signal": "SIGQUIT", "grace_seconds": 60 },
        "pull": "always",
        "labels": { "team": "x" },
    });
    assert_eq!(json, expected);
}

#[test]
fn all_faults_of_the_flags_are_named_at_once() {
    let problem = spec(&[
        "--env",
        "HIVEMIND_TEST_NO_SUCH_VARIABLE",
        "--env-file",
        "/nonexistent/env",
        "--label",
        "x",
        "--health-http",
        "x",
        "--stop-grace",
        "1500ms",
        "--security-opt",
        "label=disable",
        "--annotation",
        "x",
    ])
    .expect_err("refused");
    let flags: Vec<_> = problem.details.iter().map(|line| line.split([' ', ':']).next().expect("flag")).collect();
    assert_eq!(
        flags,
        ["--env-file", "--env", "--label", "--security-opt", "--annotation", "--health-http", "--stop-grace"],
        "{problem}"
    );
    assert_eq!(problem.code.exit_code(), 2);
}
