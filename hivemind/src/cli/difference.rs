//! What a deploy changes of an app, in words: who says only a new image must see that a port goes with it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::spec::v1::{AppSpec, FileSpec, MountSpec};

/// A line for each field that differs, but for the number of instances. Values of the environment, hooks' as well, may be
/// secrets and are not shown.
pub(super) fn lines(before: &AppSpec, after: &AppSpec) -> Vec<String> {
    let document = |spec| serde_json::to_value(spec).unwrap_or_default();
    let mut lines = Vec::new();
    compare("", &document(before), &document(after), &mut lines);
    lines
}

fn compare(path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    if before == after || path == "replicas" {
        return;
    }
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    if (before.is_object() || before.is_null()) && (after.is_object() || after.is_null()) {
        let (old, new) = (fields(before), fields(after));
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let field = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
            compare(&path, &field(&old), &field(&new), lines);
        }
        return;
    }
    let hidden = path.starts_with("env.") || path.starts_with("container.hooks.");
    lines.push(match (before, after) {
        (before, Value::Null) if hidden || before.is_null() => format!("{path} is removed"),
        (before, Value::Null) => format!("{path} is removed, was {}", shown(path, before)),
        (Value::Null, _) | (_, _) if hidden => format!("{path} is set anew"),
        (Value::Null, after) => format!("{path} is {}", shown(path, after)),
        (before, after) => format!("{path} is {}, was {}", shown(path, after), shown(path, before)),
    });
}

fn shown(path: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(|item| shown(path, item)).collect::<Vec<_>>().join(" "),
        Value::Object(port) if path == "ports" => {
            let part = |name: &str| port.get(name).map(|value| shown(path, value)).unwrap_or_default();
            let published = port.get("published").map(|value| format!("{}:", shown(path, value))).unwrap_or_default();
            format!("{published}{}/{}", part("target"), part("protocol"))
        }
        Value::Object(_) if path == "secrets" || path == "configs" => {
            match serde_json::from_value::<FileSpec>(value.clone()) {
                Ok(file) => file.to_string(),
                Err(_) => value.to_string(),
            }
        }
        Value::Object(_) if path == "mounts" => match serde_json::from_value::<MountSpec>(value.clone()) {
            Ok(mount) => mount.to_string(),
            Err(_) => value.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_said_is_named_and_secrets_are_not() {
        let mut before = AppSpec::new("web:1");
        before.ports = vec!["8081:80".parse().expect("a port")];
        before.services = vec!["own.local".into()];
        before.env.insert("PASSWORD".into(), "secret".into());
        before.mounts = vec!["data:/data".parse().expect("a mount")];
        before.resources.memory = Some(crate::model::Bytes(64 << 20));
        let mut after = AppSpec::new("web:2");
        after.replicas = 9;
        after.mounts = ["data:/data:ro", "/srv:/www"].map(|text| text.parse().expect("a mount")).to_vec();
        after.env.insert("TOKEN".into(), "secret".into());
        assert_eq!(
            lines(&before, &after),
            [
                "env.PASSWORD is removed",
                "env.TOKEN is set anew",
                "image is web:2, was web:1",
                "mounts is data:/data:ro /srv:/www, was data:/data",
                "ports is removed, was 8081:80/tcp",
                "resources.memory is removed, was 64Mi",
                "services is removed, was own.local",
            ]
        );
        assert_eq!(lines(&after, &after), Vec::<String>::new());
    }
}
