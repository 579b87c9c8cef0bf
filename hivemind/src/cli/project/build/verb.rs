//! `hivemind build`

use clap::Args;
use serde::Serialize;

use super::{
    super::{
        super::{
            Context,
            output::{Format, line},
        },
        FileArgs, Options, read, say_warnings,
    },
    By,
    run::{self, Made},
};
use crate::model::{ErrorCode, Problem};

/// Shown beneath `hivemind build --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind build                                every image of the project that has a build
  hivemind build web --no-cache                 one service's, from the beginning
  hivemind build --build-arg VERSION=2          and hivemind up gives its services new instances
It is built here, by BuildKit, Docker or buildah, and sent to the node. Services take it at the next 'hivemind up'.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(in super::super::super) struct BuildArgs {
    /// Only the images of these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// An argument of the build, whatever the file says; may be repeated; without a value, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Reuse no layer of an earlier build
    #[arg(long)]
    no_cache: bool,
    /// Fetch base images anew
    #[arg(long)]
    pull: bool,
    #[command(flatten)]
    by: By,
}

/// What `-o json` shows of an image that was built.
#[derive(Serialize)]
struct Shown {
    image: String,
    digest: String,
    services: Vec<String>,
}

/// `hivemind build`
pub(in super::super::super) async fn build(context: &Context, args: &BuildArgs) -> Result<(), Problem> {
    let alone = args.services.iter().cloned().collect();
    let options = Options { alone, ..Options::default() };
    let mut read = read(context, &args.files, &args.services, &options)?;
    say_warnings(context, &read.made.warnings);
    let builds = &read.made.builds;
    let built = |service: &&String| builds.values().any(|wanted| wanted.services.contains(service));
    if let Some(other) = args.services.iter().find(|service| !built(service)) {
        let title = format!("the service {other} has no build: its image is fetched");
        return Err(Problem::new(ErrorCode::Invalid, title).hint("hivemind build   (all that have one)"));
    }
    for wanted in read.made.builds.values_mut() {
        for arg in &args.build_arg {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), std::env::var(arg).ok()),
            };
            wanted.build.args.insert(name.to_owned(), value);
        }
        let more = |said: Option<bool>, flag: bool| Some(said == Some(true) || flag);
        wanted.build.no_cache = more(wanted.build.no_cache, args.no_cache);
        wanted.build.pull = more(wanted.build.pull, args.pull);
    }
    let wanted: Vec<_> = read.made.builds.values().collect();
    if wanted.is_empty() {
        context.output.say(&format!("nothing to build: no service of {} has a build", read.loaded.project.name));
    }
    let made = run::all(&read, &wanted, args.by.chosen()).await?;
    if context.output.wants_document() {
        let shown = |made: Made| Shown { image: made.image, digest: made.digest, services: made.services };
        return context.output.document(&made.into_iter().map(shown).collect::<Vec<_>>());
    }
    if context.output.format == Format::Name {
        made.iter().for_each(|made| line(&made.image));
    }
    Ok(())
}
