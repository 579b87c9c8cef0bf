//! `hivemind config check|show`, of the daemon's configuration.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Command, FromArgMatches as _};
use serde::Serialize;

use super::{Refused, Setting, Settings, read};
use crate::{
    cli::{
        daemon::DaemonArgs,
        output::{Format, Listed, Output},
    },
    client::Target,
    model::{ErrorCode, Problem},
};

/// Which file.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ConfigFile {
    /// The daemon's configuration [default: /etc/hivemind/config.toml if it is there]
    #[arg(long, env = "HIVEMIND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A setting as it is shown.
#[derive(Serialize)]
struct Shown {
    key: String,
    value: Option<String>,
    source: String,
}

impl Listed for Shown {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["KEY", "VALUE", "SOURCE"], &[]);

    fn name(&self) -> String {
        self.key.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), self.value.clone().unwrap_or_else(|| "-".into()), self.source.clone()]
    }
}

/// What a daemon without further flags would have, after all checks that need no machine.
fn whole(command: impl Fn() -> Command, file: &ConfigFile) -> Result<Settings, Problem> {
    let mut words: Vec<OsString> = vec!["hivemind".into(), "daemon".into()];
    if let Some(path) = &file.config {
        words.extend(["--config".into(), path.into()]);
    }
    let (matches, mut settings) = read(command, &words).map_err(|refused| match refused {
        Refused::Problem(problem) => problem,
        Refused::Usage(error) => Problem::new(ErrorCode::Invalid, error.to_string()),
    })?;
    let wrong = |error: clap::Error| Problem::new(ErrorCode::Internal, error.to_string());
    let (_, own) = matches.subcommand().ok_or_else(|| Problem::new(ErrorCode::Internal, "no daemon"))?;
    let socket = own.get_one::<Target>("socket").cloned();
    let Some(Target::Unix(socket)) = socket else {
        return Err(settings.locate(Problem::new(ErrorCode::Invalid, "--socket: the daemon needs a path")));
    };
    let config = DaemonArgs::from_arg_matches(own).map_err(wrong)?.config(socket)?;
    config.validate().map_err(|problem| settings.locate(problem))?;
    // What is left to the daemon, and known already.
    for Setting { key, value, .. } in &mut settings.all {
        if key == "node-name" {
            *value = Some(config.node_name.to_string());
        }
    }
    Ok(settings)
}

/// `hivemind config check`
pub(in crate::cli) fn check(output: Output, command: impl Fn() -> Command, file: &ConfigFile) -> Result<(), Problem> {
    let settings = whole(command, file)?;
    output.say(&match settings.file {
        Some(path) => format!("{} is as it should be", path.display()),
        None => format!("there is no {}: the defaults and the environment are as they should be", super::DEFAULT_FILE),
    });
    Ok(())
}

/// `hivemind config show`
pub(in crate::cli) fn show(output: Output, command: impl Fn() -> Command, file: &ConfigFile) -> Result<(), Problem> {
    let settings = whole(command, file)?;
    let shown = settings.all.into_iter().map(|setting| Shown {
        source: setting.source.to_string(),
        key: setting.key,
        value: setting.value,
    });
    let output = if output.format == Format::Wide { Output { format: Format::Table, ..output } } else { output };
    output.list(&shown.collect::<Vec<_>>(), "")
}
