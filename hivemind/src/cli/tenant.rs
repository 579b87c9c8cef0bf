//! `hivemind tenant|namespace …`

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::{
    Context, complete,
    dry::Dry,
    limits::{TrafficArgs, over, shown as shown_limits},
    list::Only,
    output::{Format, Listed, age, line},
    parse::{LabelChange, label, label_change},
};
use crate::{
    api::{
        object_view::{NamespaceView, TenantView},
        tenants::{ChangedView, NamespaceBody, TenantBody},
    },
    client::{ChangeArgs, ListArgs},
    model::{ErrorCode, NamespaceName, Problem, Scope, TenantName, Timestamp},
};

/// Shown beneath `hivemind tenant --help`.
const TENANT_EXAMPLES: &str = "\
Examples:
  hivemind tenant create acme
  hivemind app deploy -T acme --image nginx:latest --name web
  hivemind tenant set acme --limit-egress 1gbit         all its instances on a node together
  hivemind tenant set acme --no-limits                  no limits any more
  hivemind tenant info acme
  hivemind tenant rm acme
The tenant 'default' always exists. Every tenant has a namespace 'default'.";

/// Shown beneath `hivemind namespace --help`.
const NAMESPACE_EXAMPLES: &str = "\
Examples:
  hivemind namespace create prod --label env=prod
  hivemind namespace label prod team=blue env-          set one label, take away another
  hivemind app deploy -n prod --image nginx:latest --name web
  hivemind namespace ls -T acme                         those of another tenant
Policies select namespaces by their labels; kubernetes.io/metadata.name always is the name.";

#[derive(Subcommand, Debug)]
#[command(after_help = TENANT_EXAMPLES)]
pub(super) enum TenantCommand {
    /// Create a tenant
    Create {
        /// Name of the tenant: letters a-z, digits and '-'
        name: TenantName,
        #[command(flatten)]
        limits: TrafficArgs,
    },
    /// Set limits of its instances' traffic, on each node together; those that are not said stay
    Set {
        /// Name of the tenant
        #[arg(add = complete::tenants())]
        name: TenantName,
        /// Take away all limits that it has, but for those that are said
        #[arg(long)]
        no_limits: bool,
        #[command(flatten)]
        limits: TrafficArgs,
    },
    /// Show a tenant with its namespaces
    #[command(visible_aliases = ["show", "inspect"])]
    Info {
        /// Name of the tenant
        #[arg(add = complete::tenants())]
        name: TenantName,
    },
    /// List the tenants
    #[command(visible_alias = "list")]
    Ls(Only),
    /// Remove a tenant with its namespaces; nothing may be in them
    #[command(visible_alias = "remove")]
    Rm {
        /// Name of the tenant
        #[arg(add = complete::tenants())]
        name: TenantName,
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Subcommand, Debug)]
#[command(after_help = NAMESPACE_EXAMPLES)]
pub(super) enum NamespaceCommand {
    /// Create a namespace in the tenant
    Create(CreateArgs),
    /// List the namespaces of the tenant
    #[command(visible_alias = "list")]
    Ls(Only),
    /// Set and take away labels
    Label(LabelArgs),
    /// Show a namespace
    #[command(visible_aliases = ["show", "inspect"])]
    Info {
        /// Name of the namespace
        #[arg(add = complete::namespaces())]
        name: NamespaceName,
    },
    /// Remove a namespace; nothing may be in it
    #[command(visible_alias = "remove")]
    Rm {
        /// Name of the namespace
        #[arg(add = complete::namespaces())]
        name: NamespaceName,
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Name of the namespace: letters a-z, digits and '-'
    name: NamespaceName,
    /// Label; may be repeated
    #[arg(long, value_parser = label, value_name = "NAME=VALUE")]
    label: Vec<(String, String)>,
}

#[derive(Args, Debug)]
pub(super) struct LabelArgs {
    /// Name of the namespace
    #[arg(add = complete::namespaces())]
    name: NamespaceName,
    /// Labels to set, and with '-' behind their name those to take away
    #[arg(value_parser = label_change, required = true, value_name = "NAME=VALUE|NAME-")]
    labels: Vec<LabelChange>,
}

impl Listed for TenantView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "NAMESPACES", "AGE"], &["LIMITS", "REVISION"]);

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            count(self.namespaces),
            born(self.created_at),
            super::limits::shown(&self.limits),
            self.revision.to_string(),
        ]
    }
}

impl Listed for NamespaceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "APPS", "POLICIES", "LABELS", "AGE"], &["TENANT", "REVISION"]);

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            count(self.apps),
            count(self.policies),
            shown(&self.labels),
            born(self.created_at),
            self.tenant.to_string(),
            self.revision.to_string(),
        ]
    }
}

fn count(number: Option<usize>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// What always existed has no age.
fn born(at: Option<Timestamp>) -> String {
    at.map(age).unwrap_or_default()
}

fn shown(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// A line of what is known of one; none if nothing is.
fn fact(title: &str, text: &str) {
    if !text.is_empty() {
        line(&format!("{title:<12}{text}"));
    }
}

/// Says what a change did, and shows the document or the name that was asked for.
pub(super) fn done(context: &Context, name: &str, text: &str, changed: ChangedView) -> Result<(), Problem> {
    context.output.say(text);
    match context.output.format {
        Format::Json | Format::Yaml => context.output.document(&changed),
        Format::Name => {
            line(name);
            Ok(())
        }
        Format::Table | Format::Wide => Ok(()),
    }
}

pub(super) async fn tenant(context: &Context, command: TenantCommand) -> Result<(), Problem> {
    match command {
        TenantCommand::Create { name, limits } => {
            let limits = limits.spec();
            // Without a body one that is there keeps its limits.
            let body = (!limits.is_default()).then_some(TenantBody { limits });
            let changed: ChangedView =
                context.client.put_tenant(name.as_str(), body.as_ref(), &ChangeArgs::default()).await?;
            let text = match (changed.created, changed.changed) {
                (true, _) => format!("tenant {name} is created; its first namespace is 'default'"),
                (false, true) => format!("tenant {name} is there already; it has the limits {}", shown_limits(&limits)),
                (false, false) => format!("tenant {name} is there already"),
            };
            done(context, name.as_str(), &text, changed)
        }
        TenantCommand::Set { name, no_limits, limits } => {
            let set = limits.spec();
            if set.is_default() && !no_limits {
                let title = format!("nothing is said that the tenant {name} is to have");
                let hint =
                    format!("hivemind tenant set {name} --limit-egress 1gbit   (or --no-limits to take all away)");
                return Err(Problem::new(ErrorCode::Invalid, title).hint(hint));
            }
            // Not by mistake a new one.
            let before: TenantView = context.client.get_tenant(name.as_str()).await?;
            let body = TenantBody { limits: if no_limits { set } else { over(before.limits, set) } };
            let how = ChangeArgs { if_match: Some(before.revision), ..ChangeArgs::default() };
            let changed: ChangedView = context.client.put_tenant(name.as_str(), Some(&body), &how).await?;
            let now = shown_limits(&body.limits);
            let now = if now.is_empty() { "no limits".into() } else { format!("the limits {now}") };
            let text = match changed.changed {
                true => format!("tenant {name} has {now}"),
                false => format!("tenant {name} is as it was: it has {now}"),
            };
            done(context, name.as_str(), &text, changed)
        }
        TenantCommand::Ls(only) => {
            let tenants: Vec<TenantView> = context.client.list_tenants(&only.asked()).await?;
            context.show_all(&only, &tenants, "no tenants")
        }
        TenantCommand::Info { name } => {
            let view: TenantView = context.client.get_tenant(name.as_str()).await?;
            let namespaces: Vec<NamespaceView> =
                context.client.list_namespaces(name.as_str(), &ListArgs::default()).await?;
            if context.output.wants_document() {
                return context.output.document(&view);
            }
            fact("Tenant", view.name.as_str());
            fact("Limits", &shown_limits(&view.limits));
            fact("Age", &born(view.created_at));
            line("");
            context.output.list(&namespaces, "no namespaces")
        }
        TenantCommand::Rm { name, dry } => {
            let changed: ChangedView = context.client.delete_tenant(name.as_str(), &dry.change()).await?;
            let text = format!("tenant {name} {} removed", dry.word("is", "would be"));
            done(context, name.as_str(), &text, changed)
        }
    }
}

pub(super) async fn namespace(context: &Context, command: NamespaceCommand) -> Result<(), Problem> {
    let tenant = &context.scope.tenant;
    let scope = |name: &NamespaceName| Scope { tenant: tenant.clone(), namespace: name.clone() };
    match command {
        NamespaceCommand::Create(CreateArgs { name, label }) => create(context, &scope(&name), label).await,
        NamespaceCommand::Ls(only) => {
            let namespaces: Vec<NamespaceView> = context.client.list_namespaces(tenant.as_str(), &only.asked()).await?;
            context.show_all(&only, &namespaces, "no namespaces")
        }
        NamespaceCommand::Label(LabelArgs { name, labels }) => {
            let before: NamespaceView = context.client.get_namespace(&scope(&name)).await?;
            relabel(context, &scope(&name), before, labels).await
        }
        NamespaceCommand::Info { name } => {
            let view: NamespaceView = context.client.get_namespace(&scope(&name)).await?;
            if context.output.wants_document() {
                return context.output.document(&view);
            }
            fact("Namespace", view.name.as_str());
            fact("Tenant", view.tenant.as_str());
            fact("Labels", &shown(&view.labels));
            fact("Apps", &count(view.apps));
            fact("Policies", &count(view.policies));
            fact("Age", &born(view.created_at));
            Ok(())
        }
        NamespaceCommand::Rm { name, dry } => {
            let changed: ChangedView = context.client.delete_namespace(&scope(&name), &dry.change()).await?;
            let text = format!("namespace {name} {} removed", dry.word("is", "would be"));
            done(context, name.as_str(), &text, changed)
        }
    }
}

/// Creates it; one that is there gets the labels besides those that it has.
async fn create(context: &Context, scope: &Scope, labels: Vec<(String, String)>) -> Result<(), Problem> {
    let name = &scope.namespace;
    match context.client.get_namespace(scope).await {
        Ok(before) => {
            context.output.say(&format!("namespace {name} is there already"));
            let set = labels.into_iter().map(|(key, value)| LabelChange::Set(key, value)).collect();
            return relabel(context, scope, before, set).await;
        }
        Err(problem) if problem.code == ErrorCode::NotFound => {}
        Err(problem) => return Err(problem),
    }
    let body = NamespaceBody { labels: labels.into_iter().collect() };
    let changed: ChangedView = context.client.put_namespace(scope, &body, &ChangeArgs::default()).await?;
    done(context, name.as_str(), &format!("namespace {name} is created"), changed)
}

/// Writes the labels that it has then, if nobody else has changed them meanwhile.
async fn relabel(
    context: &Context,
    scope: &Scope,
    before: NamespaceView,
    changes: Vec<LabelChange>,
) -> Result<(), Problem> {
    let mut labels = before.labels;
    for change in changes {
        match change {
            LabelChange::Set(key, value) => drop(labels.insert(key, value)),
            LabelChange::Remove(key) => drop(labels.remove(&key)),
        }
    }
    let body = NamespaceBody { labels };
    let how = ChangeArgs { if_match: Some(before.revision), ..ChangeArgs::default() };
    let changed: ChangedView = context.client.put_namespace(scope, &body, &how).await?;
    let now = if body.labels.is_empty() { "no labels".into() } else { format!("the labels {}", shown(&body.labels)) };
    let text = match changed.changed {
        true => format!("namespace {} has {now}", before.name),
        false => format!("namespace {} is as it was: it has {now}", before.name),
    };
    done(context, before.name.as_str(), &text, changed)
}
