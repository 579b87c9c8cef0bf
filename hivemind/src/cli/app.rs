//! `hivemind app …` and `hivemind scale`

use clap::{Args, Subcommand};

use super::{
    Context, complete,
    deploy::{self, DeployArgs},
    dry::Dry,
    history,
    list::ListArgs,
    output::{Format, Listed, Tone, age, line},
    parse::assignment,
    wait::{self, Waiting},
};
use crate::{
    api::{
        apps::{Scale, Written},
        view::{AppState, AppView, InstanceView},
    },
    client::Client,
    model::{AppName, ErrorCode, Phase, Problem},
    spec::v1::{FileSpec, LogSpec},
};

#[derive(Subcommand, Debug)]
pub(super) enum AppCommand {
    /// Create an app, or change it to what is said here
    Deploy(Box<DeployArgs>),
    /// List the apps
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show an app with its instances
    #[command(visible_alias = "inspect")]
    Info(Named),
    /// Change the number of instances
    Scale(ScaleArgs),
    /// Stop the instances of an app and remove it
    #[command(visible_alias = "remove")]
    Rm(ChangeArgs),
    /// Replace all instances, one after the other
    Restart(ChangeArgs),
    /// Show the generations that an app had, and what became of them
    History(Named),
    /// Go back to what an app was before
    #[command(visible_alias = "undo")]
    Rollback(history::RollBackArgs),
    /// Show what a deploy with these flags would change
    Diff(Box<history::DiffArgs>),
}

#[derive(Args, Debug)]
pub(super) struct Named {
    /// Name of the app, as a flag
    #[arg(long = "name", value_name = "NAME", conflicts_with = "app", add = complete::apps())]
    name: Option<AppName>,
    /// Name of the app
    #[arg(required_unless_present = "name", add = complete::apps())]
    app: Option<AppName>,
}

impl Named {
    pub(super) fn get(&self) -> Result<&AppName, Problem> {
        let missing = || Problem::new(ErrorCode::Invalid, "name the app");
        self.name.as_ref().or(self.app.as_ref()).ok_or_else(missing)
    }
}

#[derive(Args, Debug)]
pub(super) struct ScaleArgs {
    #[command(flatten)]
    app: Named,
    /// How many instances
    #[arg(long, value_name = "NUMBER")]
    replicas: u32,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Debug)]
pub(super) struct ScaleManyArgs {
    /// How many instances of which apps
    #[arg(value_parser = assignment, required = true, value_name = "APP=NUMBER", add = complete::assignments())]
    apps: Vec<(String, u32)>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Debug)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    app: Named,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    dry: Dry,
}

impl Listed for AppView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "IMAGE", "READY", "STATE", "PORTS", "AGE"], &["SERVICES", "GENERATION"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.spec.image.clone(),
            format!("{}/{}", self.status.serving, self.status.desired),
            self.state.to_string(),
            ports(self),
            age(self.created_at),
            self.spec.services.join(" "),
            self.generation.to_string(),
        ]
    }

    fn place(&self) -> (String, String) {
        (self.tenant.to_string(), self.namespace.to_string())
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        let tone = match self.state {
            AppState::Ready | AppState::Completed => Tone::Good,
            AppState::Updating | AppState::Waiting | AppState::Removing => Tone::Busy,
            AppState::Degraded => Tone::Bad,
            AppState::Stopped => Tone::Plain,
        };
        Some((3, tone))
    }
}

fn ports(app: &AppView) -> String {
    app.spec.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Runs it; returns the exit code.
pub(super) async fn run(context: &Context, command: AppCommand) -> Result<u8, Problem> {
    match command {
        AppCommand::Diff(args) => return history::diff(context, *args).await,
        AppCommand::History(app) => history::history(context, &app).await,
        AppCommand::Rollback(args) => history::roll_back(context, &args).await,
        AppCommand::Deploy(args) => deploy::run(context, *args).await,
        AppCommand::Ls(args) => {
            let apps: Vec<AppView> = context.list(&args, Client::list_apps, Client::list_all_apps).await?;
            let empty = "no apps yet; try: hivemind app deploy --image nginx:latest --name web --port 8080:80 --wait";
            context.show_list(&args, "apps", Client::list_all_apps, &apps, empty).await
        }
        AppCommand::Info(named) => info(context, named.get()?).await,
        AppCommand::Scale(args) => {
            let name = args.app.get()?;
            let written = scale(context, name, args.replicas, args.dry).await?;
            finish(context, name, &args.waiting, args.dry, &written).await
        }
        AppCommand::Rm(args) => remove(context, &args).await,
        AppCommand::Restart(args) => {
            let name = args.app.get()?;
            let change = args.dry.change();
            let written = context.client.restart_app(&context.scope, name.as_str(), &change).await?.written;
            context.output.say(&format!(
                "{name} {}",
                args.dry
                    .word("is being restarted: its instances are replaced one after the other", "would be restarted",)
            ));
            finish(context, name, &args.waiting, args.dry, &written).await
        }
    }
    .map(|()| 0)
}

/// `hivemind scale web=3 db=1`
pub(super) async fn scale_many(context: &Context, args: &ScaleManyArgs) -> Result<(), Problem> {
    let name = |text: &str| text.parse::<AppName>().map_err(|e| Problem::new(ErrorCode::Invalid, e.to_string()));
    // All are looked for before the first is scaled.
    let apps: Vec<_> = args.apps.iter().map(|(app, n)| Ok((name(app)?, *n))).collect::<Result<_, Problem>>()?;
    for (app, _) in &apps {
        let _: AppView = context.client.get_app(&context.scope, app.as_str()).await?;
    }
    let mut scaled = Vec::new();
    for (app, replicas) in apps {
        let written = scale(context, &app, replicas, args.dry).await?;
        scaled.push((app, written));
    }
    for (app, written) in &scaled {
        finish(context, app, &args.waiting, args.dry, written).await?;
    }
    Ok(())
}

async fn scale(context: &Context, app: &AppName, replicas: u32, dry: Dry) -> Result<Written, Problem> {
    let (scope, scale) = (&context.scope, Scale { replicas });
    let written = context.client.scale_app(scope, app.as_str(), &scale, &dry.change()).await?.written;
    context.output.say(&format!("{app} {} scaled to {replicas}", dry.word("is being", "would be")));
    Ok(written)
}

/// Waits if that was asked for, and shows the document that was: how the app stands, or what was written.
pub(super) async fn finish(
    context: &Context,
    app: &AppName,
    waiting: &Waiting,
    dry: Dry,
    written: &Written,
) -> Result<(), Problem> {
    if !waiting.wait || dry.dry_run {
        return if context.output.wants_document() { context.output.document(written) } else { Ok(()) };
    }
    let view = wait::until_ready(context, app.as_str(), waiting.timeout, written).await?;
    if context.output.wants_document() { context.output.document(&view) } else { Ok(()) }
}

async fn remove(context: &Context, args: &ChangeArgs) -> Result<(), Problem> {
    let name = args.app.get()?;
    let written = context.client.delete_app(&context.scope, name.as_str(), &args.dry.change()).await?.written;
    context.output.say(&format!("{name} {} removed", args.dry.word("is being", "would be")));
    if args.waiting.wait && !args.dry.dry_run {
        wait::until_gone(context, name.as_str(), args.waiting.timeout).await?;
    }
    if context.output.wants_document() { context.output.document(&written) } else { Ok(()) }
}

async fn info(context: &Context, name: &AppName) -> Result<(), Problem> {
    let app: AppView = context.client.get_app(&context.scope, name.as_str()).await?;
    let instances = super::instance::of_app(context, &app.name).await?;
    match context.output.format {
        Format::Name => line(&app.name),
        Format::Json | Format::Yaml => return context.output.document(&with_instances(&app, &instances)),
        Format::Table | Format::Wide => {
            describe(&app);
            for instance in instances.iter().filter(|instance| !instance.outdated.is_empty()) {
                let what = instance.outdated.join(", ");
                line(&format!("{:<12}{} has an older content than there is of {what}", "Outdated", instance.name));
            }
            line("");
            context.output.list(&instances, "no instances")?;
            instances.iter().flat_map(super::sidecar::states).for_each(|text| line(&text));
            // Why the first of those that have fallen, in its own words.
            let fallen = [Phase::Backoff, Phase::Failed, Phase::Unhealthy, Phase::NotReady];
            if let Some(instance) = instances.iter().find(|instance| fallen.contains(&instance.phase)) {
                wait::last_lines(context, instance).await.iter().for_each(|text| line(text));
            }
            if app.state == AppState::Degraded {
                context.output.say(&format!("see also: hivemind logs {name}   hivemind events {name}"));
            }
        }
    }
    Ok(())
}

/// The app's document with its instances in it.
fn with_instances(app: &AppView, instances: &[InstanceView]) -> serde_json::Value {
    let mut document = serde_json::to_value(app).unwrap_or_default();
    document["instances"] = serde_json::to_value(instances).unwrap_or_default();
    document
}

fn describe(app: &AppView) {
    let show = |title: &str, text: String| {
        if !text.is_empty() {
            line(&format!("{title:<12}{text}"));
        }
    };
    let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| words.join(" ")).unwrap_or_default();
    let limits = &app.spec.resources;
    let limit = |name: &str, text: Option<String>| text.map(|text| format!("{name} {text}"));
    let limits: Vec<_> = [
        limit("cpu", limits.cpu.map(|n| n.to_string())),
        limit("memory", limits.memory.map(|n| n.to_string())),
        limit("pids", limits.pids.map(|n| n.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect();
    show("Name", app.name.clone());
    show("Scope", format!("{}/{}", app.tenant, app.namespace));
    show("Image", app.spec.image.clone());
    show("State", format!("{} ({})", app.state, wait::count(&app.status)));
    app.rollout.iter().flat_map(super::update::shown).for_each(|text| show("Update", text));
    app.unmet.iter().for_each(|reason| show("Unmet", reason.clone()));
    app.waits.iter().for_each(|line| show("Waits", line.clone()));
    show("Services", app.spec.services.join(" "));
    show("Ports", ports(app));
    super::balance::words(&app.spec.balance).into_iter().for_each(|(title, text)| show(title, text));
    show("Entrypoint", words(&app.spec.command));
    show("Arguments", words(&app.spec.args));
    // Values may be secrets; `-o json` shows them to those who ask.
    show("Environment", app.spec.env.keys().cloned().collect::<Vec<_>>().join(" "));
    show("Limits", limits.join(", "));
    show("Mounts", app.spec.mounts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let names = |files: &[FileSpec]| files.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    show("Secrets", names(&app.spec.secrets));
    show("Configs", names(&app.spec.configs));
    super::health::shown(&app.spec).into_iter().for_each(|(title, text)| show(title, text));
    let LogSpec { max_size, max_files, max_age_seconds } = &app.spec.logging;
    let logs = [
        max_size.map(|size| format!("files of {size}")),
        max_files.map(|files| format!("{files} files")),
        max_age_seconds.map(|seconds| format!("for {seconds} s")),
    ];
    show("Log", logs.into_iter().flatten().collect::<Vec<_>>().join(", "));
    show("Updates", super::update::words(&app.spec.update));
    show("Container", super::container::shown(&app.spec.container));
    show("Sidecars", super::sidecar::shown(&app.spec));
    show("Traffic", super::limits::shown(&app.spec.limits));
    show("Generation", app.generation.to_string());
    show("Age", age(app.created_at));
}
