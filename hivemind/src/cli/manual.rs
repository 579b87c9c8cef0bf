//! `hivemind manual DIR`: a man page for every command, made from the command line's definition.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::Command;
use clap_mangen::Man;

use super::output::Output;
use crate::model::{ErrorCode, Problem};

/// Writes the pages of a command and of all beneath it, and says how many.
pub(super) fn run(output: Output, command: Command, dir: &Path) -> Result<(), Problem> {
    let refuse = |error: io::Error| {
        let code = match error.raw_os_error() {
            Some(nix::libc::ENOSPC) => ErrorCode::DiskFull,
            _ => ErrorCode::Invalid,
        };
        Problem::new(code, format!("the pages cannot be written to {}: {error}", dir.display()))
    };
    fs::create_dir_all(dir).map_err(refuse)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let written = pages(&command, dir).map_err(refuse)?;
    output.say(&format!("{written} pages are in {}", dir.display()));
    Ok(())
}

/// Writes them; returns how many there are.
fn pages(command: &Command, dir: &Path) -> io::Result<usize> {
    let mut written = 1;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        written += pages(command, dir)?;
    }
    let mut page = Vec::new();
    let man = Man::new(command.clone()).manual("Hivemind");
    render(&man, command, &mut page)?;
    fs::write(dir.join(man.get_filename()), page)?;
    Ok(written)
}

/// The library's page but for what stands beneath the help: there lines are lines.
fn render(man: &Man, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(page)?;
    }
    if let Some(after) = command.get_after_help() {
        writeln!(page, ".SH \"EXAMPLES AND NOTES\"\n.nf")?;
        for line in after.to_string().lines() {
            // A line that begins with one of these is an instruction.
            let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
            writeln!(page, "{guard}{}", line.replace('\\', "\\e").replace('-', "\\-"))?;
        }
        writeln!(page, ".fi")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_has_a_page_and_examples_keep_their_lines() {
        let dir = tempfile::tempdir().expect("a folder");
        let output = Output { format: super::super::output::Format::Table, quiet: true };
        run(output, super::super::Args::command(), dir.path()).expect("written");
        let page = |name: &str| fs::read_to_string(dir.path().join(name)).expect(name);
        assert!(page("hivemind.1").contains("\n.nf\nExamples:\n  hivemind daemon \\-\\-web\\-port 3000"));
        assert!(page("hivemind-secret-create.1").contains("hivemind secret create"));
        assert!(page("hivemind-daemon.1").contains("HIVEMIND_WEB_PORT"));
        assert!(page("hivemind-secret.1").contains(r"\e"), "a backslash at the end of a line stays one");
        assert!(!dir.path().join("hivemind-help.1").exists());
    }
}
