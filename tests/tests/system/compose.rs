//! Compose files, through the command line: real projects come up in order, change by what differs, and go.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, PATIENCE, machine};
use serde_json::Value;
use xtask::{
    daemon::{Said, finish},
    machine::Machine,
    wait,
};

/// A folder with a Compose file.
struct Project<'a> {
    machine: &'a Machine,
    dir: PathBuf,
}

impl<'a> Project<'a> {
    fn new(machine: &'a Machine, name: &str, text: &str) -> Result<Self> {
        let dir = machine.sandbox.dir().join("projects").join(name);
        fs::create_dir_all(&dir)?;
        let project = Self { machine, dir };
        project.write(text)?;
        Ok(project)
    }

    fn write(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.join("compose.yaml"), text)?)
    }

    /// Runs a line of words in the folder.
    fn run(&self, line: &str) -> Result<Said> {
        let words: Vec<_> = line.split_whitespace().collect();
        let command = self.machine.daemon.command_in(&self.machine.sandbox, &self.dir, &words);
        finish(command, &format!("hivemind {line}"), PATIENCE * 2)
    }

    fn ok(&self, line: &str) -> Result<Said> {
        let said = self.run(line)?;
        ensure!(said.code == 0, "{said}");
        Ok(said)
    }

    fn json(&self, line: &str) -> Result<Value> {
        self.run(&format!("{line} -o json"))?.json()
    }

    /// The instances' names, by the project's namespace.
    fn instances(&self) -> Result<Vec<String>> {
        let name = self.dir.file_name().context("a name")?.to_string_lossy().into_owned();
        let all = self.machine.hivemind(&["ps", "-n", &name, "-o", "name"])?.ok()?;
        let mut names: Vec<_> = all.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// A refusal, with its exit code and words that it must have.
    fn refused(&self, line: &str, exit: i32, code: &str, words: &[&str]) -> Result<()> {
        let said = self.run(line)?;
        ensure!(said.code == exit && said.err.contains(&format!("error[{code}]")), "{said}");
        for word in words {
            ensure!(said.err.contains(word), "{word:?} is not said: {said}");
        }
        Ok(())
    }

    /// What a command in an instance of a service prints.
    fn exec(&self, service: &str, command: &str) -> Result<Said> {
        let name = self.dir.file_name().context("a name")?.to_string_lossy().into_owned();
        self.machine.hivemind(&["exec", "-n", &name, service, "--", "sh", "-c", command])
    }
}

/// The service of an instance.
fn service(instance: &str) -> &str {
    instance.rsplit_once('-').map_or(instance, |(service, _)| service)
}

/// A web server, a database that is another, and a cache that only sleeps.
fn shop(image: &str) -> String {
    format!(
        "services:
  web:
    image: {image}
    ports: ['8080:80']
    depends_on: {{db: {{condition: service_healthy}}, job: {{condition: service_completed_successfully}}}}
    environment: {{COLOUR: red}}
    networks: [front, back]
  db:
    image: {image}
    healthcheck: {{test: [CMD, wget, -q, -O, /dev/null, 'http://127.0.0.1/'], interval: 1s}}
    networks: {{back: {{aliases: [data]}}}}
  cache:
    image: {image}
    entrypoint: [sleep, 1d]
    networks: [front]
  job:
    image: {image}
    entrypoint: sh -c 'echo migrated'
    networks: [back]
networks: {{front: , back: }}
"
    )
}

#[test]
fn a_project_comes_up_in_order_changes_by_what_differs_and_goes() -> Result<()> {
    let (machine, image) = machine("compose")?;
    let before = {
        // Once before, so that the image is there.
        machine.hivemind(&["app", "deploy", "--image", &image, "--name", "once", "--wait"])?.ok()?;
        machine.hivemind(&["app", "rm", "once", "--wait"])?.ok()?;
        Census::take(&machine)?
    };
    let project = Project::new(&machine, "shop", &shop(&image))?;
    let plan = project.run("plan --exit-code")?;
    ensure!(plan.code == 10 && plan.out.contains("+ web would be created"), "{plan}");
    ensure!(project.instances().is_err(), "a plan has made the namespace");
    let up = project.ok("up --wait")?;
    ensure!(up.err.contains("shop is ready: 4 services, 1 of them completed"), "{up}");
    // Who came first was there first.
    let at = |name: &str| -> Result<String> {
        let all = project.machine.hivemind(&["ps", "-n", "shop", "-o", "json"])?.json()?;
        let of = all.as_array().and_then(|all| all.iter().find(|it| it["app"] == name)).context("no instance")?;
        Ok(of["created_at"].as_str().context("no time")?.to_owned())
    };
    ensure!(at("web")? > at("job")? && at("web")? > at("db")?, "web was made before what it waits for");
    let page = project.exec("cache", "wget -q -O - http://web/")?.ok()?;
    ensure!(page.starts_with("Hello from web-"), "{page}");

    // In the folder, lists and logs are the project's; elsewhere nothing is different.
    let here = project.ok("ps")?;
    ensure!(here.out.lines().count() == 5 && here.err.contains("of the project shop"), "{here}");
    ensure!(project.ok("ps web -o name")?.out.starts_with("web-"), "web is not listed");
    let elsewhere = machine.hivemind(&["ps"])?;
    ensure!(elsewhere.code == 0 && elsewhere.out.is_empty(), "{elsewhere}");
    ensure!(machine.hivemind(&["ps", "-p", "shop", "-o", "name"])?.ok()?.lines().count() == 4);
    let logs = project.ok("logs --timestamps")?;
    for words in [" serves on port 80", " migrated", "web-", "db-", "job-", " | 20"] {
        ensure!(logs.out.contains(words), "{words}: {logs}");
    }
    ensure!(project.ok("logs job")?.out == "migrated\n", "the lines of one service have a prefix");
    let two = project.ok("logs web db --tail 1")?;
    ensure!(two.out.lines().count() == 2 && two.out.contains(" | "), "{two}");

    // Nothing differs.
    let first = project.instances()?;
    let again = project.ok("up")?;
    ensure!(again.err.contains("shop is already as asked for"), "{again}");
    ensure!(project.run("plan --exit-code")?.code == 0, "a plan finds what is not there");
    // Only web differs, then only its number.
    project.write(&shop(&image).replace("red", "blue"))?;
    let plan = project.json("plan")?;
    ensure!(
        plan["services"]["web"]["action"] == "replaced" && plan["services"]["db"]["action"] == "unchanged",
        "{plan}"
    );
    project.ok("up --wait")?;
    let second = project.instances()?;
    let kept: Vec<_> = first.iter().filter(|name| second.contains(name)).collect();
    ensure!(kept.len() == 3 && !kept.iter().any(|name| name.starts_with("web-")), "{first:?} {second:?}");
    let scaled = project.ok("up --wait --scale web=2")?;
    ensure!(scaled.err.contains("~ web is scaled"), "{scaled}");
    let third = project.instances()?;
    ensure!(third.len() == 5 && second.iter().all(|name| third.contains(name)), "{second:?} {third:?}");
    let colour = project.exec("web", "echo $COLOUR")?.ok()?;
    ensure!(colour == "blue\n", "{colour}");

    // What is in the file no more is named, and removed if that is asked for.
    let without = shop(&image).replace("red", "blue");
    let cache = without.find("  cache:").context("cache")?;
    let job = without.find("  job:").context("job")?;
    project.write(&format!("{}{}", &without[..cache], &without[job..]))?;
    let orphan = project.ok("up")?;
    ensure!(orphan.err.contains("? cache is in the file no more"), "{orphan}");
    let removed = project.ok("up --remove-orphans")?;
    ensure!(removed.err.contains("- cache is removed"), "{removed}");
    let restarted = project.ok("restart db --wait")?;
    ensure!(restarted.err.contains("db gets new instances"), "{restarted}");
    project.ok("stop web --wait")?;
    project.ok("start web --wait")?;

    let down = project.ok("down")?;
    ensure!(down.err.contains("shop is removed"), "{down}");
    wait::until("the namespace to go", PATIENCE, || {
        let spaces = machine.hivemind(&["namespace", "ls", "-o", "name"])?.ok()?;
        ensure!(spaces == "default\n", "{spaces}");
        Ok(())
    })?;
    project.refused("down", 3, "E-OBJ-001", &["there is no project shop"])?;
    before.again(&machine)?;
    machine.close()
}

#[test]
fn projects_and_networks_are_apart() -> Result<()> {
    let (machine, image) = machine("apart")?;
    let text = |other: &str| {
        format!(
            "services:
  web: {{image: {image}, networks: [front, back]}}
  db: {{image: {image}, networks: {{back: {{aliases: [data]}}}}, container_name: {other}-db}}
  lone: {{image: {image}, networks: [front]}}
networks: {{front: , back: {{internal: true}}}}
"
        )
    };
    let shop = Project::new(&machine, "shop", &text("shop"))?;
    let blog = Project::new(&machine, "blog", &text("blog"))?;
    shop.ok("up --wait")?;
    blog.ok("up --wait")?;
    let page = |project: &Project, from: &str, name: &str| -> Result<Option<String>> {
        let said = project.exec(from, &format!("timeout 3 wget -q -O - http://{name}/"))?;
        Ok((said.code == 0).then(|| said.out.trim().to_owned()))
    };
    let instance = |project: &Project, service: &str| -> Result<String> {
        let all = project.instances()?;
        let name = all.into_iter().find(|name| name.starts_with(&format!("{service}-")));
        Ok(format!("Hello from {}", name.context("no instance")?))
    };
    for project in [&shop, &blog] {
        // The same names, each project's own.
        for name in ["db", "data"] {
            let said = project.exec("web", &format!("timeout 3 wget -q -O - http://{name}/"))?;
            ensure!(said.out.trim() == instance(project, "db")?, "web does not reach {name}: {said}");
        }
        ensure!(page(project, "lone", "web")? == Some(instance(project, "web")?), "lone does not reach web");
        ensure!(page(project, "lone", "db")?.is_none(), "db is seen from another network");
    }
    ensure!(page(&shop, "web", "shop-db")?.is_some(), "the container's name is not known");
    ensure!(page(&shop, "web", "blog-db")?.is_none(), "a name of another project is known");
    // Also who knows the address does not get there: not from another network, not from another project.
    let address = |namespace: &str, app: &str| -> Result<String> {
        let all = machine.hivemind(&["ps", app, "-n", namespace, "-o", "json"])?.json()?;
        Ok(all[0]["addresses"]["v4"].as_str().context("no address")?.to_owned())
    };
    let db = address("shop", "db")?;
    ensure!(page(&shop, "web", &db)?.is_some(), "web does not reach the address of db");
    for (project, from) in [(&shop, "lone"), (&blog, "web"), (&blog, "lone")] {
        ensure!(page(project, from, &db)?.is_none(), "{from} reaches {db}");
    }
    shop.ok("down")?;
    blog.ok("down")?;
    machine.close()
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_nothing_is_changed() -> Result<()> {
    let (machine, image) = machine("compose-wrong")?;
    let project = Project::new(&machine, "wrong", "")?;
    let web = |more: &str| format!("services:\n  web:\n    image: {image}\n{more}");
    for (text, exit, code, words) in [
        (
            web("    depends_on: [db]\n  db: {image: a, depends_on: [web]}\n"),
            2,
            "E-SPEC-001",
            "compose.yaml:5:31: services.db.depends_on.web: services wait for each other in a circle: db -> web -> db",
        ),
        (
            web("    ports: ['80:80']\n  db: {image: a, ports: ['80:81']}\n"),
            2,
            "E-SPEC-001",
            "port 80/tcp is published at compose.yaml:",
        ),
        (
            web("    env_file: none.env\n"),
            2,
            "E-SPEC-001",
            "compose.yaml:4:15: services.web.env_file[0]: none.env: there is no such file",
        ),
        (web("    cpuset: '0'\n"), 2, "E-SPEC-001", "compose.yaml:4:5: services.web.cpuset: Instances are not bound"),
        (web("    prots: ['80:80']\n"), 2, "E-SPEC-001", "compose.yaml:4:5: services.web.prots"),
        (web("    image: UPPER CASE\n"), 2, "E-SPEC-001", "compose.yaml"),
    ] {
        project.write(&text)?;
        for command in ["up", "plan"] {
            project.refused(command, exit, code, &[words])?;
        }
    }
    ensure!(machine.hivemind(&["namespace", "ls", "-o", "name"])?.ok()? == "default\n", "something was made");
    // A port and a name that others have; a namespace that is another project's.
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "other", "--port", "8080:80", "--wait"])?.ok()?;
    project.write(&web("    ports: ['8080:80']\n"))?;
    project.refused("up", 4, "E-OBJ-002", &["published port 8080/tcp is used by app default/default/other"])?;
    ensure!(machine.hivemind(&["namespace", "ls", "-o", "name"])?.ok()? == "default\n", "something was made");
    project.write(&web(""))?;
    project.ok("up -p a_b --wait")?;
    project.refused("up -p a-b", 4, "E-OBJ-002", &["namespace default/a-b is of the project a_b"])?;
    project.refused("up nothing", 2, "E-SPEC-001", &["the project has no service of this name"])?;
    project.refused("down -p none", 3, "E-OBJ-001", &["there is no project none"])?;
    fs::remove_file(project.dir.join("compose.yaml"))?;
    project.refused("up", 2, "E-SPEC-001", &["there is no compose.yaml"])?;
    project.ok("down -p a_b")?;
    machine.close()
}

#[test]
fn a_project_that_was_begun_goes_on_without_its_daemon_and_its_command_line() -> Result<()> {
    let (mut machine, image) = machine("compose-kill")?;
    {
        let project = Project::new(&machine, "shop", &shop(&image))?;
        // Not waited for: the command line is gone before anything runs.
        project.ok("up")?;
    }
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let project = Project::new(&machine, "shop", &shop(&image))?;
    let again = project.ok("up --wait")?;
    ensure!(again.err.contains("shop is already as asked for"), "{again}");
    ensure!(project.instances()?.len() == 4, "{:?}", project.instances()?);
    project.ok("down --detach")?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    wait::until("the namespace to go", PATIENCE, || {
        let spaces = machine.hivemind(&["namespace", "ls", "-o", "name"])?.ok()?;
        let policies = machine.hivemind(&["policy", "ls", "-A", "-o", "name"])?.ok()?;
        ensure!(spaces == "default\n" && policies.is_empty(), "{spaces} {policies}");
        Ok(())
    })?;
    machine.close()
}

#[test]
fn secrets_and_configs_come_out_of_files_and_variables() -> Result<()> {
    let (machine, image) = machine("compose-contents")?;
    let text = format!(
        "services:
  web:
    image: {image}
    secrets: [db, {{source: token, target: api/token, uid: '33', gid: '34', mode: 0440}}]
    configs: [{{source: page, target: /srv/page}}]
  other:
    image: {image}
    configs: [shared]
  reader:
    image: {image}
    secrets: [token]
secrets:
  db: {{file: ./db.secret}}
  token: {{environment: TOKEN}}
configs:
  page: {{content: \"Hello from ${{WHO}}\"}}
  shared: {{external: true, name: site}}
"
    );
    let project = Project::new(&machine, "held", &text)?;
    // What is not there is said with its place, all at once, and nothing is made.
    project.refused(
        "up",
        2,
        "E-SPEC-001",
        &["secrets.db.file: db.secret: there is no such file", "TOKEN is not set"],
    )?;
    fs::write(project.dir.join("db.secret"), vec![b'x'; 500 * 1024 + 1])?;
    project.refused("plan", 2, "E-SPEC-001", &["db.secret: it is longer than 500 KiB"])?;
    fs::write(project.dir.join("db.secret"), b"\xff\x00hunter2")?;
    fs::write(project.dir.join(".env"), "TOKEN=t0ps3cret\nWHO=us\n")?;
    project.refused("up", 2, "E-SPEC-001", &["other: configs: there is no config site in default/held"])?;
    machine.hivemind(&["namespace", "create", "held"])?.ok()?;
    fs::write(project.dir.join("site"), "ours")?;
    let site = project.dir.join("site").display().to_string();
    machine.hivemind(&["config", "create", "site", "-n", "held", "--file", &site])?.ok()?;

    let said = project.ok("up --wait")?;
    ensure!(said.err.contains("~ secret db is written"), "{said}");
    ensure!(!format!("{said}").contains("hunter2") && !format!("{said}").contains("t0ps3cret"), "{said}");
    let held = project.exec(
        "web",
        "od -An -c /run/secrets/db; stat -c '%u %g %a' /run/secrets/api/token; cat /run/secrets/api/token /srv/page",
    )?;
    for part in ["377  \\0   h   u   n   t   e   r   2", "33 34 440", "t0ps3cretHello from us"] {
        ensure!(held.out.contains(part), "{part}: {held}");
    }
    ensure!(project.exec("other", "cat /shared")?.out == "ours");
    ensure!(project.run("plan --exit-code")?.code == 0);

    // Another content: new instances of who has it, and of nobody else.
    let before = project.instances()?;
    fs::write(project.dir.join("db.secret"), "swordfish")?;
    ensure!(project.run("plan --exit-code")?.code == 10);
    let plan = project.json("plan")?;
    ensure!(plan["contents_put"] == serde_json::json!(["secret db"]), "{plan}");
    project.ok("up --wait")?;
    ensure!(project.exec("web", "cat /run/secrets/db")?.out == "swordfish");
    let after = project.instances()?;
    let stayed: Vec<_> = after.iter().filter(|name| before.contains(name)).map(|name| service(name)).collect();
    ensure!(stayed == ["other", "reader"], "{before:?} {after:?}");

    // One that two have is changed for both, whichever was named; then there is nothing left to do.
    fs::write(project.dir.join(".env"), "TOKEN=other\nWHO=us\n")?;
    let up = project.ok("up web")?;
    ensure!(up.err.contains("~ web gets new instances") && up.err.contains("~ reader gets new instances"), "{up}");
    ensure!(project.run("plan --exit-code")?.code == 0, "a later up sees something else");
    project.ok("up --wait")?;
    ensure!(project.exec("reader", "cat /run/secrets/token")?.out == "other");
    // The same is so when it is changed by hand. One that stays is said to have an older one.
    let sleeps = format!("app deploy -n held --image {image} --name keeps --update-contents keep --config site --wait");
    machine.hivemind(&sleeps.split_whitespace().collect::<Vec<_>>())?.ok()?;
    fs::write(project.dir.join("site"), "theirs")?;
    let changed = machine.hivemind(&["config", "create", "site", "-n", "held", "--replace", "--file", &site])?;
    ensure!(changed.code == 0 && changed.err.contains("other gets new instances"), "{changed}");
    project.ok("up --wait")?;
    ensure!(project.exec("other", "cat /shared")?.out == "theirs");
    ensure!(project.exec("keeps", "cat /site")?.out == "ours", "it was replaced");
    let info = machine.hivemind(&["app", "info", "-n", "held", "keeps"])?.ok()?;
    ensure!(info.contains("older content than there is of config site"), "{info}");
    ensure!(!machine.hivemind(&["app", "info", "-n", "held", "other"])?.ok()?.contains("older content"));
    let history = machine.hivemind(&["history", "-n", "held", "other"])?.ok()?;
    ensure!(history.contains("secret or config"), "{history}");
    machine.hivemind(&["app", "rm", "-n", "held", "keeps", "--wait"])?.ok()?;

    // One of the namespace that is nobody's project is left alone, and is said.
    project.write(&text.replace("external: true, name: site", "content: mine").replace("shared", "site"))?;
    project.refused("up", 2, "E-SPEC-001", &["config site is there already, and is none of the project's"])?;
    project.write(&text)?;
    project.ok("down")?;
    wait::until("the project's secrets to be gone", PATIENCE, || {
        let left = machine.hivemind(&["secret", "ls", "-n", "held", "-o", "name"])?.ok()?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    ensure!(machine.hivemind(&["config", "ls", "-n", "held", "-o", "name"])?.ok()?.contains("site"));
    machine.close()
}

#[test]
fn a_profile_of_system_calls_comes_out_of_its_file() -> Result<()> {
    let (machine, image) = machine("project-seccomp")?;
    // In Docker's form: a rule for a capability that the service does not have, one for another kernel, and one that holds.
    let profile = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["link", "linkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "excludes": {"minKernel": "4.0"}},
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
        ]}"#;
    let text = format!(
        "services:\n  web:\n    image: {image}\n    security_opt: ['seccomp:./rules/own.json']\n    entrypoint: [sleep, 1d]\n"
    );
    let project = Project::new(&machine, "kept", &text)?;
    let file = project.dir.join("rules/own.json");
    fs::create_dir_all(project.dir.join("rules"))?;
    project.refused(
        "up",
        2,
        "E-SPEC-001",
        &["services.web.security_opt[0]", "rules/own.json: there is no such file"],
    )?;
    fs::write(&file, profile.replace("ACT_ALLOW", "ACT_ASK"))?;
    project.refused("up", 2, "E-SPEC-001", &["container.security.seccomp", "\"SCMP_ACT_ASK\" is not an action"])?;
    fs::write(&file, profile)?;
    project.ok("up --wait")?;
    let said = project.exec("web", "cd /tmp; mkdir a; : >b && ln b c && echo linked; grep Seccomp: /proc/1/status")?;
    let holds = said.err.contains("No space left") && said.out.contains("linked") && said.out.contains("2\n");
    ensure!(holds, "{said}");
    // The file is the project's: what is another in it makes new instances, the same makes none.
    let before = project.instances()?;
    project.ok("up --wait")?;
    ensure!(project.instances()? == before, "the same file has made new instances");
    fs::write(&file, profile.replace("\"mkdir\", \"mkdirat\"", "\"chown\""))?;
    project.ok("up --wait")?;
    let said = project.exec("web", "mkdir /tmp/a && echo made")?;
    ensure!(said.out == "made\n", "{said}");
    machine.close()
}
