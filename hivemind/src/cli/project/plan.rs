//! `hivemind plan` and `hivemind merged`: what `up` would do, and what the files come to.

use std::process::ExitCode;

use clap::Args;

use super::{
    super::{
        Context,
        dry::Dry,
        output::{Format, line},
    },
    ApplyArgs, FileArgs, apply, build, load, say_warnings, shown,
};
use crate::model::Problem;

/// Exit code of `plan --exit-code` if something would change.
const DIFFERS: u8 = 10;

#[derive(Args, Debug)]
pub(in super::super) struct PlanArgs {
    #[command(flatten)]
    what: ApplyArgs,
    /// End with 10 if something would change, and with 0 if nothing would
    #[arg(long)]
    exit_code: bool,
}

/// `hivemind plan`
pub(in super::super) async fn plan(context: &Context, args: &PlanArgs) -> Result<ExitCode, Problem> {
    let mut read = args.what.read(context)?;
    let output = read.context.output;
    let before = apply::before(&read).await?;
    let builds = build::look(&mut read, &before).await?;
    let done = apply::put(&read, &args.what, Dry { dry_run: true }).await?;
    let changes = shown::changes(&done);
    match output.format {
        Format::Json | Format::Yaml => output.document(&shown::document(&read, &before, &done))?,
        Format::Name => {
            done.apps.iter().filter(|(_, app)| app.action.is_change()).for_each(|(name, _)| line(name.as_str()));
        }
        Format::Table | Format::Wide => {
            builds.iter().for_each(|text| line(text));
            shown::lines(&read, &before, &done, true).iter().for_each(|text| line(text));
            if !changes {
                output.say(&format!("nothing would change: {} is as the file says", read.loaded.project.name));
            }
        }
    }
    Ok(if args.exit_code && changes { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS })
}

#[derive(Args, Debug)]
pub(in super::super) struct ConfigArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Print only the names of the services
    #[arg(long)]
    services: bool,
}

/// `hivemind merged`
pub(in super::super) fn config(context: &Context, args: &ConfigArgs) -> Result<(), Problem> {
    let loaded = load(&args.files, &[])?;
    say_warnings(context, &loaded.warnings);
    if args.services || context.output.format == Format::Name {
        loaded.project.services.keys().for_each(|name| line(name));
        return Ok(());
    }
    if context.output.quiet {
        return Ok(());
    }
    let mut document = loaded.project.document.to_json();
    document["name"] = loaded.project.name.into();
    let mut output = context.output;
    if !output.wants_document() {
        output.format = Format::Yaml;
    }
    output.document(&document)
}
