//! `hivemind ps`

use clap::Args;

use super::{
    Context, complete,
    list::{ListArgs, Reach},
    output::{Listed, Tone, addresses, age},
    project,
};
use crate::{
    api::view::{AppView, InstanceView},
    client::{self, Client},
    model::{ErrorCode, Phase, Problem},
};

#[derive(Args, Debug)]
pub(super) struct PsArgs {
    /// Only instances of these apps
    #[arg(value_name = "APP", add = complete::apps())]
    apps: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
    /// Only of this project [in a project's folder: of that one]
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["all_namespaces", "all_tenants"])]
    project_name: Option<String>,
}

impl Listed for InstanceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["INSTANCE", "APP", "PHASE", "RESTARTS", "AGE", "ADDRESSES", "MESSAGE"], &["CODE", "NODE", "IMAGE", "ID"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.app.clone(),
            self.phase.to_string(),
            self.restarts.to_string(),
            age(self.created_at),
            addresses(&self.addresses),
            message(self),
            self.code.map(|code| code.to_string()).unwrap_or_default(),
            self.node.to_string(),
            self.image.clone(),
            self.id.to_string(),
        ]
    }

    fn place(&self) -> (String, String) {
        (self.tenant.to_string(), self.namespace.to_string())
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        let tone = match self.phase {
            Phase::Ready | Phase::Completed => Tone::Good,
            Phase::NotReady | Phase::Unhealthy | Phase::Backoff | Phase::Failed => Tone::Bad,
            Phase::Gone => Tone::Plain,
            Phase::Paused | Phase::Pending | Phase::Pulling | Phase::Creating | Phase::Starting | Phase::Stopping => {
                Tone::Busy
            }
        };
        Some((2, tone))
    }
}

/// What it says of itself; for one that says nothing, how its process ended last.
fn message(instance: &InstanceView) -> String {
    match &instance.last_exit {
        Some(exit) if instance.message.is_empty() => {
            let how = match &exit.because {
                Some(because) => because.clone(),
                None if exit.oom => "out of memory".into(),
                None => format!("exit code {}", exit.code),
            };
            format!("ended {} ago: {how}", age(exit.at))
        }
        _ => instance.message.clone(),
    }
}

pub(super) async fn ps(context: &Context, args: &PsArgs) -> Result<(), Problem> {
    let here = args.list.reach == Reach::default();
    let context = &if here { project::here(context, args.project_name.as_deref()).await? } else { context.clone() };
    let mut shown: Vec<InstanceView> =
        context.list(&args.list, Client::list_instances, Client::list_all_instances).await?;
    let empty = "no instances; try: hivemind app deploy --image nginx:latest --name web --port 8080:80 --wait";
    if !args.apps.is_empty() {
        shown.retain(|instance| args.apps.contains(&instance.app));
        // An app without instances is something else than no app.
        for app in args.apps.iter().filter(|_| here).filter(|app| !shown.iter().any(|instance| instance.app == **app)) {
            let _: AppView = context.client.get_app(&context.scope, app).await?;
        }
        return context.output.list_with(args.list.reach.columns(), &shown, "no instances");
    }
    context.show_list(&args.list, "instances", Client::list_all_instances, &shown, empty).await
}

/// The instances of an app.
pub(super) async fn of_app(context: &Context, app: &str) -> Result<Vec<InstanceView>, Problem> {
    let mut all: Vec<InstanceView> =
        context.client.list_instances(&context.scope, &client::ListArgs::default()).await?;
    all.retain(|instance| instance.app == app);
    Ok(all)
}

/// What a word on the command line means.
#[derive(Debug)]
pub(super) enum Meant {
    /// An app, with its instances.
    App(Vec<InstanceView>),
    /// One instance, by name, id, or the beginning of its id.
    Instance(Box<InstanceView>),
}

/// Finds out what is meant; an app wins over an instance.
pub(super) async fn resolve(context: &Context, word: &str) -> Result<Meant, Problem> {
    let of_app = of_app(context, word).await?;
    if !of_app.is_empty() {
        return Ok(Meant::App(of_app));
    }
    match context.client.get_instance(&context.scope, word).await {
        Ok(instance) => Ok(Meant::Instance(Box::new(instance))),
        Err(problem) if problem.code == ErrorCode::NotFound => {
            // It may be an app without instances; or the nearest name may be an app's.
            match context.client.get_app(&context.scope, word).await {
                Ok(_) => Ok(Meant::App(Vec::new())),
                Err(other) if other.code == ErrorCode::NotFound && !other.details.is_empty() => Err(other),
                Err(_) => {
                    let title = problem.title.replacen("instance", "app or instance", 1);
                    Err(Problem { title, ..problem })
                }
            }
        }
        Err(problem) => Err(problem),
    }
}
