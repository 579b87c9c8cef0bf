//! `cargo xtask tidy`: the structure that `docs/ARCHITECTURE.md` promises, checked.

mod dependencies;
mod documents;
mod floors;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use xtask::shell::root;

/// The longest file that is not asked to be split.
const LONGEST: usize = 500;
/// The one package that is no member: it is built in a way of its own.
const APART: &str = "fuzz/Cargo.toml";
/// Longer files, each with its reason.
const LONG: &[(&str, &str)] = &[("tests/tests/net.rs", "one laboratory of namespaces and its cases")];

/// What is not to be committed, beside the path of the checkout: things left from debugging.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/ro", "ot/."), "a path of one machine"),
    (concat!("to", "do!("), "unfinished"),
    (concat!("unimple", "mented!("), "unfinished"),
    (concat!("db", "g!("), "left from debugging"),
    (concat!("FIX", "ME"), "unfinished"),
];

/// Where no path of the API is spelled: the client's functions, made of the API's description, have them.
const WITHOUT_PATHS: &str = "hivemind/src/cli/";

/// Checks everything and names all faults.
pub(crate) fn run() -> Result<()> {
    let mut faults = Vec::new();
    let files = files(&root(), &["rs", "md", "toml", "sh"])?;
    let mut texts = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root()).unwrap_or(file).to_string_lossy().into_owned();
        texts.push((name, text));
    }
    let commands = documents::Commands::read(&texts);
    for (file, (name, text)) in files.iter().zip(&texts) {
        check_text(name, text, &mut faults);
        floors::check(name, text, &mut faults);
        if name.ends_with("/Cargo.toml") && name != APART {
            check_member(name, text, &mut faults);
        }
        if name.ends_with(".md") {
            documents::check_links(file, name, text, &mut faults);
            commands.check(name, text, &mut faults);
        }
    }
    check_members(&texts, &mut faults);
    dependencies::check(&mut faults)?;
    if !faults.is_empty() {
        bail!("tidy found {} fault(s):\n  {}", faults.len(), faults.join("\n  "));
    }
    println!("tidy: floors, libraries, lints, dependencies and documents are as they should be");
    Ok(())
}

fn check_text(name: &str, text: &str, faults: &mut Vec<String>) {
    let lines = text.lines().count();
    let rust = name.ends_with(".rs");
    let here = root().display().to_string();
    if rust && lines > LONGEST && !LONG.iter().any(|(long, _)| *long == name) {
        faults.push(format!("{name}: {lines} lines; split it, or say in tidy why not"));
    }
    for (at, line) in text.lines().enumerate() {
        if let Some((word, why)) = FORBIDDEN.iter().find(|(word, _)| line.contains(word)) {
            faults.push(format!("{name}:{}: {word} ({why})", at + 1));
        }
        if name.starts_with(WITHOUT_PATHS) && rust && line.contains("/v1/") {
            let why = "a path of the API: ask by a function of the client, see docs/adr/0028-client.md";
            faults.push(format!("{name}:{}: {why}", at + 1));
        }
        if line.contains(&here) {
            faults.push(format!("{name}:{}: {here} (a path of this machine)", at + 1));
        }
    }
}

/// What every member's manifest has.
fn check_member(name: &str, text: &str, faults: &mut Vec<String>) {
    for line in ["[lints]\nworkspace = true", "license.workspace = true", "description = "] {
        if !text.contains(line) {
            faults.push(format!("{name}: lacks {line:?}"));
        }
    }
}

/// The members are those the design names, and no folder of code is forgotten.
fn check_members(texts: &[(String, String)], faults: &mut Vec<String>) {
    let manifest = texts.iter().find(|(name, _)| name == "Cargo.toml").map_or("", |(_, text)| text);
    let list = manifest.split("\nmembers = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    let mut members: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let mut folders: Vec<&str> = texts
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| *name != APART)
        .filter_map(|name| name.strip_suffix("/Cargo.toml"))
        .collect();
    members.sort_unstable();
    folders.sort_unstable();
    if members != folders {
        faults.push(format!("Cargo.toml: the members are {members:?}, the folders with a manifest {folders:?}"));
    }
}

/// All files with one of these extensions that git would keep.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with(".git") {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(check: impl FnOnce(&mut Vec<String>)) -> usize {
        let mut faults = Vec::new();
        check(&mut faults);
        faults.len()
    }

    #[test]
    fn what_is_not_to_be_committed_is_found() {
        let long = "x\n".repeat(LONGEST + 1);
        assert_eq!(faults_of(|f| check_text("a.rs", &long, f)), 1);
        assert_eq!(faults_of(|f| check_text("a.md", &long, f)), 0);
        for (word, _) in FORBIDDEN {
            assert_eq!(faults_of(|f| check_text("a.rs", word, f)), 1, "{word}");
        }
    }

    #[test]
    fn the_command_line_spells_no_path_of_the_api() {
        let text = r#"client.get(&format!("/v1/nodes/{name}"))"#;
        assert_eq!(faults_of(|f| check_text("hivemind/src/cli/show.rs", text, f)), 1);
        assert_eq!(faults_of(|f| check_text("crates/client/src/operations/nodes.rs", text, f)), 0);
    }

    #[test]
    fn a_member_inherits() {
        let manifest = "description = \"x\"\nlicense.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(faults_of(|f| check_member("a/Cargo.toml", manifest, f)), 0);
        assert_eq!(faults_of(|f| check_member("a/Cargo.toml", "", f)), 3);
    }

    #[test]
    fn a_forgotten_folder_is_found() {
        let workspace = |members: &str| ("Cargo.toml".to_owned(), format!("[workspace]\nmembers = [{members}]\n"));
        let member = ("a/Cargo.toml".to_owned(), String::new());
        assert_eq!(faults_of(|f| check_members(&[workspace("\"a\""), member.clone()], f)), 0);
        assert_eq!(faults_of(|f| check_members(&[workspace(""), member], f)), 1);
    }
}
