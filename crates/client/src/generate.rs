//! Makes [`super::operations`] of the API's description: a typed function for each operation, and a struct of what else
//! can be asked where there is something. `cargo xtask docs` writes the files, and a test compares.
//!
//! The documents are the API's own types ([`super::documents`]); what is made is paths, queries, conditions, keys, and
//! which body goes in and comes out. An operation of a form that is not known here fails the test: none is left out but
//! [`OTHERS`].

mod files;
mod operation;
mod words;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

use operation::Operation;

/// Operations for programs that have clients of their own: probes, and Prometheus.
const OTHERS: [&str; 3] = ["getHealth", "getMetrics", "getReadiness"];

#[test]
fn docs_the_client_is_what_the_description_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/operations");
    let document = serde_json::to_value(hivemind_api::openapi()).expect("is JSON");
    let files = files::files(&document);
    let there = || fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").file_name());
    let stale = || there().filter(|name| !files.contains_key(&*name.to_string_lossy()));
    if std::env::var_os("HIVEMIND_UPDATE_DOCS").is_some() {
        stale().for_each(|name| fs::remove_file(folder.join(name)).expect("removed"));
        files.iter().for_each(|(name, code)| fs::write(folder.join(name), code).expect("written"));
    }
    let again = "is not what the API's description says; write it anew: cargo xtask docs";
    for (name, code) in &files {
        let there = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(there == *code, "crates/client/src/operations/{name} {again}");
    }
    assert_eq!(stale().count(), 0, "crates/client/src/operations {again}");
}

/// The code of one operation, formatted.
fn code(path: &str, method: &str, value: &Value) -> String {
    let operation = Operation { path, method, value };
    words::formatted(&format!(
        "{}impl Client {{\n{}}}\n",
        operation.own_args().unwrap_or_default(),
        operation.function()
    ))
}

fn parameter(place: &str, name: &str, required: bool, schema: &Value) -> Value {
    json!({"in": place, "name": name, "required": required, "description": format!("Says {name}."), "schema": schema})
}

#[test]
fn a_condition_a_key_a_dry_run_and_a_body_are_of_one_function() {
    let text = json!({"type": "string"});
    let value = json!({
        "operationId": "putApp", "summary": "Create an app,\nor change it.",
        "parameters": [
            parameter("path", "tenant", true, &text), parameter("path", "namespace", true, &text),
            parameter("path", "name", true, &text), parameter("query", "dryRun", false, &json!({"type": "boolean"})),
            parameter("header", "If-Match", false, &text), parameter("header", "Idempotency-Key", false, &text),
        ],
        "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/x/AppSpec"}}}},
        "responses": {"201": {"content": {"application/json": {"schema": {"$ref": "#/x/AppWritten"}}}}},
    });
    let expected = r#"impl Client {
    /// Create an app, or change it.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}`
    pub async fn put_app(
        &self,
        scope: &Scope,
        name: &str,
        body: &AppSpec,
        args: &ChangeArgs,
    ) -> Result<AppWritten, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/apps/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }
}
"#;
    assert_eq!(code("/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", "put", &value), expected);
}

#[test]
fn what_must_be_asked_is_an_argument_and_what_may_be_is_in_a_struct() {
    let value = json!({
        "operationId": "getFrames", "summary": "Frames.",
        "parameters": [
            parameter("query", "name", true, &json!({"type": "string"})),
            parameter("query", "port", true, &json!({"type": "integer", "format": "int32"})),
            parameter("query", "maxAge", false, &json!({"type": "integer", "format": "int64"})),
            parameter("query", "follow", false, &json!({"type": "boolean"})),
        ],
        "responses": {"200": {"content": {"application/x-ndjson": {"schema": {"$ref": "#/x/Frame"}}}}},
    });
    let expected = r#"/// What else can be asked of [`Client::get_frames`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GetFramesArgs {
    /// Says maxAge.
    #[serde(rename = "maxAge", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Says follow.
    #[serde(skip_serializing_if = "Not::not")]
    pub follow: bool,
}

impl Client {
    /// Frames.
    ///
    /// `GET /v1/frames`
    pub async fn get_frames(&self, name: &str, port: u32, args: &GetFramesArgs) -> Result<Lines<Frame>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/frames", &[])
            .with("name", name)
            .with("port", &port.to_string())
            .query(args)?;
        self.lines(asked).await
    }
}
"#;
    assert_eq!(code("/v1/frames", "get", &value), expected);
}

#[test]
fn bodies_of_files_and_sockets_have_functions_of_their_own() {
    let tar = json!({"content": {"application/x-tar": {"schema": {"type": "array"}}}});
    let answer = json!({"200": {"content": {"application/json": {"schema": {"$ref": "#/x/Done"}}}}});
    let body = |required: bool, schema: &Value| json!({"required": required, "content": {"application/json": {"schema": schema}}});
    let done = json!({"$ref": "#/x/Done"});
    let maybe = json!({"oneOf": [{"type": "null"}, {"$ref": "#/x/Done"}]});
    for (method, value, signature, call) in [
        (
            "get",
            json!({"responses": {"200": tar}}),
            "do_it(&self) -> Result<Download, Problem>",
            "self.download(asked)",
        ),
        (
            "post",
            json!({"responses": answer, "requestBody": tar}),
            "body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static",
            "self.upload(asked, body)",
        ),
        ("get", json!({"responses": {"101": {}}}), "do_it(&self) -> Result<Channels, Problem>", "self.channels(asked)"),
        (
            "put",
            json!({"responses": answer, "requestBody": body(false, &maybe)}),
            "do_it(&self, body: Option<&Done>) -> Result<Done, Problem>",
            ".optional(body)?;",
        ),
        ("put", json!({"responses": answer, "requestBody": body(true, &done)}), "body: &Done", ".json(body)?;"),
        (
            "get",
            json!({"responses": {"200": {"content": {"application/json": {"schema": {"type": "array", "items": done}}}}}}),
            "do_it(&self) -> Result<Vec<Done>, Problem>",
            "self.document(asked)",
        ),
    ] {
        let mut value = value;
        value["operationId"] = "doIt".into();
        value["summary"] = "Does it.".into();
        let code = code("/v1/it", method, &value);
        assert!(code.contains(signature) && code.contains(call), "{code}");
    }
}

#[test]
#[should_panic(expected = "doIt: nothing is known of an answer of image/png")]
fn what_has_no_form_here_is_not_left_out() {
    let value = json!({
        "operationId": "doIt", "summary": "Does it.",
        "responses": {"200": {"content": {"image/png": {"schema": {"type": "string"}}}}},
    });
    code("/v1/it", "get", &value);
}

#[test]
fn pages_are_not_asked_for() {
    let text = json!({"type": "string"});
    let parameters: Vec<_> = ["labelSelector", "fieldSelector", "limit", "continue"]
        .map(|name| parameter("query", name, false, &text))
        .into();
    let content = json!({"application/json": {"schema": {"type": "array", "items": {"$ref": "#/x/AppView"}}}});
    let value = json!({
        "operationId": "listApps", "summary": "The apps.", "parameters": parameters,
        "responses": {"200": {"headers": {"x-continue": {}}, "content": content}},
    });
    assert!(code("/v1/apps", "get", &value).contains("args: &ListArgs"));
}

#[test]
fn names_are_those_of_the_language() {
    for (name, expected) in [("listApps", "list_apps"), ("why", "why"), ("fieldSelector", "field_selector")] {
        assert_eq!(words::snake(name), expected);
    }
    assert_eq!(words::camel("listApps"), "ListApps");
}

#[test]
fn texts_are_lines_of_a_comment() {
    assert_eq!(words::comment("One\ntwo  three.", 80), "/// One two three.\n");
    assert_eq!(words::comment("one two three four", 13), "/// one two\n/// three\n/// four\n");
    assert_eq!(words::comment("a\n\nb", 80), "/// a\n///\n/// b\n");
}

#[test]
fn operations_are_in_the_file_of_their_tag_and_arguments_of_several_in_one() {
    let flag = json!({"type": "boolean"});
    let one = |id: &str, tag: &str| {
        json!({
            "operationId": id, "summary": "Does it.", "tags": [tag],
            "parameters": [parameter("query", "dryRun", false, &flag)],
            "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/x/Done"}}}}},
        })
    };
    let document = json!({"paths": {
        "/v1/a": {"post": one("changeA", "apps"), "delete": one("removeA", "apps")},
        "/v1/b": {"post": one("changeB", "nodes")},
        "/healthz": {"get": {"operationId": "getHealth", "tags": ["meta"]}},
    }});
    let files: BTreeMap<String, String> = files::files(&document);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["apps.rs", "mod.rs", "nodes.rs", "shared.rs"]);
    let has = |file: &str, text: &str| files[file].contains(text);
    assert!(has("apps.rs", "fn change_a") && has("apps.rs", "fn remove_a") && has("nodes.rs", "fn change_b"));
    assert_eq!(files["shared.rs"].matches("pub struct ").count(), 1, "{}", files["shared.rs"]);
    assert!(has("mod.rs", "mod apps;\nmod nodes;\nmod shared;\n") && has("mod.rs", "shared::*"));
}
