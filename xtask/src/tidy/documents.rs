//! Documents: links lead somewhere, commands and error codes exist.

use std::{collections::BTreeSet, path::Path};

/// Relative links of a document must lead somewhere.
pub(super) fn check_links(file: &Path, name: &str, text: &str, faults: &mut Vec<String>) {
    for part in text.split("](").skip(1) {
        let link = part.split([')', '#', ' ']).next().unwrap_or_default();
        let local = !link.is_empty() && !link.contains("://");
        if local && !file.parent().is_some_and(|dir| dir.join(link).exists()) {
            faults.push(format!("{name}: the link to {link} leads nowhere"));
        }
    }
}

/// Commands for programs, not people: they are in no help.
const HIDDEN: &[&str] = &["log-writer"];

/// What can be typed, and what can go wrong, as the sources have it.
pub(super) struct Commands {
    xtask: BTreeSet<String>,
    hivemind: BTreeSet<String>,
    codes: BTreeSet<String>,
}

impl Commands {
    /// Reads the command enums of both programs, and the error codes.
    pub(super) fn read(texts: &[(String, String)]) -> Self {
        let text = |name: &str| texts.iter().find(|(file, _)| file == name).map_or("", |(_, text)| text);
        let mut hivemind = variants(text("hivemind/src/cli/mod.rs"), "enum Command {");
        hivemind.extend(variants(text("hivemind/src/cli/verbs.rs"), "enum Verb {"));
        hivemind.extend(HIDDEN.iter().map(|hidden| (*hidden).to_owned()));
        for (first, file) in [("app", "app"), ("service", "show"), ("node", "show")] {
            let title = format!("{}{}Command {{", first[..1].to_uppercase(), &first[1..]);
            let second = variants(text(&format!("hivemind/src/cli/{file}.rs")), &title);
            hivemind.extend(second.into_iter().map(|second| format!("{first} {second}")));
        }
        let codes = text("crates/core/src/model/error.rs");
        Self {
            xtask: variants(text("xtask/src/main.rs"), "enum Command {"),
            hivemind,
            codes: codes.split('"').filter(|word| word.starts_with("E-")).map(str::to_owned).collect(),
        }
    }

    /// Adds a fault for each command and code of a document that does not exist.
    pub(super) fn check(&self, name: &str, text: &str, faults: &mut Vec<String>) {
        for (at, line) in code(text) {
            for (program, known) in [("cargo xtask ", &self.xtask), ("hivemind ", &self.hivemind)] {
                let Some(rest) = line.strip_prefix(program) else { continue };
                let mut words = rest.split(' ').take_while(|word| is_word(word));
                let Some(first) = words.next() else { continue };
                let both = words.next().map(|second| format!("{first} {second}"));
                let groups = known.iter().any(|command| command.starts_with(&format!("{first} ")));
                let exists = known.contains(first) && both.as_ref().is_none_or(|both| !groups || known.contains(both));
                if !exists {
                    faults.push(format!(
                        "{name}:{at}: there is no command {program}{}",
                        both.as_deref().unwrap_or(first)
                    ));
                }
            }
        }
        for (at, line) in text.lines().enumerate() {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
                let code = word.len() >= 7 && word.starts_with("E-") && word.ends_with(|c: char| c.is_ascii_digit());
                if code && !self.codes.contains(word) {
                    faults.push(format!("{name}:{}: there is no error code {word}", at + 1));
                }
            }
        }
    }
}

/// A word of a command, as opposed to a flag, a placeholder or a value.
fn is_word(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

/// What a document shows as code, with its line: lines of fenced blocks without the prompt, and inline code.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push((at + 1, line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ")));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(|code| (at + 1, code)));
        }
    }
    found
}

/// The variants of a clap enum as words: `AppCommand` is `app-command`.
fn variants(text: &str, title: &str) -> BTreeSet<String> {
    let body = text.split(title).nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
    let names = body.lines().filter_map(|line| {
        let name: String = line.strip_prefix("    ")?.chars().take_while(char::is_ascii_alphanumeric).collect();
        name.starts_with(|c: char| c.is_ascii_uppercase()).then_some(name)
    });
    names.map(|name| kebab(&name)).collect()
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Commands {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        Commands::read(&[
            file("xtask/src/main.rs", "enum Command {\n    /// x\n    Demo {\n        check: bool,\n    },\n}"),
            file("hivemind/src/cli/mod.rs", "enum Command {\n    App(AppCommand),\n    Ps(Args),\n}"),
            file("hivemind/src/cli/app.rs", "enum AppCommand {\n    Deploy(Box<Args>),\n    Ls,\n}"),
            file("crates/core/src/model/error.rs", "A = \"E-SPEC-001\", 422"),
        ])
    }

    #[test]
    fn commands_and_codes_exist() {
        for (text, count) in [
            ("`cargo xtask demo --check`", 0),
            ("`cargo xtask dome`", 1),
            ("```\n$ hivemind app deploy --image x\nhivemind ps web\n```", 0),
            ("```\nsudo hivemind app depoly\n```", 1),
            ("hivemind is not code here", 0),
            ("`hivemind COMMAND`", 0),
            ("E-SPEC-001 and E-SPEC-002", 1),
        ] {
            let mut faults = Vec::new();
            commands().check("d.md", text, &mut faults);
            assert_eq!(faults.len(), count, "{text}: {faults:?}");
        }
    }
}
