//! What is on the machine, and the API's description with the names of that. By chance alone no request would find anything.

use serde_json::{Value, json};

/// The name of what stays: it is read and acted on, and neither changed nor removed.
pub(super) const KEPT: &str = "kept";
/// The name of what is made, changed and removed.
const SPARE: &str = "spare";
/// The other tenant, with one namespace.
const TENANT: &str = "acme";
const NAMESPACE: &str = "prod";
/// The most instances of an app that are asked for by description; more are asked for as well, to be refused or not to fit.
const REPLICAS: u32 = 2;

/// What is there at the beginning: paths, with `…` for the default namespace, and documents, in the order in which they can be made.
pub(super) fn objects(image: &str) -> Vec<(String, Value)> {
    let app = json!({"image": image, "replicas": 1, "services": ["kept.local"], "ports": [{"target": 80, "published": 8080}]});
    let tier = json!({"tier": "admin", "priority": 10, "ingress": [{"action": "accept"}]});
    vec![
        (format!("/v1/tenants/{TENANT}"), json!({})),
        (format!("/v1/tenants/{TENANT}/namespaces/{NAMESPACE}"), json!({"labels": {"env": "prod"}})),
        (format!("…/volumes/{KEPT}"), json!({})),
        (format!("…/secrets/{KEPT}"), json!({"data": "aGVsbG8="})),
        (format!("…/configs/{KEPT}"), json!({"data": "aGVsbG8="})),
        (format!("…/policies/{KEPT}"), json!({"ingress": [{}]})),
        (format!("/v1/tier-policies/{KEPT}"), tier),
        (format!("…/apps/{KEPT}"), app),
    ]
}

/// Gives the description the names of what is there: parameters and fields that are names take one of a few values, beside whatever
/// the requests have that are to be wrong.
pub(super) fn furnish(document: &mut Value, image: &str, instance: &str) {
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            // Not by index, which would make one.
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten();
            for parameter in parameters {
                let name = parameter["name"].as_str().unwrap_or_default().to_owned();
                let values = match parameter["in"].as_str() {
                    Some("path") => part(path, method, &name, instance),
                    Some("query") => question(path, &name, image),
                    _ => Vec::new(),
                };
                if !values.is_empty() {
                    parameter["schema"] = json!({"type": "string", "enum": values});
                }
                if path.ends_with("/connect") && name == "port" {
                    parameter["schema"] = json!({"type": "integer", "enum": [80, 1]});
                }
                // Or else every request of that kind takes as long as it asks for.
                if path.ends_with("/stats") && name == "seconds" {
                    parameter["schema"] = json!({"type": "integer", "minimum": 1, "maximum": 1});
                    parameter["required"] = json!(true);
                }
            }
            if let Some(body) = example(path, image) {
                let content = operation.pointer_mut("/requestBody/content/application~1json");
                content.into_iter().for_each(|content| content["example"] = body.clone());
            }
        }
    }
    let schemas = &mut document["components"]["schemas"];
    schemas["AppSpec"]["properties"]["image"] =
        json!({"type": "string", "enum": [image, "none:1", "127.0.0.1:5000/none:1"]});
    schemas["Kill"]["properties"]["signal"] = json!({"type": "string", "enum": ["TERM", "SIGHUP", "9", "0", "NONE"]});
    for kind in ["AppSpec", "Scale"] {
        schemas[kind]["properties"]["replicas"]["maximum"] = json!(REPLICAS);
    }
}

/// A body that an operation takes: by chance alone only small ones would ever be right.
fn example(path: &str, image: &str) -> Option<Value> {
    let app = json!({
        "image": image,
        "args": ["httpd", "-f"],
        "env": {"A": "b"},
        "mounts": [{"target": "/data", "source": {"type": "volume", "name": SPARE}}],
        "ports": [{"target": 80}],
        "labels": {"team": "blue"},
    });
    let mut parts = path.rsplit('/').filter(|part| !part.starts_with('{'));
    Some(match parts.next()? {
        "tenants" => json!({"limits": {"egress": "1gbit"}}),
        "namespaces" => json!({"labels": {"team": "blue"}}),
        "apps" => app,
        "scale" => json!({"replicas": REPLICAS}),
        "rollback" => json!({}),
        "projects" => json!({"apps": {SPARE: app}, "volumes": {"data": {}}, "secrets": {"word": {"data": "aGVsbG8="}}}),
        "policies" => json!({"ingress": [{"peers": [{"instances": {"instances": {"labels": {"team": "blue"}}}}]}]}),
        "tier-policies" => json!({"tier": "baseline", "priority": 7, "egress": [{"action": "deny"}]}),
        "volumes" => json!({"size": "64Mi", "labels": {"team": "blue"}}),
        "secrets" | "configs" => json!({"data": "aGVsbG8=", "labels": {"team": "blue"}}),
        "kill" => json!({"signal": "SIGHUP"}),
        "missing" => json!({"layers": [format!("sha256:{}", "0".repeat(64))]}),
        "why" => json!({"questions": [{"from": KEPT, "to": "kept.local", "protocol": "tcp", "port": 80}]}),
        _ => return None,
    })
}

/// The values of a part of a path.
fn part(path: &str, method: &str, name: &str, instance: &str) -> Vec<String> {
    let kind = path.split('/').rev().skip_while(|part| *part != "{name}").nth(1).unwrap_or_default();
    let reads = method == "get";
    let values = match (name, kind) {
        ("tenant", _) if path.ends_with("{tenant}") && !reads => vec![SPARE],
        ("tenant", _) => vec!["default", "default", "default", TENANT],
        ("namespace", _) if path.ends_with("{namespace}") && !reads => vec![SPARE],
        ("namespace", _) => vec!["default", "default", "default", NAMESPACE],
        ("name", "instances") => vec![instance, instance, "none-aaaaa"],
        ("name", "nodes") => vec!["node-1", "node-2"],
        ("name", "tables") => vec!["endpoints", "flows", "backends", "drops", "none"],
        ("name", "services") => vec!["kept", "kept.local", "none"],
        ("name", _) if reads => vec![KEPT, SPARE, "none"],
        ("name", _) => vec![SPARE],
        _ => Vec::new(),
    };
    values.into_iter().map(str::to_owned).collect()
}

/// The values of a part of a query.
fn question(path: &str, name: &str, image: &str) -> Vec<String> {
    let values = match name {
        "tenant" => vec!["default", TENANT, "none"],
        "name" | "names" | "other" | "to" if path.starts_with("/v1/images") => {
            vec![image, "127.0.0.1:5000/none:1", "none:1"]
        }
        "path" if path.ends_with("/files") => vec!["/etc", "/tmp", "bin/busybox", "/none", "../..", "/tmp/new"],
        "command" => vec![r#"["echo","a"]"#, r#"["sh","-c","cat; exit 3"]"#, r#"["none"]"#, "[]", "sh"],
        _ => Vec::new(),
    };
    values.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_not_changed_or_removed() {
        for path in ["/v1/tenants/{tenant}", "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}"] {
            let last = path.rsplit('/').next().expect("a part").trim_matches(['{', '}']);
            for method in ["put", "delete", "post"] {
                assert_eq!(part(path, method, last, "web-a"), [SPARE], "{method} {path}");
            }
            assert!(part(path, "get", last, "web-a").len() > 1);
        }
    }

    #[test]
    fn names_are_of_the_kind_that_the_path_says() {
        let of = |rest: &str| {
            part(&format!("/v1/tenants/{{tenant}}/namespaces/{{namespace}}/{rest}"), "post", "name", "web-a")
        };
        assert_eq!(of("instances/{name}/kill"), ["web-a", "web-a", "none-aaaaa"]);
        assert_eq!(of("apps/{name}/scale"), [SPARE]);
        let mut document = json!({"paths": {"/v1/nodes/{name}": {"get": {"parameters": [
            {"name": "name", "in": "path", "schema": {"type": "string"}},
            {"name": "seconds", "in": "query", "schema": {"type": "integer"}},
        ]}}, "/healthz": {"get": {}}}});
        furnish(&mut document, "web:1", "web-a");
        let parameters = &document["paths"]["/v1/nodes/{name}"]["get"]["parameters"];
        assert_eq!(parameters[0]["schema"]["enum"], json!(["node-1", "node-2"]));
        assert_eq!(parameters[1]["schema"], json!({"type": "integer"}));
        assert_eq!(document["paths"]["/healthz"]["get"], json!({}));
    }
}
