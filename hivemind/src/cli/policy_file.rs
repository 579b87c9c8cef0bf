//! Policies from a file: our own form only, YAML or JSON, `{name, namespace?, spec}`. The one reader of all forms,
//! Kubernetes' among them, takes this one's place.

use serde::Deserialize;

use crate::{
    model::{NamespaceName, PolicyKey, PolicyName, Scope},
    spec::v1::PolicySpec,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: PolicyName,
    namespace: Option<NamespaceName>,
    spec: PolicySpec,
}

/// All policies of a text, or all its faults. `scope` is theirs if they name no namespace.
pub(super) fn read(text: &str, scope: &Scope) -> Result<Vec<(PolicyKey, PolicySpec)>, Vec<String>> {
    let (mut policies, mut faults) = (Vec::new(), Vec::new());
    for (at, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        // By way of JSON: YAML itself would want tags for what is one of several kinds.
        let value = serde_json::Value::deserialize(document).map_err(|error| error.to_string());
        if value == Ok(serde_json::Value::Null) {
            continue;
        }
        let read = |value| serde_json::from_value::<Document>(value).map_err(|error| error.to_string());
        match value.and_then(read) {
            Ok(Document { name, namespace, spec }) => {
                let namespace = namespace.unwrap_or_else(|| scope.namespace.clone());
                policies.push((PolicyKey::new(Scope { namespace, ..scope.clone() }, name), spec));
            }
            Err(why) => {
                faults.push(format!("document {}: {why}", at + 1));
                // What does not even parse has no end that could be found.
                if faults.len() > 20 {
                    break;
                }
            }
        }
    }
    if policies.is_empty() && faults.is_empty() {
        faults.push("there is no policy in it".into());
    }
    if faults.is_empty() { Ok(policies) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_or_several_policies_in_yaml_or_json() {
        let yaml = "\
name: web
spec:
  instances: {labels: {app: web}}
  ingress:
  - peers: [{instances: {instances: {labels: {app: client}}}}, {entity: host}, {block: {cidr: 10.0.0.0/8}}]
    ports: [{port: [80, 80]}, {protocol: udp, port: dns}]
---
name: closed
namespace: prod
spec: {ingress: [], egress: []}
---
";
        let read = read(yaml, &Scope::default()).expect("valid");
        let keys: Vec<_> = read.iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(keys, ["default/default/web", "default/prod/closed"]);
        let json = serde_json::json!({"name": "web", "spec": read[0].1}).to_string();
        assert_eq!(super::read(&json, &Scope::default()).expect("valid"), read[..1]);
    }

    #[test]
    fn all_faulty_documents_are_named() {
        let bad = "name: Web\nspec: {ingress: []}\n---\nname: a\nspec: {ingres: []}\n";
        let faults = read(bad, &Scope::default()).expect_err("refused");
        assert!(faults.len() == 2 && faults[1].contains("document 2") && faults[1].contains("ingres"), "{faults:?}");
        for bad in ["", "---\n", "a: [", "[]"] {
            assert!(read(bad, &Scope::default()).is_err(), "{bad:?}");
        }
    }
}
