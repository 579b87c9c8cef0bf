//! `hivemind up|plan|build|down|merged|restart|stop|start`: a folder with a Compose file, as one project.
//!
//! The files are read here, as they lie on the machine of the one who types; what they come to is one request.

mod apply;
mod build;
mod down;
mod plan;
mod shown;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use clap::{Args, ValueEnum};

pub(super) use apply::{UpArgs, up};
pub(super) use build::{BuildArgs, build};
pub(super) use down::{DownArgs, ServicesArgs, down, restart, start, stop};
pub(super) use plan::{ConfigArgs, PlanArgs, config, plan};

use super::Context;
use crate::{
    compat::compose::{
        self, Loaded,
        files::{Disk, Request},
        translate::{self, Options, Translated},
    },
    model::{AppName, ErrorCode, NamespaceName, Problem, Scope},
    spec::v1::{PROJECT_LABEL, ProjectSpec, PullPolicy},
};

/// Which files, and which project.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Project")]
pub(super) struct FileArgs {
    /// Compose file; may be repeated [default: compose.yaml here or above]
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Name of the project, which is its namespace too [default: that in the file, or the folder's]
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Folder that paths begin at [default: that of the first file]
    #[arg(long, value_name = "DIR")]
    project_directory: Option<PathBuf>,
    /// Profile that is enabled; '*' is all; may be repeated
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// File with variables for the files; may be repeated [default: .env]
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

/// What of the project, and how.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ApplyArgs {
    /// Only these services and those that come before them
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// How many instances of a service, whatever the file says; may be repeated
    #[arg(long, value_parser = super::parse::assignment, value_name = "SERVICE=NUMBER")]
    scale: Vec<(String, u32)>,
    /// Remove apps of the project that are no longer in the file
    #[arg(long)]
    remove_orphans: bool,
    /// Give all services that are brought up new instances, whether or not they have changed
    #[arg(long)]
    force_recreate: bool,
    /// Only the services that are named, without those that come before them
    #[arg(long, requires = "services")]
    no_deps: bool,
    /// When to fetch images, whatever the file says; 'always' gives new instances
    #[arg(long, value_enum, value_name = "WHEN")]
    pull: Option<Pull>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pull {
    /// When the node does not have it
    Missing,
    /// Now, and before every new instance
    Always,
    /// The node must have it
    Never,
}

/// A project that was read, and where it lives.
#[derive(Debug)]
struct Read {
    loaded: Loaded,
    made: Translated,
    context: Context,
}

impl FileArgs {
    fn request(&self, services: &[String]) -> Result<Request, Problem> {
        let here = |error| Problem::new(ErrorCode::Invalid, format!("the current folder cannot be read: {error}"));
        Ok(Request {
            working_dir: std::env::current_dir().map_err(here)?,
            files: self.file.clone(),
            project_dir: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            env_files: self.env_file.clone(),
            profiles: self.profile.clone(),
            services: services.to_vec(),
            environment: environment(),
        })
    }
}

/// The variables of this process that are text.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads the project's files.
fn load(files: &FileArgs, services: &[String]) -> Result<Loaded, Problem> {
    compose::load(&files.request(services)?, &Disk).map_err(Problem::from)
}

/// Reads the project's files and translates them; what is odd or not honoured is said.
fn read(context: &Context, files: &FileArgs, services: &[String], options: &Options) -> Result<Read, Problem> {
    let loaded = load(files, services)?;
    let made = translate::translate(&loaded, options).map_err(|found| refused(context, found))?;
    let context = in_project(context, &loaded.project.name)?;
    Ok(Read { loaded, made, context })
}

/// What is only odd is said too: whoever mends the faults mends it at once.
fn refused(context: &Context, found: compose::fault::Findings) -> Problem {
    say_warnings(context, &found.warnings);
    Problem::from(found)
}

fn say_warnings(context: &Context, warnings: &[compose::fault::Fault]) {
    for warning in warnings {
        context.output.say(&format!("warning: {warning}"));
    }
}

/// The project's namespace: of its name, unless one is named by `-n`.
fn in_project(context: &Context, project: &str) -> Result<Context, Problem> {
    let mut context = context.clone();
    if context.scope.is_default_of_tenant() {
        context.scope = Scope { tenant: context.scope.tenant, namespace: namespace(project)? };
    }
    Ok(context)
}

fn namespace(project: &str) -> Result<NamespaceName, Problem> {
    let label = translate::label(project).unwrap_or_default();
    label.parse().map_err(|error| {
        Problem::new(ErrorCode::Invalid, format!("the project {project} can have no namespace: {error}"))
            .hint("hivemind up --project-name NAME")
    })
}

/// Where a command looks that is not about a project alone: in the project that is named, or, where no namespace is
/// said, in that of the folder, if it is up. Elsewhere nothing changes.
pub(super) async fn here(context: &Context, named: Option<&str>) -> Result<Context, Problem> {
    if let Some(name) = named {
        return in_project(context, name);
    }
    if context.scope != Scope::default() {
        return Ok(context.clone());
    }
    let request = FileArgs::default().request(&[])?;
    // A folder without a project, or with one that is not up, is a folder as any other.
    let Some(name) = compose::name(&request, &Disk).ok() else { return Ok(context.clone()) };
    let Ok(inside) = in_project(context, &name) else { return Ok(context.clone()) };
    match context.client.get_namespace(&inside.scope).await {
        Ok(namespace) if namespace.labels.get(PROJECT_LABEL) == Some(&name) => {
            context.output.say(&format!("of the project {name}, whose folder this is (-A: all)"));
            Ok(inside)
        }
        Ok(_) => Ok(context.clone()),
        Err(problem) if problem.code == ErrorCode::NotFound => Ok(context.clone()),
        Err(problem) => Err(problem),
    }
}

impl ApplyArgs {
    fn read(&self, context: &Context) -> Result<Read, Problem> {
        let alone = if self.no_deps { self.services.iter().cloned().collect() } else { BTreeSet::new() };
        let pull = self.pull.map(|pull| match pull {
            Pull::Missing => PullPolicy::IfMissing,
            Pull::Always => PullPolicy::Always,
            Pull::Never => PullPolicy::Never,
        });
        let options = Options { scale: self.scale.iter().cloned().collect(), alone, pull };
        let read = read(context, &self.files, &self.services, &options)?;
        say_warnings(context, &read.made.warnings);
        Ok(read)
    }

    /// The document of the request.
    fn document(&self, read: &Read) -> ProjectSpec {
        let made = &read.made;
        let renewed = self.force_recreate || self.pull == Some(Pull::Always);
        let renew: BTreeSet<AppName> = made.apps.keys().filter(|_| renewed).cloned().collect();
        ProjectSpec {
            apps: made.apps.clone(),
            policies: made.policies.clone(),
            secrets: made.secrets.clone(),
            configs: made.configs.clone(),
            volumes: made.volumes.clone(),
            external_volumes: made.external_volumes.clone(),
            others: made.others.clone(),
            remove_orphans: self.remove_orphans,
            renew,
        }
    }
}
