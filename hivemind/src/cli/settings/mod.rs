//! The daemon's settings and where each comes from: a flag wins over the environment, that over the file, that over what
//! is built in.
//!
//! clap's definition of `hivemind daemon` is the one list of them: a setting's key in the file is its flag without the
//! dashes, and its value goes through the flag's own parser. What the file says becomes the flags' defaults of a second
//! reading of the command line, so that nothing here merges anything. What has no variable in the environment is no
//! setting but a word for one start (`--remove-unknown`), and may not stand in the file.

mod file;
mod shown;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, parser::ValueSource};

use self::file::{File, fault};
#[cfg(test)]
pub(super) use self::file::{Form, form};
pub(super) use self::shown::{ConfigFile, check, show};
use crate::model::{ErrorCode, Problem};

/// Read if it is there and no other is named.
pub(super) const DEFAULT_FILE: &str = "/etc/hivemind/config.toml";
/// The commands with the daemon's flags.
const DAEMONS: [&str; 3] = ["daemon", "doctor", "uninstall"];
/// The flag that names another one.
const FILE: &str = "config";
/// The one flag of all commands that the daemon has a use of its own for.
const SOCKET: &str = "socket";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The command line.
    Flag,
    /// This variable.
    Environment(String),
    /// This line of the file.
    File(PathBuf, usize),
    /// What is built in.
    Default,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Its flag without the dashes.
    pub(super) key: String,
    /// Its value, as it would be typed; several with commas between; none if it is left to the daemon.
    pub(super) value: Option<String>,
    /// Where it comes from.
    pub(super) source: Source,
}

/// All settings of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// Each, in the order of the flags.
    pub(super) all: Vec<Setting>,
}

/// What reading the command line comes to.
pub(super) enum Refused {
    /// clap has something to say.
    Usage(clap::Error),
    /// The file or the environment is wrong.
    Problem(Problem),
}

/// Reads the command line; for commands that have the daemon's flags the file, too.
pub(super) fn read(command: impl Fn() -> Command, words: &[OsString]) -> Result<(ArgMatches, Settings), Refused> {
    let first = command().try_get_matches_from(words);
    let named = match &first {
        Ok(matches) => path(matches),
        // A fault of the environment is told together with those of the file.
        Err(_) => deaf(command()).try_get_matches_from(words).ok().as_ref().and_then(path),
    };
    let Some((subcommand, named)) = named else {
        return first.map(|matches| (matches, Settings::default())).map_err(Refused::Usage);
    };
    let (file, faults) = File::read(&command(), named.as_deref()).map_err(Refused::Problem)?;
    let faults: Vec<_> = environment(&command()).into_iter().chain(faults).collect();
    if !faults.is_empty() {
        let title = format!("the daemon's configuration has {} fault(s)", faults.len());
        let hint = "hivemind daemon --help   (the flags are the file's keys)";
        let problem = Problem { details: faults, ..Problem::new(ErrorCode::Invalid, title).hint(hint) };
        return Err(Refused::Problem(problem));
    }
    let command = with_defaults(command(), &subcommand, &file);
    let matches = command.clone().try_get_matches_from(words).map_err(Refused::Usage)?;
    let settings = Settings { all: found(&command, &matches, &file), file: file.path };
    Ok((matches, settings))
}

/// Whether the command has the daemon's flags: its name, and the file it names.
fn path(matches: &ArgMatches) -> Option<(String, Option<PathBuf>)> {
    let (name, own) = matches.subcommand()?;
    DAEMONS.contains(&name).then(|| (name.to_owned(), own.get_one::<PathBuf>(FILE).cloned()))
}

/// The flags that are settings: those of the daemon with a variable, and the socket.
pub(super) fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    let daemon = command.find_subcommand("daemon").into_iter().flat_map(Command::get_arguments);
    let own = daemon.filter(|arg| arg.get_env().is_some() && arg.get_id() != FILE);
    own.chain(command.get_arguments().filter(|arg| arg.get_id() == SOCKET))
}

/// The name of a flag in the file.
fn key(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

/// The same command, which does not see the settings' variables.
fn deaf(command: Command) -> Command {
    let hear = |arg: Arg| if arg.get_id() == FILE { arg } else { arg.env(None::<&'static str>) };
    let deaf = |command: Command| command.mut_args(hear);
    DAEMONS.iter().fold(command.mut_arg(SOCKET, hear), |command, name| command.mut_subcommand(name, deaf))
}

/// The faults of the settings' variables.
fn environment(command: &Command) -> Vec<String> {
    let faults = settings(command).filter_map(|arg| {
        let name = arg.get_env()?;
        let value = std::env::var_os(name)?;
        let why = fault(arg, &value)?;
        Some(format!("{}: {}: {why}", name.to_string_lossy(), key(arg)))
    });
    faults.collect()
}

/// The command with what the file says instead of what is built in.
fn with_defaults(mut command: Command, subcommand: &str, file: &File) -> Command {
    let ids: Vec<_> = settings(&command).map(|arg| (arg.get_id().clone(), key(arg).to_owned())).collect();
    for (id, key) in ids {
        let Some(entry) = file.entry(&key) else { continue };
        // clap keeps defaults as long as the process lives; it reads one file.
        let values: Vec<&'static str> = entry.values.iter().map(|value| &*value.clone().leak()).collect();
        let set = |arg: Arg| arg.default_values(values);
        command = match id == SOCKET {
            true => command.mut_arg(id, set),
            false => command.mut_subcommand(subcommand, |own| own.mut_arg(id, set)),
        };
    }
    command
}

/// What was found for each setting.
fn found(command: &Command, matches: &ArgMatches, file: &File) -> Vec<Setting> {
    let own = matches.subcommand().map_or(matches, |(_, own)| own);
    let setting = |arg: &Arg| {
        let (id, key) = (arg.get_id().as_str(), key(arg));
        let text = |value: &OsStr| value.to_string_lossy().into_owned();
        let values = own.get_raw(id).map(|values| values.map(text).collect::<Vec<_>>());
        let source = match own.value_source(id) {
            Some(ValueSource::CommandLine) => Source::Flag,
            Some(ValueSource::EnvVariable) => Source::Environment(arg.get_env().map(text).unwrap_or_default()),
            _ => match (file.entry(key), &file.path) {
                (Some(entry), Some(path)) => Source::File(path.clone(), entry.line),
                _ => Source::Default,
            },
        };
        let value = values.map(|values| values.join(",")).filter(|value| !value.is_empty());
        Setting { key: key.to_owned(), value, source }
    };
    settings(command).map(setting).collect()
}

impl Settings {
    /// Adds to each fault that names a flag where its value comes from, if nobody has typed it.
    pub(super) fn locate(&self, mut problem: Problem) -> Problem {
        for text in problem.details.iter_mut().chain([&mut problem.title]) {
            let named = |setting: &&Setting| names(text, &setting.key);
            let typed = |setting: &&Setting| matches!(setting.source, Source::Flag | Source::Default);
            let from = self.all.iter().filter(named).filter(|setting| !typed(setting));
            let from: Vec<_> = from.map(|setting| format!("{} is set in {}", setting.key, setting.source)).collect();
            if !from.is_empty() {
                *text += &format!(" ({})", from.join(", "));
            }
        }
        problem
    }
}

/// Whether a text names the flag of a key, and not only one that begins like it.
fn names(text: &str, key: &str) -> bool {
    let flag = format!("--{key}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    text.match_indices(&flag).any(|(at, _)| ends(&text[at + flag.len()..]))
}

/// The file that is read if none is named.
fn default_file() -> Option<&'static Path> {
    Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists())
}

#[cfg(test)]
mod tests;
