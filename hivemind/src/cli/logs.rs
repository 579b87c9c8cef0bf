//! `hivemind logs`: several instances in one stream, those included that come while it is followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Args;
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};

use super::{
    Context, complete,
    follow::{is_away, patiently},
    instance::{Meant, resolve},
    list::Only,
    output::{colours, line},
    parse::{Since, since},
    project,
};
use crate::{
    api::{
        instances::LogLineView,
        view::{AppView, InstanceView},
    },
    client::{Client, GetInstanceLogsArgs, ListArgs},
    lifecycle::clock,
    model::{ErrorCode, InstanceId, Problem, Scope, SidecarName, Timestamp},
};

/// How often to look for new instances, and for those whose process was started again.
const PERIOD: Duration = Duration::from_millis(500);
/// Colours of the instances' names, ANSI: those that can be read on light and dark.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    /// Apps, or one instance by name or id; in a project without it all of the project
    #[arg(value_name = "APP|INSTANCE", add = complete::targets())]
    targets: Vec<String>,
    /// Of this project [in a project's folder: of that one]
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Also what is yet to come, over restarts of the daemon
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each instance
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Only lines since then: 10m, or 2026-11-21T01:14:07Z
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<Since>,
    /// Of a sidecar of the instances, by its name [default: the app's own container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<SidecarName>,
    /// Of the app's own container and of all sidecars
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
}

type Lines = BoxStream<'static, Result<LogLineView, Problem>>;

/// Which lines of one instance.
#[derive(Clone, Debug, Default)]
struct Part {
    follow: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    /// Behind which line.
    after: Option<String>,
}

pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<(), Problem> {
    let since = args.since.map(|since| since.at(clock::now()));
    let part = Part { follow: args.follow, tail: args.tail, since, after: None };
    let context = &project::here(context, args.project_name.as_deref()).await?;
    let (wanted, instances) = Wanted::find(context, args).await?;
    let of = Of::new(args, &instances)?;
    let sources: Vec<_> = of.sources(&instances).collect();
    let mut printer = Printer::new(context, args, &sources);
    if args.follow {
        let known = sources.iter().map(|source| source.key()).collect();
        let mut follow = Follow { context, part, wanted, of, known, open: BTreeSet::new(), last: BTreeMap::new() };
        return follow.run(&mut printer, instances).await;
    }
    if instances.is_empty() {
        context.output.say(&format!("{wanted} has no instances"));
    }
    let mut heads = Vec::new();
    for source in sources {
        let mut lines = open(context, &source, &part).await?;
        if let Some(first) = lines.next().await {
            heads.push((source.name, first?, lines));
        }
    }
    // In the order it was written, over all instances; each by itself is in order.
    while let Some(oldest) = heads.iter().enumerate().min_by_key(|(_, (_, line, _))| line.at).map(|(i, _)| i) {
        let (name, line, lines) = &mut heads[oldest];
        printer.print(name, line)?;
        match lines.next().await {
            Some(next) => *line = next?,
            None => drop(heads.swap_remove(oldest)),
        }
    }
    Ok(())
}

/// Of which containers of the instances.
#[derive(Debug)]
enum Of {
    /// Of the apps' own.
    Own,
    /// Of the sidecars of that name.
    Sidecar(SidecarName),
    /// Of all.
    All,
}

/// The log of one container.
#[derive(Clone, Debug)]
struct Source {
    id: InstanceId,
    container: Option<SidecarName>,
    /// For people: the instance's name, and behind a slash the sidecar's.
    name: String,
}

type Key = (InstanceId, Option<SidecarName>);

impl Source {
    fn key(&self) -> Key {
        (self.id.clone(), self.container.clone())
    }
}

impl Of {
    /// # Errors
    /// If there are instances, and none has the sidecar.
    fn new(args: &LogsArgs, instances: &[InstanceView]) -> Result<Self, Problem> {
        let Some(name) = &args.container else {
            return Ok(if args.all_containers { Self::All } else { Self::Own });
        };
        let of = Self::Sidecar(name.clone());
        if instances.is_empty() || of.sources(instances).next().is_some() {
            return Ok(of);
        }
        let mut there: Vec<_> = instances.iter().flat_map(|it| &it.sidecars).map(|it| it.name.to_string()).collect();
        there.dedup();
        let hint = if there.is_empty() { "leave out -c: there are none".into() } else { there.join(", ") };
        Err(Problem::new(ErrorCode::NotFound, format!("no instance has a sidecar {name}")).hint(hint))
    }

    fn sources<'a>(&'a self, instances: &'a [InstanceView]) -> impl Iterator<Item = Source> + 'a {
        instances.iter().flat_map(move |instance| {
            let own = || Source { id: instance.id.clone(), container: None, name: instance.name.clone() };
            let own = (!matches!(self, Self::Sidecar(_))).then(own);
            let wanted = |name: &SidecarName| match self {
                Self::Own => false,
                Self::Sidecar(of) => of == name,
                Self::All => true,
            };
            let beside = instance.sidecars.iter().filter(move |it| wanted(&it.name)).map(|it| Source {
                id: instance.id.clone(),
                container: Some(it.name.clone()),
                name: format!("{}/{}", instance.name, it.name),
            });
            own.into_iter().chain(beside)
        })
    }
}

/// Whose lines.
#[derive(Debug)]
enum Wanted {
    /// Of all apps of the namespace.
    All,
    /// Of these.
    Apps(Vec<String>),
    /// Of one instance.
    Instance(String),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("the namespace"),
            Self::Apps(apps) => f.write_str(&apps.join(", ")),
            Self::Instance(name) => f.write_str(name),
        }
    }
}

impl Wanted {
    /// What is meant, and the instances that there are of it.
    async fn find(context: &Context, args: &LogsArgs) -> Result<(Self, Vec<InstanceView>), Problem> {
        if args.targets.is_empty() {
            if context.scope == Scope::default() {
                return Err(Problem::new(ErrorCode::Invalid, "name an app or an instance").hint("hivemind ps"));
            }
            return Ok((Self::All, context.list_here(&Only::default(), Client::list_instances).await?));
        }
        let mut all = Vec::new();
        for word in &args.targets {
            match resolve(context, word).await? {
                Meant::App(instances) => all.extend(instances),
                Meant::Instance(instance) if args.targets.len() == 1 => {
                    return Ok((Self::Instance(word.clone()), vec![*instance]));
                }
                Meant::Instance(_) => {
                    let title = format!("{word} is an instance: name it alone, or name apps");
                    return Err(Problem::new(ErrorCode::Invalid, title));
                }
            }
        }
        Ok((Self::Apps(args.targets.clone()), all))
    }

    fn has(&self, instance: &InstanceView) -> bool {
        match self {
            Self::All => true,
            Self::Apps(apps) => apps.contains(&instance.app),
            Self::Instance(_) => false,
        }
    }
}

async fn open(context: &Context, source: &Source, part: &Part) -> Result<Lines, Problem> {
    let asked = GetInstanceLogsArgs {
        tail: part.tail.map(|tail| tail as u64),
        follow: part.follow,
        since: part.since.map(|since| since.to_string()),
        after: part.after.clone(),
        container: source.container.as_ref().map(ToString::to_string),
    };
    context.client.get_instance_logs(&context.scope, source.id.as_str(), &asked).await
}

/// A log that is followed.
struct Follow<'a> {
    context: &'a Context,
    part: Part,
    wanted: Wanted,
    of: Of,
    /// The containers that there were at the beginning.
    known: BTreeSet<Key>,
    /// The containers whose lines are being read.
    open: BTreeSet<Key>,
    /// The position of the last line of each.
    last: BTreeMap<Key, String>,
}

/// A line, or the end of a container's lines.
type Piece = (Key, String, Option<Result<LogLineView, Problem>>);

impl Follow<'_> {
    async fn run(&mut self, printer: &mut Printer, first: Vec<InstanceView>) -> Result<(), Problem> {
        let mut streams = SelectAll::new();
        self.attach(&mut streams, first).await?;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(piece) = streams.next() => {
                    let (id, name, line): Piece = piece;
                    match line {
                        Some(Ok(line)) => {
                            printer.print(&name, &line)?;
                            self.last.insert(id, line.position);
                        }
                        Some(Err(problem)) if !is_away(&problem) => return Err(problem),
                        // The connection is broken. The end comes next, and only then is it asked for again.
                        Some(Err(_)) => {}
                        None => drop(self.open.remove(&id)),
                    }
                }
                _ = ticks.tick() => {
                    let Some(now) = patiently(self.context, || self.now()).await? else {
                        if self.open.is_empty() {
                            return Ok(());
                        }
                        continue;
                    };
                    self.attach(&mut streams, now).await?;
                }
            }
        }
    }

    /// The instances there are now; `None` if there will be no more.
    async fn now(&self) -> Result<Option<Vec<InstanceView>>, Problem> {
        let found = if let Wanted::Instance(name) = &self.wanted {
            self.context.client.get_instance(&self.context.scope, name).await.map(|instance| vec![instance])
        } else {
            let Context { client, scope, .. } = self.context;
            let mut instances: Vec<InstanceView> = client.list_instances(scope, &ListArgs::default()).await?;
            instances.retain(|instance| self.wanted.has(instance));
            if !instances.is_empty() {
                return Ok(Some(instances));
            }
            // Apps without instances may have some later; apps that are gone will not.
            let apps: Vec<AppView> = client.list_apps(scope, &ListArgs::default()).await?;
            let there = |app: &AppView| match &self.wanted {
                Wanted::Apps(names) => names.contains(&app.name),
                _ => true,
            };
            return Ok(apps.iter().any(there).then(Vec::new));
        };
        match found {
            Ok(instances) => Ok(Some(instances)),
            Err(problem) if problem.code == ErrorCode::NotFound => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Reads those that are not being read: new ones, those whose container was made anew for another start, and those whose
    /// connection broke.
    async fn attach(
        &mut self,
        streams: &mut SelectAll<BoxStream<'static, Piece>>,
        instances: Vec<InstanceView>,
    ) -> Result<(), Problem> {
        let sources: Vec<_> = self.of.sources(&instances).collect();
        for source in sources {
            let (key, name) = (source.key(), source.name.clone());
            if self.open.contains(&key) {
                continue;
            }
            let rest = Part { follow: true, ..Part::default() };
            let part = match self.last.get(&key) {
                Some(last) => Part { after: Some(last.clone()), ..rest.clone() },
                None if self.known.contains(&key) => self.part.clone(),
                None => rest.clone(),
            };
            let mut lines = open(self.context, &source, &part).await;
            if let Err(problem) = &lines
                && problem.code == ErrorCode::Expired
            {
                // All that is kept is newer.
                self.context.output.say(&format!("lines of {name} are missing here: {}", problem.title));
                lines = open(self.context, &source, &rest).await;
            }
            let lines = match lines {
                Ok(lines) => lines,
                // It has gone in between; or the daemon is away, and is waited for before the next look.
                Err(problem) if problem.code == ErrorCode::NotFound || is_away(&problem) => continue,
                Err(problem) => return Err(problem),
            };
            self.open.insert(key.clone());
            let end = (key.clone(), name.clone(), None);
            let pieces = lines.map(move |line| (key.clone(), name.clone(), Some(line)));
            streams.push(pieces.chain(futures::stream::iter([end])).boxed());
        }
        Ok(())
    }
}

/// Writes lines, with the names of the instances when there are several.
struct Printer {
    output: super::output::Output,
    timestamps: bool,
    colours: bool,
    width: usize,
    /// The names so far, in the order they came.
    names: Vec<String>,
    prefixes: bool,
}

impl Printer {
    fn new(context: &Context, args: &LogsArgs, sources: &[Source]) -> Self {
        Self {
            output: context.output,
            timestamps: args.timestamps,
            colours: colours(&std::io::stdout()),
            width: sources.iter().map(|source| source.name.len()).max().unwrap_or(0),
            names: sources.iter().map(|source| source.name.clone()).collect(),
            prefixes: sources.len() > 1,
        }
    }

    fn print(&mut self, name: &str, logged: &LogLineView) -> Result<(), Problem> {
        if self.output.wants_document() {
            let mut document = serde_json::to_value(logged).unwrap_or_default();
            let (instance, container) = name.split_once('/').map_or((name, None), |(it, of)| (it, Some(of)));
            document["instance"] = instance.into();
            if let Some(container) = container {
                document["container"] = container.into();
            }
            return self.output.streamed(&document);
        }
        let number = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.prefixes |= self.names.len() > 1;
            self.names.len() - 1
        });
        let mut text = String::new();
        if self.prefixes {
            let prefix = format!("{name:<width$} | ", width = self.width);
            text += &if self.colours {
                format!("\x1b[{}m{prefix}\x1b[0m", COLOURS[number % COLOURS.len()])
            } else {
                prefix
            };
        }
        if self.timestamps {
            text += &format!("{} ", logged.at);
        }
        text += &logged.line;
        line(&text);
        Ok(())
    }
}
