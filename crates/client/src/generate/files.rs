//! The files of the operations.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{OTHERS, operation::Operation, words::formatted};

/// What each file begins with; `WHAT` is what its operations are about.
const HEAD: &str = "//! Made of the API's description by `cargo xtask docs`: WHAT.\n\nuse crate::documents::*;\n";
/// The head of the module.
const MODULE: &str = "\
//! The operations of the API, each a typed function of [`super::Client`], and what can be asked of them.
//!
//! These files are made of the API's description by `cargo xtask docs`; `generate.rs` says how.
";
/// The file of what several operations can be asked.
const SHARED: &str = "shared";

/// Every file: its name and what is in it.
pub(super) fn files(document: &Value) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::<&str, Vec<Operation<'_>>>::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, value) in methods.as_object().expect("methods") {
            let operation = Operation { path, method, value };
            if !OTHERS.contains(&operation.id()) {
                let tag = value["tags"][0].as_str().expect("a tag");
                tags.entry(tag).or_default().push(operation);
            }
        }
    }
    let shared: BTreeMap<_, _> = tags.values().flatten().filter_map(Operation::shared_args).collect();
    let mut files = BTreeMap::new();
    for (tag, operations) in &tags {
        let mut code = HEAD.replace("WHAT", tag);
        if operations.iter().any(|operation| operation.shared_args().is_some()) {
            code += "use super::shared::*;\n";
        }
        code += "\n";
        code.extend(operations.iter().filter_map(Operation::own_args));
        code += "impl Client {\n";
        code.extend(operations.iter().map(Operation::function));
        files.insert(format!("{tag}.rs"), formatted(&(code + "}\n")));
    }
    let code = HEAD.replace("WHAT", "what several operations can be asked") + "\n";
    files.insert(format!("{SHARED}.rs"), formatted(&shared.into_values().fold(code, |code, one| code + &one)));
    let own = |operations: &&Vec<Operation<'_>>| operations.iter().any(|operation| operation.own_args().is_some());
    let modules = tags.keys().copied().chain([SHARED]);
    let mut module = modules.fold(MODULE.to_owned() + "\n", |code, tag| code + "mod " + tag + ";\n");
    let public = tags.iter().filter(|(_, operations)| own(operations)).map(|(tag, _)| *tag).chain([SHARED]);
    let public: Vec<_> = public.map(|tag| format!("{tag}::*")).collect();
    module += &format!("\npub use self::{{{}}};\n", public.join(", "));
    files.insert("mod.rs".into(), formatted(&module));
    files
}
