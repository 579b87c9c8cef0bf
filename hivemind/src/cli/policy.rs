//! `hivemind policy …`

use std::{io::Read, path::PathBuf};

use clap::{Args, Subcommand};

use super::{
    Context, complete,
    dry::Dry,
    list::ListArgs,
    operator::operators,
    output::{Format, Listed, age, line},
    policy_tier::{self, TierCommand},
    policy_words,
    tenant::done,
    why,
};
use crate::{
    api::{
        object_view::{PolicyView, TierView},
        tenants::ChangedView,
    },
    client::{self, Client},
    model::{ErrorCode, PolicyKey, PolicyName, Problem},
    policy::{self, Document},
};

/// Shown beneath `hivemind policy --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind policy apply -f web.yaml
  hivemind policy apply -f - --dry-run < web.yaml       check it only
  hivemind policy show web                              what it selects, and what it allows
  hivemind policy delete web
A policy closes the directions it names for the instances it selects, but for what its rules allow:
  policy: web
  instances: app=web
  ingress:
  - from: [{instances: app=client}, {block: 192.0.2.0/24}]
    ports: [80, 8000-8100/tcp]
With 'host: {}' it is about the nodes themselves, and with 'published:' about their published ports:
  policy: nodes
  host: {}
  ingress: [{from: [{block: 192.0.2.0/24}], ports: [443]}]
Kubernetes' NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) are
taken as they are.";

#[derive(Subcommand, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) enum PolicyCommand {
    /// Create the policies of a file, or change them to what it says
    Apply(ApplyArgs),
    /// List the policies
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show what a policy selects and allows
    #[command(visible_aliases = ["info", "inspect"])]
    Show {
        /// Name of the policy
        #[arg(add = complete::policies())]
        name: PolicyName,
    },
    /// Try policies before they are applied: who would reach whom
    Test(why::TestArgs),
    /// Policies of tiers, which decide before and after those of namespaces
    #[command(subcommand)]
    Tier(TierCommand),
    /// Remove a policy
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// Name of the policy
        #[arg(add = complete::policies())]
        name: PolicyName,
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Args, Debug)]
pub(super) struct ApplyArgs {
    /// File with the policies; '-' is standard input; may be repeated
    #[arg(short, long, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Check them, say what they would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Apply them also if a policy of the host would cut your own connection
    #[arg(long)]
    force: bool,
}

impl Listed for PolicyView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "SELECTS", "INSTANCES", "IN", "OUT", "AUDIT", "AGE"], &["REVISION"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn place(&self) -> (String, String) {
        (self.tenant.to_string(), self.namespace.to_string())
    }

    fn cells(&self) -> Vec<String> {
        let rules = |rules: &Option<Vec<_>>| match rules.as_ref().map(Vec::len) {
            None => "-".to_owned(),
            Some(0) => "closed".into(),
            Some(1) => "1 rule".into(),
            Some(n) => format!("{n} rules"),
        };
        vec![
            self.name.clone(),
            policy_words::selector(&self.spec.instances, "all"),
            self.instances.map(|number| number.to_string()).unwrap_or_default(),
            rules(&self.spec.ingress),
            rules(&self.spec.egress),
            if self.spec.audit { "yes" } else { "no" }.into(),
            age(self.created_at),
            self.revision.to_string(),
        ]
    }
}

pub(super) async fn run(context: &Context, command: PolicyCommand) -> Result<(), Problem> {
    match command {
        PolicyCommand::Test(args) => why::test(context, args).await,
        PolicyCommand::Tier(command) => policy_tier::run(context, command).await,
        PolicyCommand::Apply(args) => apply(context, &args).await,
        PolicyCommand::Ls(args) => {
            let policies: Vec<PolicyView> =
                context.list(&args, Client::list_policies, Client::list_all_policies).await?;
            let empty = "no policies: everything of a tenant may speak to everything of it";
            context.show_list(&args, "policies", Client::list_all_policies, &policies, empty).await?;
            let tiers: Vec<TierView> = match policies.is_empty() && context.output.is_for_people() {
                true => context.client.list_tier_policies(&client::ListArgs::default()).await?,
                false => Vec::new(),
            };
            if !tiers.is_empty() {
                context.output.say(&format!("{} of tiers: hivemind policy tier ls", tiers.len()));
            }
            Ok(())
        }
        PolicyCommand::Show { name } => {
            let policy = context.client.get_policy(&context.scope, name.as_str()).await;
            let policy = or_of_a_tier(context, "show", &name, policy).await?;
            match context.output.format {
                Format::Json | Format::Yaml => context.output.document(&policy)?,
                Format::Name => line(&policy.name),
                Format::Table | Format::Wide => policy_words::describe(&policy).iter().for_each(|text| line(text)),
            }
            Ok(())
        }
        PolicyCommand::Delete { name, dry } => {
            let changed = context.client.delete_policy(&context.scope, name.as_str(), &dry.change()).await;
            let changed = or_of_a_tier(context, "delete", &name, changed).await?;
            let text = format!("policy {name} {} removed", dry.word("is", "would be"));
            done(context, name.as_str(), &text, changed)
        }
    }
}

/// The answer; if there is no such policy, but one of a tier, it says how that is meant.
async fn or_of_a_tier<T>(
    context: &Context,
    verb: &str,
    name: &PolicyName,
    answer: Result<T, Problem>,
) -> Result<T, Problem> {
    let problem = match answer {
        Err(problem) if problem.code == ErrorCode::NotFound => problem,
        other => return other,
    };
    let tiers: Vec<TierView> =
        context.client.list_tier_policies(&client::ListArgs::default()).await.unwrap_or_default();
    Err(match tiers.iter().find(|tier| tier.name == name.as_str()) {
        Some(tier) => problem.hint(format!("hivemind policy tier {verb} {}   (that one is of a tier)", tier.key())),
        None => problem,
    })
}

/// The policies of files.
pub(super) fn read_files(context: &Context, files: &[PathBuf]) -> Result<Vec<Document>, Problem> {
    let mut policies = Vec::new();
    for file in files {
        let shown = file.display();
        let invalid = |why: String| Problem::new(ErrorCode::Invalid, format!("{shown} cannot be read: {why}"));
        let text = match file.to_str() {
            Some("-") => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map(|_| text)
            }
            _ => std::fs::read_to_string(file),
        };
        let text = text.map_err(|error| invalid(error.to_string()))?;
        let read = policy::read(&text, &context.scope).map_err(|faults| {
            let title = format!("{shown} is not valid");
            Problem { details: faults, ..Problem::new(ErrorCode::Invalid, title).hint("hivemind policy --help") }
        })?;
        policies.extend(read);
    }
    Ok(policies)
}

async fn apply(context: &Context, args: &ApplyArgs) -> Result<(), Problem> {
    let policies = read_files(context, &args.file)?;
    // All are checked before the first is written: together, whether they fit, then one by one.
    let mut tried = why::tried(&policies);
    if !args.force {
        tried.operators = operators(&context.client);
    }
    context.client.why(&context.scope, &tried).await?;
    let mut previews = Vec::new();
    for policy in &policies {
        previews.push(put(context, policy, true).await?);
    }
    for (policy, preview) in policies.iter().zip(previews) {
        let changed = if args.dry_run { preview } else { put(context, policy, false).await? };
        let what = match (changed.created, changed.changed, args.dry_run) {
            (_, false, _) => "is already as asked for",
            (true, _, false) => "is created",
            (true, _, true) => "would be created",
            (false, _, false) => "is changed",
            (false, _, true) => "would be changed",
        };
        let audits = match policy {
            Document::Policy(_, spec) => spec.audit,
            Document::Tier(_, spec) => spec.audit,
        };
        let audit = if audits { "; it audits only, and denies nothing" } else { "" };
        match policy {
            Document::Policy(key, _) => {
                let nobody = if args.dry_run { "" } else { selects_nobody(context, key).await? };
                done(context, key.name.as_str(), &format!("policy {} {what}{audit}{nobody}", key.name), changed)?;
            }
            Document::Tier(key, spec) => {
                let tier = policy_tier::word(spec.tier);
                done(context, &key.to_string(), &format!("policy {key} of the tier {tier} {what}{audit}"), changed)?;
            }
        }
    }
    Ok(())
}

/// Says so if the policy is about no instance: a selector that is mistyped protects nothing.
async fn selects_nobody(context: &Context, key: &PolicyKey) -> Result<&'static str, Problem> {
    let view: PolicyView = context.client.get_policy(&key.scope, key.name.as_str()).await?;
    Ok(if view.instances == Some(0) {
        "; it selects no instance now (its labels are those of app deploy --label KEY=VALUE)"
    } else {
        ""
    })
}

async fn put(context: &Context, policy: &Document, dry_run: bool) -> Result<ChangedView, Problem> {
    let (client, how) = (&context.client, Dry { dry_run }.change());
    match policy {
        Document::Policy(key, spec) => client.put_policy(&key.scope, key.name.as_str(), spec, &how).await,
        Document::Tier(key, spec) => policy_tier::put(client, key, spec, &how).await,
    }
}
