//! `hivemind down`, `restart`, `stop` and `start`

use std::time::Duration;

use clap::Args;

use super::{
    super::{Context, dry::Dry, output::Format, parse::duration, wait::Waiting},
    FileArgs, Read, apply, compose, in_project, read, say_warnings, wait,
};
use crate::{
    api::{apps::Scale, view::AppView},
    client::{ChangeArgs, DeleteProjectArgs},
    compat::compose::translate::Options,
    model::{AppName, ErrorCode, Problem},
    spec::v1::PROJECT_LABEL,
};

#[derive(Args, Debug)]
pub(in super::super) struct DownArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Also apps of the project that are no longer in the file: as it is always; taken as Compose has it
    #[arg(long)]
    remove_orphans: bool,
    /// Also the volumes that the project has made, with all that is in them; those that are external stay
    #[arg(short, long)]
    volumes: bool,
    /// Do not wait until all is gone; it goes on by itself
    #[arg(short, long)]
    detach: bool,
    /// How long to wait, e.g. 90s or 5m
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
    #[command(flatten)]
    dry: Dry,
}

/// `hivemind down`
pub(in super::super) async fn down(context: &Context, args: &DownArgs) -> Result<(), Problem> {
    let name = project_name(&args.files)?;
    let context = &in_project(context, &name)?;
    let how = DeleteProjectArgs { volumes: args.volumes, dry_run: args.dry.dry_run };
    let done = context.client.delete_project(&context.scope, &name, &how).await?;
    if args.dry.dry_run {
        context.output.say(&format!("{name} would be removed: {}", named(done.apps.keys())));
    } else if !args.detach {
        wait::until_down(context, &name, &done, args.timeout).await?;
    } else {
        context.output.say(&format!("{name} is being removed: {}", named(done.apps.keys())));
    }
    if context.output.wants_document() {
        return context.output.document(&done);
    }
    if context.output.format == Format::Name {
        done.apps.keys().for_each(|app| super::super::output::line(app.as_str()));
    }
    Ok(())
}

/// The project's name. Who names it needs no file for it: the project may be of elsewhere.
fn project_name(files: &FileArgs) -> Result<String, Problem> {
    match &files.project_name {
        Some(name) => Ok(name.clone()),
        None => compose::name(&files.request(&[])?, &compose::files::Disk).map_err(Problem::from),
    }
}

fn named<'a>(apps: impl Iterator<Item = &'a AppName>) -> String {
    let names: Vec<_> = apps.map(AppName::as_str).collect();
    if names.is_empty() { "no service is left".into() } else { names.join(", ") }
}

#[derive(Args, Debug)]
pub(in super::super) struct ServicesArgs {
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    waiting: Waiting,
}

/// The services that are named, or all that are up.
async fn chosen(context: &Context, args: &ServicesArgs) -> Result<(Read, Vec<AppView>), Problem> {
    let read = read(context, &args.files, &[], &Options::default())?;
    say_warnings(context, &read.made.warnings);
    let mut apps: Vec<AppView> = apply::before(&read).await?;
    apps.retain(|app| app.spec.labels.get(PROJECT_LABEL) == Some(&read.loaded.project.name));
    if apps.is_empty() {
        let title = format!("nothing of the project {} is up", read.loaded.project.name);
        return Err(Problem::new(ErrorCode::NotFound, title).hint("hivemind up"));
    }
    let mut wanted = Vec::new();
    for service in &args.services {
        let app = read.made.names.get(service).map_or(service.as_str(), AppName::as_str).to_owned();
        if !apps.iter().any(|view| view.name == app) {
            let title = format!("service {service} of the project {} is not up", read.loaded.project.name);
            return Err(Problem::new(ErrorCode::NotFound, title).hint("hivemind merged --services"));
        }
        wanted.push(app);
    }
    apps.retain(|view| wanted.is_empty() || wanted.contains(&view.name));
    Ok((read, apps))
}

/// `hivemind restart`
pub(in super::super) async fn restart(context: &Context, args: &ServicesArgs) -> Result<(), Problem> {
    let (read, apps) = chosen(context, args).await?;
    for app in &apps {
        read.context.client.restart_app(&read.context.scope, &app.name, &ChangeArgs::default()).await?;
        read.context.output.say(&format!("{} gets new instances", app.name));
    }
    waited(&read, args).await
}

/// `hivemind stop`
pub(in super::super) async fn stop(context: &Context, args: &ServicesArgs) -> Result<(), Problem> {
    let (read, apps) = chosen(context, args).await?;
    scale(&read, &apps, |_| Some(0)).await?;
    waited(&read, args).await
}

/// `hivemind start`
pub(in super::super) async fn start(context: &Context, args: &ServicesArgs) -> Result<(), Problem> {
    let (read, apps) = chosen(context, args).await?;
    let stopped: Vec<AppView> = apps.into_iter().filter(|app| app.spec.replicas == 0).collect();
    let wanted = |app: &AppView| {
        let spec = app.name.parse::<AppName>().ok().and_then(|name| read.made.apps.get(&name));
        spec.map(|spec| spec.replicas)
    };
    scale(&read, &stopped, wanted).await?;
    waited(&read, args).await
}

async fn scale(read: &Read, apps: &[AppView], wanted: impl Fn(&AppView) -> Option<u32>) -> Result<(), Problem> {
    for app in apps {
        let Some(replicas) = wanted(app) else { continue };
        let (Context { client, scope, .. }, scale) = (&read.context, Scale { replicas });
        client.scale_app(scope, &app.name, &scale, &ChangeArgs::default()).await?;
        let what = if replicas == 0 { "is stopped".to_owned() } else { format!("is started: {replicas}") };
        read.context.output.say(&format!("{} {what}", app.name));
    }
    Ok(())
}

async fn waited(read: &Read, args: &ServicesArgs) -> Result<(), Problem> {
    if args.waiting.wait { wait::until_up(read, args.waiting.timeout).await } else { Ok(()) }
}
