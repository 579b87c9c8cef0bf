//! CDI: what vendors say of their devices in `/etc/cdi` and `/var/run/cdi`, version 1.0 of the specification
//! (github.com/cncf-tags/container-device-interface). Pure: the files' text comes in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// A file of CDI. Unknown fields are left: vendors write for versions that come later.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    cdi_version: String,
    /// `vendor/class`.
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Cdi,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Cdi,
}

/// What is changed of a container that has a device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cdi {
    env: Vec<String>,
    pub device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    groups: Vec<u32>,
    /// What the host says of `device_nodes`; not of the file.
    #[serde(skip)]
    pub devices: Vec<super::Device>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    pub path: String,
    pub host_path: Option<String>,
    pub permissions: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    timeout: Option<u64>,
}

/// Files by who wins (the first) and path.
pub(crate) type Files = BTreeMap<(usize, String), String>;

/// What the devices `names` ask for, of all `files`. Files of other kinds may be broken: only those
/// that are asked for must be whole.
pub(crate) fn cdi_of(names: &[String], files: &Files) -> Result<Vec<Cdi>, String> {
    let mut edits = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    for name in names {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let mut known = Vec::new();
        let mut broken = Vec::new();
        let mut found = false;
        for ((_, path), text) in files {
            let file: Kind = match serde_norway::from_str(text) {
                Ok(file) => file,
                Err(why) => {
                    broken.push(format!("{path} cannot be read: {why}"));
                    continue;
                }
            };
            if file.kind != kind || !file.cdi_version.starts_with(['0', '1']) {
                continue;
            }
            known.extend(file.devices.iter().map(|device| device.name.clone()));
            if let Some(device) = file.devices.into_iter().find(|entry| entry.name == device) {
                // What holds for the kind holds once, however many of its devices there are.
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                    edits.push(file.container_edits);
                }
                edits.push(device.container_edits);
                found = true;
                break;
            }
        }
        if !found {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let mut why =
                format!("this node has no CDI device {name}; of {kind} it has: {known} (/etc/cdi, /var/run/cdi)");
            broken.iter().for_each(|broken| why += &format!("; {broken}"));
            return Err(why);
        }
    }
    Ok(edits)
}

impl Cdi {
    /// Changes the specification `spec`.
    pub(super) fn apply(&self, spec: &mut Value) {
        extend(spec, &["process", "env"], self.env.iter().map(|pair| json!(pair)));
        extend(spec, &["process", "user", "additionalGids"], self.groups.iter().map(|group| json!(group)));
        extend(spec, &["linux", "devices"], self.devices.iter().map(super::Device::node));
        extend(spec, &["linux", "resources", "devices"], self.devices.iter().map(super::Device::rule));
        let mounts = self.mounts.iter().map(|mount| {
            let kind = mount.kind.as_deref().unwrap_or("bind");
            let (to, from) = (&mount.container_path, &mount.host_path);
            json!({"destination": to, "source": from, "type": kind, "options": mount.options})
        });
        extend(spec, &["mounts"], mounts);
        for hook in &self.hooks {
            let mut made = json!({"path": hook.path, "args": hook.args, "env": hook.env});
            if let Some(seconds) = hook.timeout {
                made["timeout"] = json!(seconds);
            }
            extend(spec, &["hooks", &hook.hook_name], [made].into_iter());
        }
    }
}

/// Adds to a list that may not be there yet.
fn extend(spec: &mut Value, path: &[&str], more: impl Iterator<Item = Value>) {
    let more: Vec<Value> = more.collect();
    if more.is_empty() {
        return;
    }
    let list = path.iter().fold(spec, |inner, name| &mut inner[*name]);
    match list.as_array_mut() {
        Some(list) => list.extend(more),
        None => *list = Value::Array(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "example.com/gpu",
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0"}], "env": ["GPU=0"]}},
            {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu1", "hostPath": "/dev/g1"}]}}
        ],
        "containerEdits": {
            "mounts": [{"hostPath": "/usr/lib/gpu.so", "containerPath": "/lib/gpu.so", "options": ["ro", "bind"]}],
            "hooks": [{"hookName": "createContainer", "path": "/usr/bin/ctk", "args": ["ctk", "link"]}]
        }
    }"#;
    const NET: &str =
        "cdiVersion: 0.5.0\nkind: example.com/net\ndevices:\n- name: all\n  containerEdits:\n    env: [NET=1]\n";

    fn files() -> Files {
        let files = [("/etc/cdi/gpu.json", GPU), ("/etc/cdi/net.yaml", NET), ("/etc/cdi/torn.json", "{")];
        files.map(|(path, text)| ((0, path.to_owned()), text.to_owned())).into()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_holds_for_a_kind_holds_once() {
        let edits = cdi_of(&names(&["example.com/gpu=0", "example.com/gpu=1", "example.com/net=all"]), &files());
        let edits = edits.expect("are there");
        assert_eq!(edits.iter().map(|edits| edits.mounts.len()).sum::<usize>(), 1);
        let nodes: Vec<_> = edits.iter().flat_map(|edits| &edits.device_nodes).collect();
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[1].host_path.as_deref(), Some("/dev/g1"));
        let mut spec = json!({"process": {"env": ["A=1"], "user": {}}, "mounts": [], "linux": {"resources": {}}});
        edits.iter().for_each(|edits| edits.apply(&mut spec));
        assert_eq!(spec["process"]["env"], json!(["A=1", "GPU=0", "NET=1"]));
        assert_eq!(spec["mounts"][0]["destination"], "/lib/gpu.so");
        assert_eq!(spec["hooks"]["createContainer"][0]["args"], json!(["ctk", "link"]));
        assert_eq!(spec["linux"], json!({"resources": {}}), "the host was not asked for the nodes");
    }

    #[test]
    fn a_device_that_is_not_there_is_named_with_those_that_are() {
        let why = cdi_of(&names(&["example.com/gpu=7"]), &files()).expect_err("is not there");
        assert!(why.contains("no CDI device example.com/gpu=7; of example.com/gpu it has: 0, 1"), "{why}");
        assert!(why.contains("/etc/cdi/torn.json cannot be read"), "{why}");
        assert!(cdi_of(&names(&["other.com/x=0"]), &BTreeMap::new()).expect_err("nothing is").contains("it has: none"));
    }
}
