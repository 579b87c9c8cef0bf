//! The main job, end to end.
use xtask::{image, machine::Machine};

#[test]
fn a_service_answers() {
    let machine = Machine::start("first", &[]).expect("a machine");
    let run = || -> anyhow::Result<()> {
        let image = machine.push(&image::web()?, "web", "1")?;
        for args in [
            vec!["app", "deploy", "--image", &image, "--name", "web-app", "--service", "web.local", "--replicas", "3", "--port", "8080:80", "--wait", "--timeout", "60s"],
            vec!["ps", "-o", "wide"],
            vec!["service", "info", "web.local"],
            vec!["logs", "web-app"],
            vec!["exec", "web-app", "--", "cat", "/etc/resolv.conf"],
            vec!["exec", "web-app", "--", "ip", "addr"],
            vec!["exec", "web-app", "--", "wget", "-q", "-O-", "http://web.local/"],
            vec!["events"],
        ] {
            let said = machine.hivemind(&args);
            println!("$ hivemind {}\n{said:?}", args.join(" "));
        }
        Ok(())
    };
    let result = run();
    println!("{}", machine.daemon.log());
    result.expect("works");
}
