//! iptables rules of the shape that kube-proxy's iptables mode makes: one long chain that is tried rule by rule, a
//! chain per service with a random choice, and a chain per endpoint.

use std::fmt::Write as _;

use super::{SERVICE_PORT, Service};

const BASE: &str = r#"*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
"#;
const HOOKS: &str = r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"#;

/// Input for `iptables-restore` that loads `services` (IPv4) into an empty namespace.
pub(crate) fn load(services: &[Service]) -> String {
    let mut rules = BASE.to_owned();
    services.iter().for_each(|service| chains(&mut rules, service));
    rules += HOOKS;
    services.iter().for_each(|service| portal(&mut rules, "-A", service));
    services.iter().for_each(|service| choice(&mut rules, service));
    rules += "COMMIT\n";
    rules
}

/// Input for `iptables-restore --noflush` that adds one service.
pub(crate) fn add(service: &Service) -> String {
    let mut rules = "*nat\n".to_owned();
    chains(&mut rules, service);
    portal(&mut rules, "-A", service);
    choice(&mut rules, service);
    rules += "COMMIT\n";
    rules
}

/// Input for `iptables-restore --noflush` that removes it.
pub(crate) fn remove(service: &Service) -> String {
    let mut rules = "*nat\n".to_owned();
    // Declared chains are emptied, so that they can go once nothing leads to them.
    chains(&mut rules, service);
    portal(&mut rules, "-D", service);
    let _ = writeln!(rules, "-X KUBE-SVC-{:016X}", service.number);
    for i in 0..service.backends.len() {
        let _ = writeln!(rules, "-X KUBE-SEP-{:014X}{i:02X}", service.number);
    }
    rules += "COMMIT\n";
    rules
}

fn chains(rules: &mut String, service: &Service) {
    let _ = writeln!(rules, ":KUBE-SVC-{:016X} - [0:0]", service.number);
    for i in 0..service.backends.len() {
        let _ = writeln!(rules, ":KUBE-SEP-{:014X}{i:02X} - [0:0]", service.number);
    }
}

fn portal(rules: &mut String, action: &str, service: &Service) {
    let (number, address) = (service.number, service.address);
    let _ = writeln!(
        rules,
        "{action} KUBE-SERVICES -d {address}/32 -p tcp -m comment --comment \"default/svc-{number}:http cluster IP\" \
         -m tcp --dport {SERVICE_PORT} -j KUBE-SVC-{number:016X}"
    );
}

fn choice(rules: &mut String, service: &Service) {
    let (number, address) = (service.number, service.address);
    let comment = format!("-m comment --comment \"default/svc-{number}:http");
    let _ = writeln!(
        rules,
        "-A KUBE-SVC-{number:016X} ! -s 10.88.0.0/16 -d {address}/32 -p tcp {comment} cluster IP\" \
         -m tcp --dport {SERVICE_PORT} -j KUBE-MARK-MASQ"
    );
    let count = service.backends.len();
    for (i, backend) in service.backends.iter().enumerate() {
        let chain = format!("KUBE-SEP-{number:014X}{i:02X}");
        let chance = match count - i {
            1 => String::new(),
            left => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
        };
        let ip = backend.ip();
        let _ = write!(
            rules,
            "-A KUBE-SVC-{number:016X} {comment} -> {backend}\"{chance} -j {chain}\n\
             -A {chain} -s {ip}/32 {comment}\" -j KUBE-MARK-MASQ\n\
             -A {chain} -p tcp {comment}\" -m tcp -j DNAT --to-destination {backend}\n"
        );
    }
}

/// Input for `iptables-restore` that removes everything.
pub(crate) const EMPTY: &str = "*filter\nCOMMIT\n*nat\nCOMMIT\n";
