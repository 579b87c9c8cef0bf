//! Names and texts of the description, as Rust has them.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// `list_apps` of `listApps`.
pub(super) fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// `ListApps` of `listApps`.
pub(super) fn camel(name: &str) -> String {
    format!("{}{}", name[..1].to_uppercase(), &name[1..])
}

/// A comment of so many columns: paragraphs stay, their lines do not.
pub(super) fn comment(text: &str, columns: usize) -> String {
    let mut comment = String::new();
    for paragraph in text.split("\n\n") {
        if !comment.is_empty() {
            comment += "///\n";
        }
        let mut line = "///".to_owned();
        for word in paragraph.split_whitespace() {
            if line.len() > 3 && line.len() + 1 + word.len() > columns {
                comment = comment + &line + "\n";
                "///".clone_into(&mut line);
            }
            line = line + " " + word;
        }
        comment = comment + &line + "\n";
    }
    comment
}

/// The Rust type of a schema that a parameter or a body has.
pub(super) fn rust(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|place| place.rsplit('/').next()) {
        return name.to_owned();
    }
    let not_null = |of: &&Value| of["type"] != "null" && **of != "null";
    if let Some(one) = schema["oneOf"].as_array().and_then(|all| all.iter().find(not_null)) {
        return rust(one);
    }
    let kind = match &schema["type"] {
        Value::Array(all) => all.iter().find(not_null).and_then(Value::as_str),
        one => one.as_str(),
    };
    match (kind, schema["format"].as_str()) {
        (Some("array"), _) => format!("Vec<{}>", rust(&schema["items"])),
        (Some("boolean"), _) if schema["default"] != true => "bool".into(),
        (Some("integer"), Some("int32")) => "u32".into(),
        (Some("integer"), _) => "u64".into(),
        (Some("string"), _) => "String".into(),
        _ => panic!("nothing is known of a type as {schema}"),
    }
}

/// As rustfmt writes it.
pub(super) fn formatted(code: &str) -> String {
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rustfmt.toml");
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--config-path"]).arg(settings).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = rustfmt.spawn().expect("rustfmt");
    child.stdin.take().expect("an input").write_all(code.as_bytes()).expect("read");
    let done = child.wait_with_output().expect("rustfmt");
    assert!(done.status.success(), "{code}");
    String::from_utf8(done.stdout).expect("text")
}
