//! The file: TOML, one line for each setting, all faults at once.

use std::{
    any::TypeId,
    error::Error as _,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue},
};
use toml::de::{DeTable, DeValue};

use super::{default_file, key, settings};
use crate::model::{ErrorCode, Problem};

/// A file that was read; without a path if there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) path: Option<PathBuf>,
    entries: Vec<Entry>,
}

/// A setting of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    key: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// As they would be typed; none if a list is empty.
    pub(super) values: Vec<String>,
}

/// How a setting is written in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Form {
    /// `web-port = 3000`
    Number,
    /// `log-level = "info"`
    Text,
    /// `uplink = ["eth0"]`
    List,
}

/// The form of a flag's value.
pub(in crate::cli) fn form(arg: &Arg) -> Form {
    let parsed = arg.get_value_parser().type_id();
    let numbers = [TypeId::of::<u8>(), TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>()];
    match arg.get_action() {
        ArgAction::Append => Form::List,
        _ if numbers.iter().any(|number| parsed == *number) => Form::Number,
        _ => Form::Text,
    }
}

impl File {
    /// Reads the file that is named, or the default one if it is there; what is wrong in it is in the list.
    ///
    /// # Errors
    /// If it cannot be read at all.
    pub(super) fn read(command: &Command, named: Option<&Path>) -> Result<(Self, Vec<String>), Problem> {
        let Some(path) = named.or(default_file()) else { return Ok((Self::default(), Vec::new())) };
        let text = fs::read_to_string(path).map_err(|error| {
            Problem::new(ErrorCode::Invalid, format!("the configuration {} cannot be read: {error}", path.display()))
                .hint("hivemind daemon --config FILE   (/dev/null: none)")
        })?;
        let (entries, mut faults) = parse(command, &text, &path.display().to_string());
        // What root runs by is nobody else's to change.
        let others = |meta: &fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o002 != 0;
        if fs::metadata(path).is_ok_and(|meta| others(&meta)) {
            faults.push(format!("{}: everybody may write it (hint: chmod o-w)", path.display()));
        }
        Ok((Self { path: Some(path.to_owned()), entries }, faults))
    }

    /// What the file says of a setting.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Entries of a text, and its faults as `NAME:LINE: KEY: why`, in the order of their lines.
pub(super) fn parse(command: &Command, text: &str, name: &str) -> (Vec<Entry>, Vec<String>) {
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let (table, broken) = DeTable::parse_recoverable(text);
    let mut faults: Vec<(usize, String)> = Vec::new();
    let mut unread = Vec::new();
    for error in broken {
        let at = error.span().map_or(1, |span| line(span.start));
        unread.push(at);
        faults.push((at, format!("{name}:{at}: {}", error.message().replace('\n', ", "))));
    }
    let mut entries = Vec::new();
    for (word, value) in table.get_ref() {
        let (key, at) = (word.get_ref().as_ref(), line(word.span().start));
        match entry(command, key, value.get_ref()) {
            Ok(values) => entries.push(Entry { key: key.to_owned(), line: at, values }),
            // What became of a line that could not be read says nothing.
            Err(_) if unread.contains(&at) => {}
            Err(why) => faults.extend(why.into_iter().map(|why| (at, format!("{name}:{at}: {key}: {why}")))),
        }
    }
    faults.sort();
    (entries, faults.into_iter().map(|(_, fault)| fault).collect())
}

/// The values of a key, or what is wrong with it.
fn entry(command: &Command, word: &str, value: &DeValue<'_>) -> Result<Vec<String>, Vec<String>> {
    let Some(arg) = settings(command).find(|arg| key(arg) == word) else { return Err(vec![unknown(command, word)]) };
    let values = match (form(arg), value) {
        (Form::Number, DeValue::Integer(number)) => vec![decimal(number)],
        (Form::Text, DeValue::String(text)) => vec![text.to_string()],
        (Form::List, DeValue::Array(items)) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().ok_or_else(|| vec![expected(arg)])?
        }
        _ => return Err(vec![expected(arg)]),
    };
    let faults: Vec<_> = values.iter().filter_map(|value| fault(arg, OsStr::new(value))).collect();
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

/// A number as flags are typed, whatever base the file has it in; as it stands if it is too large for any flag.
fn decimal(number: &toml::de::DeInteger<'_>) -> String {
    let value = i128::from_str_radix(number.as_str(), number.radix());
    value.map_or_else(|_| number.to_string(), |value| value.to_string())
}

/// How a flag's value is to be written.
fn expected(arg: &Arg) -> String {
    let word = key(arg);
    match form(arg) {
        Form::Number => format!("write a number without quotes: {word} = 1"),
        Form::Text => format!("write a text in quotes: {word} = \"...\""),
        Form::List => format!("write a list of texts: {word} = [\"...\"]"),
    }
}

/// What is wrong with a value, by the flag's own parser.
pub(super) fn fault(arg: &Arg, value: &OsStr) -> Option<String> {
    let mut alone = Arg::new("value").long("value").value_parser(arg.get_value_parser().clone());
    alone = alone.require_equals(true).num_args(0..=1).action(ArgAction::Append);
    if let Some(between) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(between);
    }
    let mut word = std::ffi::OsString::from("--value=");
    word.push(value);
    let error = Command::new("value").no_binary_name(true).arg(alone).try_get_matches_from([word]).err()?;
    let wrong = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(wrong)) => wrong.clone(),
        _ => value.to_string_lossy().into_owned(),
    };
    let why = match (error.get(ContextKind::ValidValue), error.source()) {
        (Some(ContextValue::Strings(valid)), _) => format!("write one of {}", valid.join(", ")),
        (_, Some(source)) => source.to_string(),
        _ => "it cannot be read".to_owned(),
    };
    Some(if why.contains(&wrong) && !wrong.is_empty() { why } else { format!("{wrong:?}: {why}") })
}

/// That there is no such key, and which one may be meant.
fn unknown(command: &Command, word: &str) -> String {
    let daemon = command.find_subcommand("daemon");
    if daemon.is_some_and(|daemon| daemon.get_arguments().any(|arg| key(arg) == word)) {
        return format!("is for one start, and a flag only: hivemind daemon --{word}");
    }
    let dashed = word.replace('_', "-");
    if settings(command).any(|arg| key(arg) == dashed) {
        return format!("there is no such key; write {dashed}");
    }
    let words = ["hivemind".to_owned(), "daemon".to_owned(), format!("--{dashed}=")];
    let error = command.clone().try_get_matches_from(words).err();
    match error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg)) {
        Some(ContextValue::String(near)) if settings(command).any(|arg| near == &format!("--{}", key(arg))) => {
            format!("there is no such key; is {} meant?", near.trim_start_matches('-'))
        }
        _ => "there is no such key".to_owned(),
    }
}
