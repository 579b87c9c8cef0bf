//! Floors and libraries: which module may use which, and name what.

/// A module's floor: it may use floors below its own, and itself. Longer paths win over shorter ones.
const FLOORS: &[(&str, u8)] = &[
    ("model", 0),
    ("spec", 0),
    ("lifecycle", 0),
    ("schedule", 1),
    ("ipam", 1),
    ("policy", 1),
    ("dataplane::tables", 1),
    ("dataplane::follow", 1),
    ("dataplane::share", 1),
    ("dataplane::diff", 1),
    ("dataplane::drift", 1),
    ("dataplane::round_trips", 1),
    ("agent::machine", 1),
    ("store", 2),
    ("runtime", 2),
    ("net", 2),
    ("storage", 2),
    ("dataplane", 2),
    ("dns", 2),
    ("health", 2),
    ("observe", 2),
    ("control", 3),
    ("agent", 3),
    ("api", 4),
    ("client", 4),
    ("compat", 4),
    ("cli", 4),
    ("daemon", 5),
];

/// Edges inside a floor, or up, that are meant, each with its reason.
const MEANT: &[(&str, &str, &str)] = &[
    ("model", "spec", "an app's row holds its specification"),
    ("lifecycle", "model", "the clock gives timestamps"),
    ("schedule", "ipam", "a placed instance, and a service, is given its addresses"),
    ("spec", "model", "quantities and protocols are words"),
    ("dataplane::tables", "policy", "rows are made of what policies compile to"),
    ("dataplane::tables", "net", "rows are made of links (types only)"),
    ("dataplane::follow", "dataplane::tables", "it makes the rows"),
    ("dataplane::follow", "policy", "rows are made of what policies compile to"),
    ("dataplane::follow", "net", "rows are made of links (types only)"),
    ("dataplane::share", "dataplane::tables", "backends of rows are shared out"),
    ("dataplane::drift", "dataplane::diff", "a difference is what would be changed"),
    (
        "dataplane",
        "net",
        "programs are attached to links, and what the host has begun before its policies is looked up",
    ),
    ("agent::machine", "runtime", "the state of a container is a word of the seam (types only)"),
    ("health", "runtime", "an exec check runs in the container"),
    ("control", "observe", "what was decided is said as events"),
    ("cli", "client", "the command line speaks through the client"),
    ("cli", "api", "the client's answers are the API's documents"),
    ("client", "api", "the client's answers are the API's documents"),
    ("cli", "compat", "files of other tools are read where they are typed"),
    ("cli", "daemon", "the daemon command starts the daemon"),
];

/// Libraries that one module alone may name.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("redb", &["store"]),
    ("containerd_client", &["runtime"]),
    ("reqwest", &["runtime"]),
    ("http_auth", &["runtime"]),
    ("oci_spec", &["runtime"]),
    ("rtnetlink", &["net"]),
    ("netlink_packet_route", &["net"]),
    ("nftables", &["net"]),
    ("tonic_health", &["health"]),
    ("aya", &["dataplane"]),
    ("hickory_server", &["dns"]),
    ("hickory_resolver", &["dns"]),
    ("hickory_proto", &["dns"]),
    ("prometheus_client", &["observe"]),
    ("axum", &["api"]),
    ("toml", &["cli"]),
    ("pcap_file", &["cli"]),
    ("indicatif", &["cli"]),
    ("comfy_table", &["cli"]),
    ("tokio_tungstenite", &["client"]),
    ("saphyr_parser", &["compat"]),
    ("jsonschema", &["compat"]),
];

/// The crate that is no module, but has several.
const CORE: &str = "core";
/// Stands beside the house.
const FAKES: &str = "fakes";

/// Floors and libraries of one file of the product, which has this path in the tree.
pub(super) fn check(name: &str, text: &str, faults: &mut Vec<String>) {
    let Some((root, module)) = module(name) else { return };
    let Some((own, floor)) = floor(&module) else {
        faults.push(format!("{name}: the module is on no floor; add it to tidy and docs/ARCHITECTURE.md"));
        return;
    };
    // Those in a file of their own do not ship either.
    let tests = module.split("::").any(|part| part == "tests");
    let code = if tests { String::new() } else { shipped(text) };
    for used in uses(root, &module, &code) {
        let Some((other, above)) = self::floor(&used) else { continue };
        let meant = MEANT.iter().any(|(from, to, _)| *from == own && *to == other);
        let same = other == own;
        if !same && above >= floor && other != "lifecycle" && !meant {
            faults.push(format!("{name}: {own} (floor {floor}) uses {other} (floor {above})"));
        }
    }
    for (library, homes) in LIBRARIES {
        let names = code.contains(&format!("{library}::")) || code.contains(&format!("use {library};"));
        if names && !homes.contains(&own.split("::").next().unwrap_or_default()) {
            faults.push(format!("{name}: names {library}, which only {} may", homes.join(", ")));
        }
    }
}

/// The module that a file is, with the one that its crate is (none if the crate has several); nothing if it has no floor.
/// A crate under `crates/` is the module of its name; [`CORE`] and the main crate have modules beneath them.
fn module(name: &str) -> Option<(&str, String)> {
    let path = name.strip_suffix(".rs")?;
    let (root, path) = match path.strip_prefix("crates/") {
        Some(path) => path.split_once("/src/")?,
        None => ("", path.strip_prefix("hivemind/src/")?),
    };
    let path = path.trim_end_matches("/mod").replace('/', "::");
    match (root, path.as_str()) {
        (FAKES, _) | (CORE | "", "lib" | "main") => None,
        (CORE | "", _) => Some(("", path)),
        (root, "lib") => Some((root, root.to_owned())),
        (root, _) => Some((root, format!("{root}::{path}"))),
    }
}

/// The code that ships, without comments. Tests may use anything: they compose.
fn shipped(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
        } else if lines.next().is_some_and(|item| item.starts_with("mod ") && item.ends_with('{')) {
            // A module of tests is the last of its file; other items for tests are one line.
            break;
        }
    }
    code
}

/// The entry of [`FLOORS`] that a module path stands under.
fn floor(module: &str) -> Option<(&'static str, u8)> {
    let under = |prefix: &str| module == prefix || module.starts_with(&format!("{prefix}::"));
    FLOORS.iter().filter(|(prefix, _)| under(prefix)).max_by_key(|(prefix, _)| prefix.len()).copied()
}

/// The paths of modules that one names, by a crate or by `super`; groups are expanded to their first step.
fn uses(root: &str, module: &str, code: &str) -> Vec<String> {
    let mut all = beneath(root, code, "crate::");
    all.extend(beneath("", code, &format!("hivemind_{CORE}::")));
    for (other, _) in FLOORS.iter().filter(|(other, _)| !other.contains("::")) {
        all.extend(beneath(other, code, &format!("hivemind_{other}::")));
    }
    let mut above = module;
    let mut prefix = String::new();
    // `super` is who has the module, `super::super` who has that one.
    while let Some((parent, _)) = above.rsplit_once("::") {
        prefix += "super::";
        above = parent;
        all.extend(beneath(above, code, &prefix));
    }
    all.extend(beneath("", code, &(prefix + "super::")));
    all
}

/// What follows `prefix`, which stands for the module `above`.
fn beneath(above: &str, code: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let other = |before: &str| before.ends_with("super::") || before.ends_with(char::is_alphanumeric);
        if other(&code[..at]) || rest.starts_with("super::") {
            continue;
        }
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut item)),
                    c if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.push(item);
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect());
        }
    }
    let named = found.iter().map(|path| path.trim().trim_end_matches(':')).filter(|path| !path.is_empty());
    named.map(|path| if above.is_empty() { path.to_owned() } else { format!("{above}::{path}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(path: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        check(&format!("{path}.rs"), text, &mut faults);
        faults
    }

    #[test]
    fn looking_up_is_a_fault() {
        let store = "crates/store/src/lib";
        assert_eq!(faults_of("crates/core/src/model/ids", "use hivemind_control::Control;").len(), 1);
        assert_eq!(faults_of("crates/core/src/model/ids", "use crate::{ipam::Pool, spec::v1::App};").len(), 1);
        let control = "use hivemind_core::{model::App, spec::v1::A};\nuse hivemind_store::{Store, Txn};";
        assert_eq!(faults_of("crates/control/src/lib", control).len(), 0);
        assert_eq!(faults_of(store, "use hivemind_api::{A, B};\nuse hivemind_runtime::Runtime;").len(), 3);
        assert_eq!(faults_of(store, "// hivemind_api::A\n#[cfg(test)]\nuse hivemind_api::A;").len(), 0);
        assert_eq!(faults_of(store, "#[cfg(test)]\nmod tests;\nuse hivemind_api::A;").len(), 1);
        assert_eq!(faults_of(store, "#[cfg(test)]\nmod tests {\nuse hivemind_api::A;\n}").len(), 0);
        assert_eq!(faults_of("hivemind/src/daemon/mod", "use crate::{cli::A, store::B};").len(), 0);
    }

    #[test]
    fn looking_up_by_super_is_a_fault_as_well() {
        for (path, text, faults) in [
            ("crates/dataplane/src/follow", "use super::{tables::Tables, bpf::BpfDataplane};", 1),
            ("crates/dataplane/src/follow", "use super::tables::Tables;", 0),
            ("crates/dataplane/src/diff", "use super::DataplaneError;", 1),
            ("crates/dataplane/src/share/tables", "use super::Table;", 0),
            ("crates/dataplane/src/share/tables", "fn f(x: super::super::Watch) {}", 1),
            ("crates/dataplane/src/diff/tests", "use super::super::bpf::BpfDataplane;", 0),
            ("crates/agent/src/machine", "pub(super) fn f() {}", 0),
            ("crates/dataplane/src/follow", "use crate::bpf::BpfDataplane;", 1),
            ("hivemind/src/cli/app", "use super::super::daemon::A;", 0),
            ("crates/core/src/model/app", "use super::super::ipam::A;", 1),
        ] {
            assert_eq!(faults_of(path, text).len(), faults, "{path}: {text}");
        }
    }

    #[test]
    fn a_library_out_of_its_module_is_a_fault() {
        assert_eq!(faults_of("crates/control/src/lib", "fn f(d: redb::Database) {}").len(), 1);
        assert_eq!(faults_of("crates/store/src/redb/engine", "fn f(d: redb::Database) {}").len(), 0);
    }

    #[test]
    fn a_module_without_a_floor_is_a_fault() {
        assert_eq!(faults_of("crates/utils/src/lib", "").len(), 1);
    }
}
