//! `hivemind logs`

use clap::Args;
use futures::{StreamExt, stream::SelectAll};

use super::{
    Context,
    app::duration,
    instance::{escape, resolve},
};
use crate::{
    api::{instances::LogLineView, view::InstanceView},
    model::{Problem, Timestamp},
};

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    /// App, or instance by name or id
    target: String,
    /// Also what is yet to come
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each instance
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Only lines of the last time, e.g. 10m
    #[arg(long, value_parser = duration, value_name = "TIME")]
    since: Option<std::time::Duration>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
}

pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<(), Problem> {
    let instances = resolve(context, &args.target).await?;
    let several = instances.len() > 1;
    let width = instances.iter().map(|instance| instance.name.len()).max().unwrap_or(0);
    let mut streams = SelectAll::new();
    for instance in instances {
        let lines = context.client.lines::<LogLineView>(&path(context, args, &instance)).await?;
        streams.push(lines.map(move |line| (instance.name.clone(), line)).boxed());
    }
    let mut all = Vec::new();
    while let Some((name, line)) = streams.next().await {
        let line = line?;
        if args.follow {
            show(context, args, several.then_some((&name, width)), &line)?;
        } else {
            all.push((line.at, name, line));
        }
    }
    // Without --follow everything is there: in the order it was written, over all instances.
    all.sort_by_key(|(at, ..)| *at);
    for (_, name, line) in &all {
        show(context, args, several.then_some((name, width)), line)?;
    }
    Ok(())
}

fn path(context: &Context, args: &LogsArgs, instance: &InstanceView) -> String {
    let mut query = vec![format!("follow={}", args.follow)];
    query.extend(args.tail.map(|tail| format!("tail={tail}")));
    query.extend(args.since.map(|since| {
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let from = Timestamp::from_millis(crate::lifecycle::clock::now().as_millis().saturating_sub(millis));
        format!("since={}", escape(&from.to_string()))
    }));
    context.path(&format!("instances/{}/logs?{}", instance.id, query.join("&")))
}

fn show(
    context: &Context,
    args: &LogsArgs,
    prefix: Option<(&String, usize)>,
    line: &LogLineView,
) -> Result<(), Problem> {
    use std::io::Write;
    let mut text = String::new();
    if context.output.wants_document() {
        let mut document = serde_json::to_value(line).unwrap_or_default();
        document["instance"] = prefix.map(|(name, _)| name.clone()).into();
        text = document.to_string();
    } else {
        if let Some((name, width)) = prefix {
            text += &format!("{name:<width$} | ");
        }
        if args.timestamps {
            text += &format!("{} ", line.at);
        }
        text += &line.line;
    }
    // A closed pipe (logs | head) is no error of ours: stop quietly.
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
    Ok(())
}
