//! `docs/cli.md` and `docs/configuration.md`, made from the command line's definition. A test compares them with what is
//! there; `cargo xtask docs` writes them anew.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, builder::StyledStr};

/// What a document of here begins with.
const MADE: &str =
    "<!-- Made from the definition in hivemind/src/cli; the tests compare it, cargo xtask docs writes it anew. -->\n";

/// `docs/cli.md`: every command with its flags.
pub(super) fn commands(mut root: Command) -> String {
    root.build();
    let mut text = format!("{MADE}# The command line\n{}.\n", styled(root.get_about()));
    text += "\nWhat was asked for goes to standard output, everything said to people to standard error. Documents\n\
        (`-o json`, `-o yaml`) have a stable schema. The same as man pages: `hivemind manual DIR`.\n";
    text += &block(&styled(root.get_after_help()));
    text += "\n## Options of all commands\n";
    let global: Vec<_> = root.get_arguments().filter(|arg| arg.is_global_set() && shown(arg)).collect();
    text += &table(&global);
    text += "\n## Commands\n";
    for command in visible(&root) {
        let _ = writeln!(text, "* [`hivemind {0}`](#hivemind-{0}): {1}", command.get_name(), about(command));
    }
    let daemon: Vec<_> = root.find_subcommand("daemon").into_iter().flat_map(Command::get_arguments).collect();
    let daemon: Vec<_> = daemon.into_iter().filter(|arg| !arg.is_global_set() && shown(arg)).collect();
    for command in visible(&root) {
        describe(&mut text, command, &daemon);
    }
    text
}

/// A command, and those beneath it.
fn describe(text: &mut String, command: &Command, daemon: &[&Arg]) {
    let name = command.get_bin_name().unwrap_or_default();
    let _ = write!(text, "\n## {name}\n{}\n", about(command));
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = write!(text, "\nAlso {}.\n", aliases.join(", "));
    }
    let usage = styled(Some(&command.clone().render_usage()));
    text.push_str(&block(usage.trim_start_matches("Usage:").trim()));
    let mut own: Vec<_> = command.get_arguments().filter(|arg| !arg.is_global_set() && shown(arg)).collect();
    // Those who look at what a daemon would need have its flags.
    let has = |flag: &&Arg| own.iter().any(|arg| arg.get_id() == flag.get_id());
    if command.get_name() != "daemon" && daemon.iter().all(has) {
        own.retain(|arg| daemon.iter().all(|flag| flag.get_id() != arg.get_id()));
        text.push_str("\nIt takes the flags of [`hivemind daemon`](#hivemind-daemon).\n");
    }
    if !own.is_empty() {
        text.push_str(&table(&own));
    }
    let after = styled(command.get_after_help());
    if !after.is_empty() {
        text.push_str(&block(&after));
    }
    for command in visible(command) {
        describe(text, command, daemon);
    }
}

/// `docs/configuration.md`: the introduction, and a row for each of the daemon's settings.
pub(super) fn configuration(root: &Command) -> String {
    let mut text = format!("{MADE}{}", include_str!("configuration.md"));
    text += "\n| key | form | variable | default | |\n|---|---|---|---|---|\n";
    for arg in super::settings::settings(root) {
        let form = match super::settings::form(arg) {
            super::settings::Form::Number => "number",
            super::settings::Form::Text => "text",
            super::settings::Form::List => "list",
        };
        let variable = arg.get_env().map(|name| name.to_string_lossy()).unwrap_or_default();
        let default = default(arg).map(|value| format!("`{value}`")).unwrap_or_default();
        let key = arg.get_long().unwrap_or_default();
        let _ = writeln!(text, "| `{key}` | {form} | `{variable}` | {default} | {} |", help(arg));
    }
    text
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

fn styled(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn about(command: &Command) -> String {
    prose(&styled(command.get_about()))
}

/// Text in a document: what would be markup there is not.
fn prose(text: &str) -> String {
    text.replace('<', "&lt;").replace('|', "\\|").replace('*', "\\*")
}

fn block(text: &str) -> String {
    format!("\n```\n{}\n```\n", text.trim_end())
}

fn help(arg: &Arg) -> String {
    prose(&styled(arg.get_help())).replace('\n', " ")
}

/// The default of a flag that has a value.
fn default(arg: &Arg) -> Option<String> {
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    (takes_value(arg) && !values.is_empty()).then(|| values.join(","))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// A row for each argument.
fn table(args: &[&Arg]) -> String {
    let mut text = "\n| | |\n|---|---|\n".to_owned();
    for arg in args {
        let mut more = Vec::new();
        if let Some(value) = default(arg) {
            more.push(format!("default `{value}`"));
        }
        let possible = arg.get_possible_values();
        if takes_value(arg) && !possible.is_empty() {
            let names: Vec<_> = possible.iter().filter(|it| !it.is_hide_set()).map(|it| it.get_name()).collect();
            more.push(format!("one of `{}`", names.join("`, `")));
        }
        if let Some(variable) = arg.get_env() {
            more.push(format!("variable `{}`", variable.to_string_lossy()));
        }
        let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join("; ")) };
        let _ = writeln!(text, "| `{}` | {}{more} |", typed(arg).replace('|', "\\|"), help(arg));
    }
    text
}

/// As it is typed: `-o, --output <FORM>`, `<APP>...`.
fn typed(arg: &Arg) -> String {
    let names: Vec<_> = arg.get_value_names().into_iter().flatten().map(|name| format!("<{name}>")).collect();
    let value = if takes_value(arg) { names.join(" ") } else { String::new() };
    let short = arg.get_short().map(|short| format!("-{short}"));
    let flags: Vec<_> = short.into_iter().chain(arg.get_long().map(|long| format!("--{long}"))).collect();
    let more = if flags.is_empty() && arg.get_num_args().is_some_and(|n| n.max_values() > 1) { "..." } else { "" };
    format!("{} {value}{more}", flags.join(", ")).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::CommandFactory as _;

    use super::{super::Args, *};

    /// Compares a document with the one in `docs/`, after writing that if it is asked for.
    fn is_current(name: &str, document: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        if std::env::var_os("HIVEMIND_UPDATE_DOCS").is_some() {
            fs::write(&path, document).expect("written");
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == document, "docs/{name} is not what the definition says; write it anew: cargo xtask docs");
    }

    #[test]
    fn docs_cli_md_is_what_the_definition_says() {
        is_current("cli.md", &commands(Args::command()));
    }

    #[test]
    fn docs_configuration_md_is_what_the_definition_says() {
        is_current("configuration.md", &configuration(&Args::command()));
    }
}
