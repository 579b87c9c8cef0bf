//! `hivemind up`

use clap::Args;

use super::{
    super::{Context, dry::Dry, output::Format, wait::Waiting},
    ApplyArgs, Read,
    build::{self, Building},
    shown, wait,
};
use crate::{
    api::{projects::ProjectChanged, view::AppView},
    client::ListArgs,
    model::Problem,
};

/// Shown beneath `hivemind up --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind up                                   what compose.yaml here, or above, says
  hivemind up --wait                            and wait until all of it is ready
  hivemind up web                               web, and what comes before it
  hivemind up --build                           images that have a build are built anew
  hivemind up --scale web=3 --profile debug
  hivemind up -f compose.yaml -f prod.yaml -p shop
The project is a namespace: 'hivemind ps -n shop', 'hivemind logs -n shop web'. The same again changes nothing; what has
changed in the file is changed, and nothing else. All of it is taken at once, or refused at once; it goes on by itself if
this command is interrupted.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(in super::super) struct UpArgs {
    #[command(flatten)]
    what: ApplyArgs,
    #[command(flatten)]
    building: Building,
    /// Do not stay: as it is always; taken as Compose has it
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// `hivemind up`
pub(in super::super) async fn up(context: &Context, args: &UpArgs) -> Result<(), Problem> {
    let mut read = args.what.read(context)?;
    let before = before(&read).await?;
    build::bring(&mut read, &before, &args.building).await?;
    let context = &read.context;
    let done = put(&read, &args.what, Dry::default()).await?;
    say(&read, &before, &done);
    if args.waiting.wait {
        wait::until_up(&read, args.waiting.timeout).await?;
    } else if shown::changes(&done) {
        let name = &context.scope.namespace;
        context.output.say(&format!("see: hivemind ps -n {name}   (--wait waits until all is ready)"));
    }
    if context.output.wants_document() {
        return context.output.document(&shown::document(&read, &before, &done));
    }
    if context.output.format == Format::Name {
        read.made.apps.keys().for_each(|app| super::super::output::line(app.as_str()));
    }
    Ok(())
}

/// The apps of the project's namespace; none if there is no such namespace yet.
pub(super) async fn before(read: &Read) -> Result<Vec<AppView>, Problem> {
    read.context.client.list_apps(&read.context.scope, &ListArgs::default()).await
}

/// Sends the project's document, to be written or checked.
pub(super) async fn put(read: &Read, what: &ApplyArgs, dry: Dry) -> Result<ProjectChanged, Problem> {
    let Context { client, scope, .. } = &read.context;
    client.put_project(scope, &read.loaded.project.name, &what.document(read), &dry.args()).await
}

fn say(read: &Read, before: &[AppView], done: &ProjectChanged) {
    let output = read.context.output;
    let (name, count) = (&read.loaded.project.name, read.made.apps.len());
    let lines = shown::lines(read, before, done, false);
    let services = if count == 1 { "1 service".to_owned() } else { format!("{count} services") };
    match shown::changes(done) {
        true if done.created => output.say(&format!("{name} is created: {services}")),
        true => output.say(&format!("{name} is being changed: {services}")),
        false => output.say(&format!("{name} is already as asked for: {services}")),
    }
    lines.iter().for_each(|line| output.say(line));
}
