//! Policies between real containers: what a change opens and cuts, over a kill of the daemon as well.

use anyhow::{Result, ensure};
use hivemind_tests::{PATIENCE, machine};
use xtask::{machine::Machine, wait};

/// Kubernetes' own words: nothing comes in to anybody.
const DENY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny
spec:
  podSelector: {}
  policyTypes: [Ingress]
";

/// Who has the label may ask the web server.
const ALLOW: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
spec:
  podSelector:
    matchLabels: {app: web}
  ingress:
  - from:
    - podSelector:
        matchExpressions:
        - {key: role, operator: In, values: [client]}
    ports:
    - {protocol: TCP, port: 80}
";

fn ok(machine: &Machine, words: &[&str]) -> Result<String> {
    machine.hivemind(words)?.ok()
}

fn apply(machine: &Machine, text: &str) -> Result<()> {
    let path = machine.daemon.dir().join("policy.yaml");
    std::fs::write(&path, text)?;
    ok(machine, &["policy", "apply", "-f", &path.display().to_string()]).map(drop)
}

/// Whether an app's instance gets the page, on IPv4 and on IPv6.
fn gets(machine: &Machine, scope: &[&str], app: &str, name: &str) -> Result<[bool; 2]> {
    let ask = |family: &str| -> Result<bool> {
        let asks =
            ["exec", app, "--", "timeout", "2", "ask", family, &format!("http://{name}/"), "1"].map(str::to_owned);
        let words: Vec<&str> = scope.iter().copied().chain(asks.iter().map(String::as_str)).collect();
        let said = machine.hivemind(&words)?;
        Ok(said.code == 0 && said.out.starts_with("Hello from "))
    };
    Ok([ask("4")?, ask("6")?])
}

fn until(machine: &Machine, scope: &[&str], app: &str, name: &str, expected: bool) -> Result<()> {
    wait::until(&format!("{app} to be {}", if expected { "let in" } else { "kept out" }), PATIENCE, || {
        let got = gets(machine, scope, app, name)?;
        ensure!(got == [expected; 2], "{app}: {got:?}");
        Ok(())
    })
}

fn deploy(machine: &Machine, scope: &[&str], image: &str, name: &str, label: &str) -> Result<()> {
    let app = ["app", "deploy", "--image", image, "--name", name, "--label", label, "--entrypoint", "sleep", "--wait"];
    ok(machine, &[scope, &app, &["--", "1d"]].concat()).map(drop)
}

#[test]
fn policies_open_and_cut() -> Result<()> {
    let (mut machine, image) = machine("policy")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--label", "app=web", "--service", "web.local"];
    ok(&machine, &[&web[..], &["--port", "8080:80", "--wait"]].concat())?;
    deploy(&machine, &[], &image, "client", "role=client")?;
    deploy(&machine, &[], &image, "other", "role=other")?;
    for app in ["client", "other"] {
        until(&machine, &[], app, "web.local", true)?;
    }

    apply(&machine, DENY)?;
    for app in ["client", "other"] {
        until(&machine, &[], app, "web.local", false)?;
    }
    apply(&machine, ALLOW)?;
    until(&machine, &[], "client", "web.local", true)?;
    ensure!(gets(&machine, &[], "other", "web.local")? == [false; 2], "a label opens for everybody");
    // The node itself is never kept out: health checks, and who publishes.
    ensure!(
        ok(&machine, &["app", "info", "web", "-o", "json"])?.contains("\"state\": \"ready\""),
        "the check is kept out"
    );

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    until(&machine, &[], "client", "web.local", true)?;
    ensure!(gets(&machine, &[], "other", "web.local")? == [false; 2], "a restart has opened it");

    ok(&machine, &["policy", "delete", "default-deny"])?;
    ok(&machine, &["policy", "delete", "web"])?;
    until(&machine, &[], "other", "web.local", true)?;
    machine.close()
}

#[test]
fn tenants_are_apart() -> Result<()> {
    let (machine, image) = machine("tenants")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--port", "80", "--wait"];
    ok(&machine, &web)?;
    ok(&machine, &["tenant", "create", "acme"])?;
    let acme = ["-T", "acme"];
    deploy(&machine, &acme, &image, "client", "role=client")?;
    deploy(&machine, &[], &image, "client", "role=client")?;
    until(&machine, &[], "client", "web.local", true)?;
    ensure!(gets(&machine, &acme, "client", "web.local")? == [false; 2], "another tenant reaches it");

    apply(&machine, "policy: open\ningress: [{from: [same-tenant, other-tenants], ports: [80]}]\n")?;
    until(&machine, &acme, "client", "web.local", true)?;
    apply(&machine, "policy: open\ningress: [{ports: [80]}]\n")?;
    until(&machine, &acme, "client", "web.local", false)?;
    ensure!(gets(&machine, &[], "client", "web.local")? == [true; 2], "the tenant's own are kept out");
    machine.close()
}

/// The operator's word before all others: nobody reaches port 80, but for who has the label.
const GUARD: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress:
  - action: Accept
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: client}}}}]
  - action: Deny
    from: [{namespaces: {}}]
    protocols: [{tcp: {destinationPort: {number: 80}}}]
";

#[test]
fn tiers_decide_first_and_why_tells_who_does() -> Result<()> {
    let (machine, image) = machine("tiers")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--label", "app=web", "--service", "web.local"];
    ok(&machine, &[&web[..], &["--port", "8080:80", "--wait"]].concat())?;
    deploy(&machine, &[], &image, "client", "role=client")?;
    deploy(&machine, &[], &image, "other", "role=other")?;
    let path = machine.daemon.dir().join("guard.yaml").display().to_string();
    std::fs::write(&path, GUARD)?;
    let test = ["policy", "test", "-f", &path, "--from", "other", "--to", "web", "--port", "80/tcp"];
    let said = machine.hivemind(&test)?;
    ensure!(said.code == 1 && said.err.contains("E-POL-001"), "{}: {}", said.code, said.err);
    ensure!(machine.hivemind(&[&test[..], &["--denied"]].concat())?.code == 0, "it is expected");
    until(&machine, &[], "other", "web.local", true)?;
    apply(&machine, GUARD)?;
    until(&machine, &[], "other", "web.local", false)?;
    until(&machine, &[], "client", "web.local", true)?;
    let why = ok(&machine, &["why", "other", "web:80"])?;
    ensure!(why.contains("rule 1 of tier policy guard denies it"), "{why}");
    ensure!(ok(&machine, &["policy", "tier", "show", "guard"])?.contains("admin, priority 10"), "what it says");
    ok(&machine, &["policy", "tier", "rm", "guard"])?;
    until(&machine, &[], "other", "web.local", true)?;
    std::fs::write(&path, "policy: nobody\ninstances: app=nobody\ningress: []\n")?;
    let said = machine.hivemind(&["policy", "apply", "-f", &path])?;
    ensure!(said.code == 0 && said.err.contains("selects no instance now"), "{said}");
    ok(&machine, &["policy", "delete", "nobody"])?;
    let named = "policy: web\ningress: [{ports: [http]}]\n";
    std::fs::write(&path, named)?;
    let refused = machine.hivemind(&["policy", "apply", "-f", &path])?;
    ensure!(
        refused.code == 2 && refused.err.contains("ports of apps have no names yet"),
        "{}: {}",
        refused.code,
        refused.err
    );
    machine.close()
}
