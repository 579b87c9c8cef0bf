//! The machine the other tests run on: real, cut off from the outside, and gone afterwards.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use xtask::{
    containerd::Containerd,
    image::{self, Image, Index},
    registry::{Access, Registry},
    sandbox::{Sandbox, gone},
    shell,
};

/// A name that no other test and no other run of this one has.
fn unique(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

#[test]
fn nothing_is_left_when_it_is_dropped() -> Result<()> {
    let name = unique("dropped");
    let sandbox = Sandbox::new(&name)?;
    let daemonised =
        sandbox.command("sh").args(["-c", "setsid sleep 1000 & ip link add v0 type veth peer name v1"]).status()?;
    ensure!(daemonised.success(), "{daemonised}");
    drop(sandbox);
    gone(&name)
}

#[test]
fn nothing_is_left_when_its_owner_panics() -> Result<()> {
    let name = unique("panicked");
    let thread = std::thread::spawn({
        let name = name.clone();
        move || {
            let _sandbox = Sandbox::new(&name).unwrap();
            std::panic::resume_unwind(Box::new(()));
        }
    });
    assert!(thread.join().is_err());
    gone(&name)
}

/// Not a test by itself: what the next one kills.
#[test]
#[ignore = "run by another test"]
fn owner_that_waits() -> Result<()> {
    let Some(name) = std::env::var_os("HIVEMIND_TEST_OWNER") else { return Ok(()) };
    let sandbox = Sandbox::new(&name.to_string_lossy())?;
    sandbox.command("sleep").arg("1000").spawn()?;
    Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()?;
    unreachable!("SIGKILL cannot be survived")
}

#[test]
fn nothing_is_left_when_its_owner_is_killed() -> Result<()> {
    let name = unique("killed");
    let mut owner = Command::new(std::env::current_exe()?);
    owner.args(["--exact", "owner_that_waits", "--ignored"]).env("HIVEMIND_TEST_OWNER", &name).stdout(Stdio::null());
    let status = owner.status()?;
    ensure!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(9), "{status}");
    gone(&name)
}

#[test]
fn there_is_no_way_out() -> Result<()> {
    let sandbox = Sandbox::new(&unique("closed"))?;
    let routes = shell::output(sandbox.command("ip").args(["route", "show", "table", "all", "type", "unicast"]))?;
    ensure!(routes.is_empty(), "{routes}");
    let devices = shell::output(sandbox.command("ip").args(["-br", "link"]))?;
    ensure!(devices.lines().all(|device| device.starts_with("lo ")), "{devices}");
    sandbox.close()
}

#[test]
fn containers_run_from_the_registry() -> Result<()> {
    let sandbox = Sandbox::new(&unique("runs"))?;
    let containerd = Containerd::start(&sandbox)?;
    let registry = Registry::start(&sandbox, 5000, Access::Open)?;
    let web = image::web()?;
    let foreign = image::Config { architecture: "s390x".into(), ..image::Config::default() };
    let index = Index::new(vec![Image::new(&[&image::Files::default()], &foreign)?, web]);
    let name = registry.push_index(&sandbox, &index, "web", "1")?;
    // ctr pulls by itself, so it must be inside.
    let ctr = |args: &[&str]| {
        let mut ctr = sandbox.command("ctr");
        shell::output(ctr.arg("--address").arg(containerd.socket()).args(args))
    };
    ctr(&["images", "pull", "--plain-http", &name])?;
    // In the sandbox's group, or it would outlive it.
    let group = format!("/{}/web", sandbox.name());
    ctr(&["run", "--detach", "--net-host", "--cgroup", &group, &name, "web"])?;
    let page = xtask::wait::until("the page", std::time::Duration::from_secs(10), || {
        shell::output(sandbox.command(xtask::deb::program("busybox", "busybox-static")?).args([
            "wget",
            "-q",
            "-O",
            "-",
            "http://[::1]:80/",
        ]))
    })?;
    ensure!(page.starts_with("Hello from "), "{page}");
    let socket = containerd.socket().display().to_string();
    shell::output(Command::new("pgrep").args(["-f", &socket]))?;
    sandbox.close()?;
    ensure!(shell::output(Command::new("pgrep").args(["-f", &socket])).is_err(), "a shim outlived its machine");
    Ok(())
}

#[test]
fn a_registry_with_a_password_refuses_others() -> Result<()> {
    let sandbox = Sandbox::new(&unique("password"))?;
    let registry = Registry::start(&sandbox, 5001, Access::Password)?;
    let name = registry.push(&sandbox, &image::web()?, "secret/web", "1")?;
    let get = |more: &[&str]| {
        let url = format!("http://{}/v2/secret/web/manifests/1", registry.host());
        let mut wget = sandbox.command(xtask::deb::program("busybox", "busybox-static")?);
        wget.args(["wget", "-q", "-O", "-", "--header", "Accept: application/vnd.oci.image.manifest.v1+json"]);
        shell::output(wget.args(more).arg(url))
    };
    ensure!(get(&[]).is_err(), "{name} was given to everybody");
    ensure!(get(&["--header", "Authorization: Basic ZGVtbzpzZWNyZXQ="])?.contains("schemaVersion"));
    sandbox.close()
}
