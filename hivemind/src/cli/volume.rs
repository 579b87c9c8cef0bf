//! `hivemind volume …`

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use clap::{Args, Subcommand};

use super::{
    Context, complete,
    dry::Dry,
    list::{ListArgs, Only},
    output::{Format, Listed, age, bytes, line},
    parse::label,
    tenant::done,
};
use crate::{
    api::{
        tenants::ChangedView,
        volumes::{UsageView, VolumeView},
    },
    client::{ChangeArgs, Client},
    model::{Bytes, ErrorCode, Problem, VolumeName},
    spec::v1::VolumeSpec,
};

/// How long a removal may take until it is left to itself; what is in a volume is removed in the background.
const REMOVAL: Duration = Duration::from_secs(30);

/// How long what keeps a volume from being larger may be that of a former try.
const FAULT: Duration = Duration::from_secs(3);
/// How long a volume may take to be larger until it is left to itself.
const GROWTH: Duration = Duration::from_secs(60);

/// Shown beneath `hivemind volume --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind volume create data
  hivemind volume create data --size 1GiB               a limit, which its processes meet as a full disk
  hivemind volume resize data --size 2GiB               more of it, while it is used
  hivemind app deploy --image postgres:16 --name db --volume data:/var/lib/postgresql/data
  hivemind volume info data                             where it is, who uses it, how much it holds
  hivemind volume delete data                           with all that is in it; refused while it is used
  hivemind volume prune                                 all that nobody uses
A volume outlives the apps that use it. An app that names one that is not there brings it. At its first use it is
filled with what the image has at the path.";

#[derive(Subcommand, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// List the volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show where a volume is, who uses it, and how much it holds
    #[command(visible_aliases = ["show", "inspect"])]
    Info(NameArgs),
    /// Make a volume that has a limit larger, also while it is used
    Resize(ResizeArgs),
    /// Remove a volume with what is in it; nobody may use it
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        #[command(flatten)]
        name: NameArgs,
        #[command(flatten)]
        dry: Dry,
    },
    /// Remove all volumes of the namespace that nobody uses
    Prune,
}

/// The name, by position or by flag.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct NameArgs {
    /// Name of the volume
    #[arg(value_name = "VOLUME", add = complete::volumes())]
    volume: Option<VolumeName>,
    /// Name of the volume
    #[arg(long, value_name = "VOLUME", add = complete::volumes())]
    name: Option<VolumeName>,
}

impl NameArgs {
    fn name(self) -> Result<VolumeName, Problem> {
        let missing = || Problem::new(ErrorCode::Invalid, "no volume is named");
        self.volume.or(self.name).ok_or_else(missing)
    }
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Label; may be repeated
    #[arg(long, value_parser = label, value_name = "NAME=VALUE")]
    label: Vec<(String, String)>,
    /// The most that it may hold, e.g. 1GiB; without it, the node's disk is the limit
    #[arg(long)]
    size: Option<Bytes>,
}

#[derive(Args, Debug)]
pub(super) struct ResizeArgs {
    #[command(flatten)]
    name: NameArgs,
    /// The most that it may hold from now on, e.g. 2GiB
    #[arg(long)]
    size: Bytes,
}

impl Listed for VolumeView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "USED BY", "HOLDS", "LIMIT", "LABELS", "AGE"], &["ID", "PATH", "REVISION"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn place(&self) -> (String, String) {
        (self.tenant.to_string(), self.namespace.to_string())
    }

    fn cells(&self) -> Vec<String> {
        let used = match self.deleting {
            true => "is being removed".to_owned(),
            false => self.used_by.iter().filter_map(|user| user.strip_prefix("app ")).collect::<Vec<_>>().join(" "),
        };
        vec![
            self.name.clone(),
            used,
            self.usage.map(|usage| holds(&usage)).unwrap_or_default(),
            self.size.map(|size| size.to_string()).unwrap_or_default(),
            labels(&self.labels),
            age(self.created_at),
            self.id.to_string(),
            self.path.clone(),
            self.revision.to_string(),
        ]
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn holds(usage: &UsageView) -> String {
    let least = if usage.complete { "" } else { "at least " };
    format!("{least}{}", bytes(usage.bytes))
}

pub(super) async fn run(context: &Context, command: VolumeCommand) -> Result<(), Problem> {
    match command {
        VolumeCommand::Create(CreateArgs { name, label, size }) => create(context, name.name()?, label, size).await,
        VolumeCommand::Resize(ResizeArgs { name, size }) => resize(context, name.name()?, size).await,
        VolumeCommand::Ls(args) => {
            let volumes: Vec<VolumeView> = context.list(&args, Client::list_volumes, Client::list_all_volumes).await?;
            context.show_list(&args, "volumes", Client::list_all_volumes, &volumes, "no volumes").await
        }
        VolumeCommand::Info(name) => {
            let volume: VolumeView = context.client.get_volume(&context.scope, name.name()?.as_str()).await?;
            match context.output.format {
                Format::Json | Format::Yaml => context.output.document(&volume)?,
                Format::Name => line(&volume.name),
                Format::Table | Format::Wide => describe(&volume).iter().for_each(|text| line(text)),
            }
            Ok(())
        }
        VolumeCommand::Delete { name, dry } if dry.dry_run => {
            let name = name.name()?;
            let changed = context.client.delete_volume(&context.scope, name.as_str(), &dry.change()).await?;
            done(context, name.as_str(), &format!("volume {name} would be removed"), changed)
        }
        VolumeCommand::Delete { name, .. } => {
            let name = name.name()?;
            let changed = delete(context, &name).await?;
            done(context, name.as_str(), &format!("volume {name} is removed"), changed)
        }
        VolumeCommand::Prune => prune(context).await,
    }
}

/// Creates it; one that is there gets the labels besides those that it has.
async fn create(
    context: &Context,
    name: VolumeName,
    label: Vec<(String, String)>,
    size: Option<Bytes>,
) -> Result<(), Problem> {
    let Context { client, scope, .. } = context;
    let before = match client.get_volume(scope, name.as_str()).await {
        Ok(before) => Some(before),
        Err(problem) if problem.code == ErrorCode::NotFound => None,
        Err(problem) => return Err(problem),
    };
    let mut spec = VolumeSpec { size, ..VolumeSpec::default() };
    if let Some(before) = before {
        spec.labels = before.labels;
    }
    spec.labels.extend(label);
    let changed: ChangedView = client.put_volume(scope, name.as_str(), &spec, &ChangeArgs::default()).await?;
    let text = match (changed.created, changed.changed) {
        (true, _) => format!("volume {name} is created"),
        (false, true) => format!("volume {name} was there already, and is changed as asked for"),
        (false, false) => format!("volume {name} is there already"),
    };
    done(context, name.as_str(), &text, changed)
}

/// Makes it larger, and waits until the node has done so.
async fn resize(context: &Context, name: VolumeName, size: Bytes) -> Result<(), Problem> {
    let Context { client, scope, .. } = context;
    let before: VolumeView = client.get_volume(scope, name.as_str()).await?;
    let spec = VolumeSpec { size: Some(size), labels: before.labels };
    let changed: ChangedView = client.put_volume(scope, name.as_str(), &spec, &ChangeArgs::default()).await?;
    let begun = tokio::time::Instant::now();
    let grown = async {
        loop {
            let now: VolumeView = client.get_volume(scope, name.as_str()).await?;
            match (now.usage, now.size_there, now.fault) {
                (_, Some(there), _) if there >= size => return Ok(format!("volume {name} may hold {size}")),
                (None, None, None) => return Ok(format!("volume {name} may hold {size} when it is used first")),
                (_, _, Some(fault)) if begun.elapsed() > FAULT => {
                    return Err(Problem::new(ErrorCode::Storage, format!("volume {name} is not larger yet: {fault}"))
                        .hint(format!("hivemind volume info {name}   (it is tried again)")));
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let text = match tokio::time::timeout(GROWTH, grown).await {
        Ok(grown) => grown?,
        Err(_) => {
            return Err(Problem::new(ErrorCode::TimedOut, format!("volume {name} is still being made larger"))
                .hint(format!("hivemind volume info {name}")));
        }
    };
    done(context, name.as_str(), &text, changed)
}

/// Has it removed, and waits until it is.
async fn delete(context: &Context, name: &VolumeName) -> Result<ChangedView, Problem> {
    let Context { client, scope, .. } = context;
    let changed = client.delete_volume(scope, name.as_str(), &ChangeArgs::default()).await?;
    let gone = async {
        loop {
            match client.get_volume(scope, name.as_str()).await {
                Err(problem) if problem.code == ErrorCode::NotFound => return Ok(()),
                Err(problem) => return Err(problem),
                // Somebody has made it again meanwhile.
                Ok(volume) if !volume.deleting => return Ok(()),
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    match tokio::time::timeout(REMOVAL, gone).await {
        Ok(gone) => gone.map(|()| changed),
        Err(_) => Err(Problem::new(ErrorCode::TimedOut, format!("volume {name} is still being removed"))
            .hint("hivemind events   (says why, if it cannot be removed)")),
    }
}

async fn prune(context: &Context) -> Result<(), Problem> {
    let all: Vec<VolumeView> = context.list_here(&Only::default(), Client::list_volumes).await?;
    let unused: Vec<_> = all.into_iter().filter(|volume| volume.used_by.is_empty() && !volume.deleting).collect();
    if unused.is_empty() {
        context.output.say("every volume is used");
        return Ok(());
    }
    let names = unused.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>().join(" ");
    if !context.yes {
        let question = format!("remove {names} with all that is in them?");
        if !(std::io::stdin().is_terminal() && super::terminal::confirmed(&question)) {
            return Err(Problem::new(ErrorCode::Invalid, "nothing was removed: it was not confirmed")
                .detail(format!("to be removed: {names}"))
                .hint("hivemind volume prune --yes"));
        }
    }
    for volume in unused {
        let Ok(name) = volume.name.parse::<VolumeName>() else { continue };
        match delete(context, &name).await {
            Ok(_) => {
                context.output.say(&format!("volume {name} is removed"));
                if context.output.format == Format::Name {
                    line(name.as_str());
                }
            }
            // It has come into use meanwhile.
            Err(problem) if problem.code == ErrorCode::Taken => context.output.problem(&problem),
            Err(problem) => return Err(problem),
        }
    }
    Ok(())
}

/// A volume for people.
fn describe(volume: &VolumeView) -> Vec<String> {
    let mut lines = vec![format!("Name:      {}", volume.name)];
    let mut say = |title: &str, text: String| lines.push(format!("{:<10} {text}", format!("{title}:")));
    say("Namespace", format!("{}/{}", volume.tenant, volume.namespace));
    if volume.deleting {
        say("State", "is being removed".into());
    }
    say("Used by", if volume.used_by.is_empty() { "nobody".into() } else { volume.used_by.join(", ") });
    say(
        "Holds",
        match &volume.usage {
            Some(usage) => holds(usage),
            None => "nothing; it is made on the node when it is first used".into(),
        },
    );
    let more = volume.usage.and_then(|usage| usage.limit).map(|limit| format!(", of which {} for files", bytes(limit)));
    if let Some(size) = volume.size {
        say("Limit", format!("{size}{}", more.unwrap_or_default()));
    }
    if let Some(fault) = &volume.fault {
        say("Fault", fault.clone());
    }
    say("Path", volume.path.clone());
    if !volume.labels.is_empty() {
        say("Labels", labels(&volume.labels));
    }
    say("Age", age(volume.created_at));
    lines
}
