//! Images that a Compose file says how to build: built where it is typed, sent to the node, and run by their digests.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use hivemind_tests::{PATIENCE, long, machine};
use serde_json::Value;
use xtask::{
    builders::{self, Environment},
    daemon::{Said, finish},
    machine::Machine,
};

/// A folder with a Compose file and a Dockerfile, and what its command line finds.
struct Project<'a> {
    machine: &'a Machine,
    dir: PathBuf,
    environment: Environment,
}

impl<'a> Project<'a> {
    fn new(machine: &'a Machine, environment: Environment, files: &[(&str, &str)]) -> Result<Self> {
        let dir = machine.sandbox.dir().join("projects/shop");
        fs::create_dir_all(&dir)?;
        let project = Self { machine, dir, environment };
        files.iter().try_for_each(|(name, text)| project.write(name, text))?;
        Ok(project)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.join(name), text)?)
    }

    fn run(&self, line: &str) -> Result<Said> {
        let words: Vec<_> = line.split_whitespace().collect();
        let mut command = self.machine.daemon.command_in(&self.machine.sandbox, &self.dir, &words);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        finish(command, &format!("hivemind {line}"), PATIENCE * 2)
    }

    fn ok(&self, line: &str) -> Result<Said> {
        let said = self.run(line)?;
        ensure!(said.code == 0, "{said}");
        Ok(said)
    }

    /// A refusal, with its exit code, its error code and words that it must have.
    fn refused(&self, line: &str, exit: i32, code: &str, words: &[&str]) -> Result<Said> {
        let said = self.run(line)?;
        ensure!(said.code == exit && said.err.contains(&format!("error[{code}]")), "{said}");
        for word in words {
            ensure!(said.err.contains(word), "{word:?} is not said: {said}");
        }
        Ok(said)
    }

    /// It changes nothing.
    fn idle(&self, line: &str) -> Result<Said> {
        let before = self.instances()?;
        let said = self.ok(line)?;
        ensure!(said.err.contains("shop is already as asked for"), "{said}");
        ensure!(self.instances()? == before, "other instances after {line}");
        Ok(said)
    }

    fn instances(&self) -> Result<Vec<String>> {
        let all = self.machine.hivemind(&["ps", "-n", "shop", "-o", "name"])?.ok()?;
        Ok(all.lines().map(str::to_owned).collect())
    }

    /// The image that a service's app names.
    fn image(&self, service: &str) -> Result<String> {
        let app = self.machine.hivemind(&["app", "info", "-n", "shop", service, "-o", "json"])?.json()?;
        Ok(app["spec"]["image"].as_str().with_context(|| format!("no image: {app}"))?.to_owned())
    }

    /// A file in an instance of `web`.
    fn file(&self, path: &str) -> Result<String> {
        let all = self.machine.hivemind(&["exec", "-n", "shop", "web", "--", "cat", path])?.ok()?;
        Ok(all.trim().to_owned())
    }

    fn images(&self) -> Result<Vec<String>> {
        let all = self.machine.hivemind(&["image", "ls", "-o", "name"])?.ok()?;
        Ok(all.lines().map(str::to_owned).collect())
    }
}

fn dockerfile(base: &str) -> String {
    format!(
        "FROM {base}\nARG COLOUR=none\nCOPY page /page\nRUN echo $COLOUR >/colour\n\
         RUN --mount=type=secret,id=token cp /run/secrets/token /seen\nCOPY --from=lib page /lib-page\n\
         HEALTHCHECK --interval=1s CMD test -f /page\n"
    )
}

const COMPOSE: &str = "\
services:
  web:
    build:
      context: .
      args: {COLOUR: red}
      network: none
      secrets: [token]
      additional_contexts: {lib: ./lib}
      labels: {made.by: test}
      tags: ['shop-web:second']
      shm_size: 1m
      ulimits: {nofile: 512}
      extra_hosts: ['other=192.0.2.1']
secrets: {token: {environment: TOKEN}}
";

/// A project of one service, built upon the test's web server.
fn shop<'a>(machine: &'a Machine, environment: Environment, base: &str) -> Result<Project<'a>> {
    fs::create_dir_all(machine.sandbox.dir().join("projects/shop/lib"))?;
    let mut environment = environment;
    environment.push(("TOKEN", "hidden words".into()));
    let files = [
        ("compose.yaml", COMPOSE),
        ("Dockerfile", &dockerfile(base)),
        ("page", "one"),
        ("lib/page", "of another folder"),
    ];
    Project::new(machine, environment, &files)
}

/// Up, again, changed, back: the same of every builder.
fn goes_its_way(project: &Project, with: &str) -> Result<()> {
    let plan = project.run("plan --exit-code")?;
    ensure!(plan.code == 10 && plan.out.contains("image shop-web would be built"), "{plan}");
    ensure!(!project.images()?.iter().any(|name| name.contains("shop-web")), "a plan has built");
    let up = project.ok("up --wait")?;
    ensure!(up.err.contains(&format!("building shop-web with {with}")), "{up}");
    ensure!(up.out.is_empty(), "the builder's words are where documents are: {up}");
    let first = project.image("web")?;
    ensure!(first.starts_with("shop-web@sha256:"), "{first}");
    for (path, text) in
        [("/page", "one"), ("/colour", "red"), ("/seen", "hidden words"), ("/lib-page", "of another folder")]
    {
        ensure!(project.file(path)? == text, "{path}: {}", project.file(path)?);
    }
    let info = project.machine.hivemind(&["image", "info", "shop-web:second", "-o", "json"])?.json()?;
    ensure!(info["config"]["config"]["Labels"]["made.by"] == "test", "{info}");
    ensure!(info["config"]["config"]["Healthcheck"]["Interval"] == 1_000_000_000, "{info}");
    ensure!(format!("shop-web@{}", info["digest"].as_str().unwrap_or_default()) == first, "{info}");

    // The same again: nothing is built, and if it is, the same comes of it.
    let again = project.idle("up")?;
    ensure!(!again.err.contains("building"), "{again}");
    ensure!(project.run("plan --exit-code")?.code == 0, "a plan would change what up does not");
    let built = project.idle("up --build")?;
    ensure!(built.err.contains("building shop-web") && project.image("web")? == first, "{built}");

    // Another file: as Compose, only a build finds it.
    project.write("page", "two")?;
    project.idle("up")?;
    project.ok("up --build --wait")?;
    ensure!(project.file("/page")? == "two" && project.image("web")? != first);
    // The generation before has its image yet.
    project.machine.hivemind(&["rollback", "-n", "shop", "web", "--wait"])?.ok()?;
    ensure!(project.file("/page")? == "one" && project.image("web")? == first);
    project.ok("up --wait")?;
    ensure!(project.file("/page")? == "two", "up goes to what was built last");
    Ok(())
}

#[test]
fn a_project_is_built_by_buildah_and_changes_by_what_comes_of_it() -> Result<()> {
    let (machine, base) = machine("builds")?;
    let environment = builders::buildah(&machine.sandbox, machine.registry.host())?;
    let project = shop(&machine, environment, &base)?;
    goes_its_way(&project, "buildah")?;

    // A prune takes the name that no app has. What runs is known all the same.
    machine.hivemind(&["image", "prune"])?.ok()?;
    ensure!(!project.images()?.iter().any(|name| name.ends_with("shop-web:latest")));
    ensure!(!project.idle("up")?.err.contains("building"));

    // One that fails changes nothing, and its words are seen, whoever wants to be quiet.
    project.write("Dockerfile", &format!("{}RUN echo so it goes; exit 3\n", dockerfile(&base)))?;
    let (before, images) = (project.instances()?, project.images()?);
    for line in ["up --build", "build", "up --build --quiet"] {
        let words = ["so it goes", "image shop-web could not be built, and nothing is changed", "buildah ended with 3"];
        project.refused(line, 1, "E-BUILD-001", &words)?;
    }
    ensure!(project.instances()? == before && project.images()? == images);
    let leftovers = fs::read_dir(machine.sandbox.dir())?.flatten().map(|entry| entry.file_name());
    ensure!(!leftovers.into_iter().any(|name| name.to_string_lossy().starts_with("hivemind-build-")));

    // By hand; services take it at the next up.
    project.write("Dockerfile", &dockerfile(&base))?;
    let built = project.ok("build web --build-arg COLOUR=blue --no-cache -o json")?;
    let built: Value = serde_json::from_str(&built.out)?;
    ensure!(built[0]["image"] == "shop-web" && built[0]["services"][0] == "web", "{built}");
    ensure!(project.file("/colour")? == "red");
    project.ok("up --wait")?;
    ensure!(project.file("/colour")? == "blue");
    ensure!(project.image("web")? == format!("shop-web@{}", built[0]["digest"].as_str().unwrap_or_default()));
    machine.close()
}

/// Its packages are those of another Debian, which need not be reached.
#[test]
fn docker_builds_the_same() -> Result<()> {
    if !long() {
        return Ok(());
    }
    let (machine, base) = machine("builds-docker")?;
    let environment = builders::docker(&machine.sandbox, &machine.containerd.socket())?;
    let project = shop(&machine, environment, &base)?;
    goes_its_way(&project, "docker")?;
    project.write("Dockerfile", &format!("{}RUN echo so it goes; exit 3\n", dockerfile(&base)))?;
    project.refused("up --build", 1, "E-BUILD-001", &["so it goes", "docker ended with 1"])?;
    machine.close()
}

#[test]
fn what_cannot_be_built_is_said_before_anything_is_done() -> Result<()> {
    let (machine, base) = machine("builds-not")?;
    let nothing = machine.sandbox.dir().join("nothing");
    fs::create_dir_all(&nothing)?;
    // A shell to come into the folder by, and no builder.
    symlink("/bin/sh", nothing.join("sh"))?;
    let mut project = shop(&machine, vec![("PATH", nothing.into())], &base)?;
    let words = [
        "shop-web is to be built, and nothing on this machine builds images",
        "buildkit: there is no buildctl in PATH",
        "docker: there is no docker in PATH",
        "buildah: there is no buildah in PATH",
        "apt-get install buildah",
    ];
    project.refused("up", 1, "E-BUILD-002", &words)?;
    project.refused("build", 1, "E-BUILD-002", &words)?;
    project.refused("up --builder buildah", 1, "E-BUILD-002", &["buildah cannot build shop-web on this machine"])?;
    let missing = ["image shop-web is not on the node, and is not built: --no-build", "hivemind up --build"];
    project.refused("up --no-build", 3, "E-IMG-001", &missing)?;
    ensure!(machine.hivemind(&["ps", "-n", "shop"])?.code == 3, "the namespace was made");

    // What is there needs no builder, wherever it comes from.
    machine.hivemind(&["image", "pull", &base])?.ok()?;
    machine.hivemind(&["image", "tag", &base, "shop-web"])?.ok()?;
    project.ok("up --wait")?;
    let exact = project.image("web")?;
    ensure!(exact.starts_with("shop-web@sha256:"));
    project.idle("up --no-build")?;
    // A name with a digest is of that image, and no other gets it.
    machine.hivemind(&["image", "tag", "shop-web", &exact])?.ok()?;
    let false_name = format!("shop-web@sha256:{}", "0".repeat(64));
    let said = machine.hivemind(&["image", "tag", "shop-web", &false_name])?;
    ensure!(said.code == 2 && said.err.contains("cannot be chosen"), "{said}");
    let archive = machine.sandbox.dir().join("own.tar").display().to_string();
    machine.hivemind(&["image", "export", "shop-web", "-f", &archive])?.ok()?;
    let said = machine.hivemind(&["image", "import", &archive, "--name", &false_name])?;
    ensure!(said.code == 1 && said.err.contains("error[E-IMG-006]"), "{said}");

    // What has a name of its own may be in its registry. It is asked first; what is not there is built.
    let named =
        |image: &str| format!("services: {{web: {{image: '{image}', build: {{context: ., network: none}}}}}}\n");
    project.write("compose.yaml", &named(&base))?;
    project.ok("up --wait")?;
    ensure!(project.image("web")?.starts_with(&format!("{base}@sha256:")));
    let own = format!("{}/own:1", machine.registry.host());
    project.write("compose.yaml", &named(&own))?;
    project.refused("up", 1, "E-BUILD-002", &[&format!("image {own} is not to be had, and is built")])?;
    project.refused("up --no-build", 3, "E-IMG-001", &["--no-build"])?;

    // What the builder that is there cannot do is refused at its place.
    project.environment = builders::buildah(&machine.sandbox, machine.registry.host())?;
    let wrong = "services:\n  web:\n    build:\n      context: .\n      network: own\n      platforms: [linux/amd64, linux/arm64]\n";
    project.write("compose.yaml", wrong)?;
    let words = [
        "compose.yaml:5:7: services.web.build.network: buildah knows default, host and none, and not own",
        "compose.yaml:6:7: services.web.build.platforms: buildah",
    ];
    project.refused("build", 2, "E-SPEC-001", &words)?;
    project.refused("build other", 2, "E-SPEC-001", &["other"])?;

    // Without a base, with the Dockerfile in the file, at every up.
    let inline = "\
services:
  web:
    image: own:1
    pull_policy: build
    command: [/busybox, sleep, 1d]
    build: {context: ., dockerfile_inline: \"FROM scratch\\nCOPY busybox page /\\n\"}
";
    let busybox = xtask::deb::unpacked("busybox-static")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| busybox.join(path));
    let busybox = busybox.iter().find(|path| path.is_file()).context("no busybox")?;
    fs::copy(busybox, project.dir.join("busybox"))?;
    project.write("compose.yaml", inline)?;
    let up = project.ok("up --wait")?;
    ensure!(up.err.contains("building own:1") && project.image("web")?.starts_with("own:1@sha256:"), "{up}");
    ensure!(project.idle("up")?.err.contains("building own:1"), "pull_policy: build builds each time");
    machine.close()
}
