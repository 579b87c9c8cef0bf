//! One operation of the description, as a function.

use std::fmt::Write as _;

use serde_json::Value;

use super::words::{camel, comment, rust, snake};

/// What the path of an operation in a namespace begins with.
const SCOPE: &str = "/v1/tenants/{tenant}/namespaces/{namespace}";
/// A body of one document.
const JSON: &str = "application/json";
/// A body of documents, one on a line.
const LINES: &str = "application/x-ndjson";
/// A body of files.
const TAR: &str = "application/x-tar";
/// Where a page ends that another follows: lists are asked for whole.
const PAGES: [&str; 2] = ["limit", "continue"];
/// The header of a condition.
const CONDITION: &str = "If-Match";

/// What several operations can be asked beside what they must: the name of the struct, what it is, and what is in it.
const SHARED: &[(&str, &str, &[&str])] = &[
    ("ListArgs", "What of a list is asked for.", &["labelSelector", "fieldSelector"]),
    ("ListAllArgs", "What of a list over all namespaces is asked for.", &["tenant", "labelSelector", "fieldSelector"]),
    ("ChangeArgs", "How something is changed.", &["dryRun", CONDITION]),
    ("DryRunArgs", "How something is done.", &["dryRun"]),
    ("ContentArgs", "How a secret or a config is written.", &["replace", "dryRun", CONDITION]),
    (
        "FlowArgs",
        "Which flows are asked for.",
        &[
            "tenant",
            "namespace",
            "app",
            "instance",
            "address",
            "from",
            "to",
            "port",
            "protocol",
            "verdict",
            "reason",
            "host",
        ],
    ),
];

/// An operation of the description.
#[derive(Clone, Copy)]
pub(super) struct Operation<'a> {
    pub(super) path: &'a str,
    pub(super) method: &'a str,
    pub(super) value: &'a Value,
}

/// A parameter.
struct Parameter<'a> {
    name: &'a str,
    says: &'a str,
    kind: String,
    required: bool,
}

impl<'a> Operation<'a> {
    fn text(&self, field: &str) -> &'a str {
        self.value[field].as_str().unwrap_or_default()
    }

    pub(super) fn id(&self) -> &'a str {
        self.text("operationId")
    }

    fn parameters(&self, place: &str) -> Vec<Parameter<'a>> {
        let all = self.value["parameters"].as_array().into_iter().flatten();
        let parameter = |one: &'a Value| Parameter {
            name: one["name"].as_str().expect("a name"),
            says: one["description"].as_str().unwrap_or_default(),
            kind: rust(&one["schema"]),
            required: one["required"] == true,
        };
        all.filter(|one| one["in"] == place).map(parameter).collect()
    }

    fn has_header(&self, name: &str) -> bool {
        self.parameters("header").iter().any(|one| one.name == name)
    }

    /// What else can be asked: in the query, and the condition.
    fn optional(&self) -> Vec<Parameter<'a>> {
        let paged = self.success().is_some_and(|answer| answer["headers"]["x-continue"].is_object());
        let mut all = self.parameters("query");
        all.retain(|one| !(one.required || paged && PAGES.contains(&one.name)));
        if self.has_header(CONDITION) {
            let says = "Only if what it is about was last written at this revision.";
            all.push(Parameter { name: CONDITION, says, kind: "Revision".into(), required: false });
        }
        all
    }

    /// The entry of [`SHARED`] with just what can be asked here.
    fn shared(&self) -> Option<&'static (&'static str, &'static str, &'static [&'static str])> {
        let names: Vec<_> = self.optional().iter().map(|one| one.name).collect();
        SHARED.iter().find(|(_, _, shared)| *shared == names)
    }

    /// The struct of what can be asked, if there is something.
    fn args(&self) -> Option<String> {
        let shared = || self.shared().map_or_else(|| camel(self.id()) + "Args", |(name, ..)| (*name).to_owned());
        (!self.optional().is_empty()).then(shared)
    }

    /// The code of that struct, if other operations have it, too, with its name.
    pub(super) fn shared_args(&self) -> Option<(&'static str, String)> {
        self.shared().map(|(name, says, _)| (*name, self.structure(name, says)))
    }

    /// The same, if it is of this operation alone.
    pub(super) fn own_args(&self) -> Option<String> {
        let says = || format!("What else can be asked of [`Client::{}`].", snake(self.id()));
        self.args().filter(|_| self.shared().is_none()).map(|name| self.structure(&name, &says()))
    }

    fn structure(&self, name: &str, says: &str) -> String {
        let mut code = format!("{}#[derive(Clone, Debug, Default, PartialEq, Serialize)]\n", comment(says, 120));
        let _ = writeln!(code, "pub struct {name} {{");
        for one in self.optional() {
            code += &comment(one.says, 116);
            if one.name == CONDITION {
                code += "#[serde(skip)]\npub if_match: Option<Revision>,\n";
                continue;
            }
            let field = snake(one.name);
            let rename = if field == one.name { String::new() } else { format!("rename = {:?}, ", one.name) };
            let (kind, skip) = match one.kind.as_str() {
                "bool" => ("bool".to_owned(), "Not::not"),
                kind => (format!("Option<{kind}>"), "Option::is_none"),
            };
            let _ = writeln!(code, "#[serde({rename}skip_serializing_if = {skip:?})]\npub {field}: {kind},");
        }
        code + "}\n\n"
    }

    /// The media type of a body, and its type.
    fn content(of: &Value) -> Option<(&str, &Value)> {
        let (media, content) = of["content"].as_object()?.iter().next()?;
        Some((media, &content["schema"]))
    }

    /// A success; all have the same body.
    fn success(&self) -> Option<&'a Value> {
        let responses = self.value["responses"].as_object()?;
        responses.iter().find(|(status, _)| status.starts_with('2')).map(|(_, answer)| answer)
    }

    /// What comes of it: its type, and who of the client's functions reads it.
    fn answer(&self) -> (String, &'static str) {
        if self.value["responses"]["101"].is_object() {
            return ("Channels".into(), "channels(asked)");
        }
        let upload = self.value["requestBody"]["content"][TAR].is_object();
        match self.success().and_then(Self::content) {
            Some((JSON, schema)) if upload => (rust(schema), "upload(asked, body)"),
            Some((JSON, schema)) => (rust(schema), "document(asked)"),
            Some((LINES, schema)) => (format!("Lines<{}>", rust(schema)), "lines(asked)"),
            Some((TAR, _)) => ("Download".into(), "download(asked)"),
            Some((other, _)) => panic!("{}: nothing is known of an answer of {other}", self.id()),
            None => panic!("{}: its answer has no body", self.id()),
        }
    }

    /// The parameters of the function for the path, and what is put in its places.
    fn places(&self) -> (Vec<String>, Vec<String>) {
        let scoped = self.path.starts_with(SCOPE);
        let (mut given, mut parts) = (Vec::new(), Vec::new());
        if scoped {
            given.push("scope: &Scope".to_owned());
            parts.extend(["scope.tenant.as_str()".to_owned(), "scope.namespace.as_str()".to_owned()]);
        }
        for one in self.parameters("path").iter().skip(parts.len()) {
            given.push(format!("{}: &str", one.name));
            parts.push(one.name.to_owned());
        }
        (given, parts)
    }

    /// The code of the function.
    pub(super) fn function(&self) -> String {
        let (mut given, parts) = self.places();
        let template = self.path.split(['{', '}']).enumerate().map(|(n, piece)| if n % 2 == 1 { "{}" } else { piece });
        let method = self.method.to_uppercase();
        let (before, parts) = match parts.as_slice() {
            [] => (String::new(), "&[]".to_owned()),
            [one] => (String::new(), format!("&[{one}]")),
            several => (format!("let parts = [{}];\n", several.join(", ")), "&parts".to_owned()),
        };
        let mut asked = format!("Asked::new(Method::{method}, {:?}, {parts})", template.collect::<String>());
        for one in self.parameters("query").iter().filter(|one| one.required) {
            let (name, field) = (one.name, snake(one.name));
            let (kind, value) = match one.kind.as_str() {
                "String" => ("&str", field.clone()),
                kind => (kind, format!("&{field}.to_string()")),
            };
            given.push(format!("{field}: {kind}"));
            let _ = write!(asked, ".with({name:?}, {value})");
        }
        let optional = self.optional();
        if optional.iter().any(|one| one.name != CONDITION) {
            asked += ".query(args)?";
        }
        if self.has_header(CONDITION) {
            asked += ".only_if(args.if_match)";
        }
        if self.has_header("Idempotency-Key") {
            asked += ".keyed()";
        }
        let body = &self.value["requestBody"];
        match Self::content(body) {
            None => {}
            Some((JSON, schema)) if body["required"] == true => {
                given.push(format!("body: &{}", rust(schema)));
                asked += ".json(body)?";
            }
            Some((JSON, schema)) => {
                given.push(format!("body: Option<&{}>", rust(schema)));
                asked += ".optional(body)?";
            }
            Some((TAR, _)) => given.push("body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static".into()),
            Some((other, _)) => panic!("{}: nothing is known of a body of {other}", self.id()),
        }
        given.extend(self.args().map(|name| format!("args: &{name}")));
        let (answer, call) = self.answer();
        let says = [self.text("summary"), self.text("description"), &format!("`{method} {}`", self.path)];
        let says = says.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n");
        let given = given.iter().fold("&self".to_owned(), |all, one| all + ", " + one);
        let (head, name) = (comment(&says, 116), snake(self.id()));
        format!(
            "{head}pub async fn {name}({given}) -> Result<{answer}, Problem> {{\n\
             {before}let asked = {asked};\nself.{call}.await\n}}\n\n"
        )
    }
}
