//! `hivemind policy tier …`: policies before and after those of namespaces.

use std::collections::BTreeSet;

use clap::Subcommand;

use super::{
    Context,
    list::Only,
    operator::operators,
    output::{Format, Listed, age, line},
    policy_words,
    tenant::done,
};
use crate::{
    api::{object_view::TierView, tenants::ChangedView, why::WhyBody},
    client::{ChangeArgs, Client},
    model::{NodeName, Problem, TierKey},
    spec::v1::{Otherwise, Tier, TierSpec, Way},
};

#[derive(Subcommand, Debug)]
pub(super) enum TierCommand {
    /// List the policies of tiers
    #[command(visible_alias = "list")]
    Ls(Only),
    /// Show what a policy of a tier says
    #[command(visible_aliases = ["info", "inspect"])]
    Show {
        /// NAME of an operator's policy, TENANT/NAME of a tenant's
        name: TierKey,
    },
    /// Remove a policy of a tier
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// NAME of an operator's policy, TENANT/NAME of a tenant's
        name: TierKey,
        /// Also if it is a policy of the host that keeps your own connection open
        #[arg(long)]
        force: bool,
    },
}

pub(super) const fn word(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin => "admin",
        Tier::Baseline => "baseline",
        Tier::Host => "host",
    }
}

impl Listed for TierView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "TIER", "PRIORITY", "NAMESPACES", "SELECTS", "IN", "OUT", "PUBLISHED", "AGE"], &["REVISION"]);

    fn name(&self) -> String {
        self.key()
    }

    fn cells(&self) -> Vec<String> {
        let rules = |way: Way| match self.spec.rules(way).len() {
            0 if self.spec.closes.contains(&way) => if self.spec.audit { "audit" } else { "closed" }.to_owned(),
            0 => "-".to_owned(),
            1 => "1 rule".into(),
            n => format!("{n} rules"),
        };
        let host = self.spec.tier == Tier::Host;
        let namespaces = match self.spec.namespaces.as_ref() {
            _ if host => "-".to_owned(),
            None => "all".into(),
            Some(selector) => policy_words::selector(selector, "all"),
        };
        vec![
            self.key(),
            word(self.spec.tier).into(),
            self.spec.priority.to_string(),
            namespaces,
            if host { nodes(&self.spec.nodes) } else { policy_words::selector(&self.spec.instances, "all") },
            rules(Way::Ingress),
            rules(Way::Egress),
            rules(Way::Published),
            age(self.created_at),
            self.revision.to_string(),
        ]
    }
}

/// The policy of the cluster, or of its tenant.
async fn get(client: &Client, key: &TierKey) -> Result<TierView, Problem> {
    match &key.tenant {
        Some(tenant) => client.get_tier_policy_of_tenant(tenant.as_str(), key.name.as_str()).await,
        None => client.get_tier_policy(key.name.as_str()).await,
    }
}

pub(super) async fn put(
    client: &Client,
    key: &TierKey,
    spec: &TierSpec,
    how: &ChangeArgs,
) -> Result<ChangedView, Problem> {
    match &key.tenant {
        Some(tenant) => client.put_tier_policy_of_tenant(tenant.as_str(), key.name.as_str(), spec, how).await,
        None => client.put_tier_policy(key.name.as_str(), spec, how).await,
    }
}

async fn delete(client: &Client, key: &TierKey) -> Result<ChangedView, Problem> {
    let how = ChangeArgs::default();
    match &key.tenant {
        Some(tenant) => client.delete_tier_policy_of_tenant(tenant.as_str(), key.name.as_str(), &how).await,
        None => client.delete_tier_policy(key.name.as_str(), &how).await,
    }
}

pub(super) async fn run(context: &Context, command: TierCommand) -> Result<(), Problem> {
    match command {
        TierCommand::Ls(only) => {
            let policies: Vec<TierView> = context.client.list_tier_policies(&only.asked()).await?;
            context.show_all(&only, &policies, "no policies of tiers: those of namespaces decide")
        }
        TierCommand::Show { name } => {
            let policy = get(&context.client, &name).await?;
            match context.output.format {
                Format::Json | Format::Yaml => context.output.document(&policy)?,
                Format::Name => line(&policy.key()),
                Format::Table | Format::Wide => describe(&policy).iter().for_each(|text| line(text)),
            }
            Ok(())
        }
        TierCommand::Delete { name, force } => {
            if !force {
                let body = WhyBody {
                    without: vec![name.clone()],
                    operators: operators(&context.client),
                    ..WhyBody::default()
                };
                context.client.why(&context.scope, &body).await?;
            }
            let changed = delete(&context.client, &name).await?;
            done(context, &name.to_string(), &format!("tier policy {name} is removed"), changed)
        }
    }
}

fn nodes(names: &BTreeSet<NodeName>) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    if names.is_empty() { "all nodes".into() } else { names.join(" ") }
}

/// What `policy tier show` prints.
fn describe(policy: &TierView) -> Vec<String> {
    let mut lines = Vec::new();
    let mut show = |title: &str, text: String| lines.push(format!("{title:<12}{text}"));
    show("Name", policy.name.clone());
    let whose = policy.tenant.as_ref().map(|tenant| format!("tenant {tenant}"));
    show("Of", whose.unwrap_or_else(|| "the operator, about all tenants".into()));
    show("Tier", format!("{}, priority {}", word(policy.spec.tier), policy.spec.priority));
    let host = policy.spec.tier == Tier::Host;
    if host {
        show("Nodes", nodes(&policy.spec.nodes));
        if policy.spec.audit {
            show("Audit", policy_words::AUDIT.into());
        }
        policy_words::trial(policy.trial.as_ref()).into_iter().for_each(|line| show("On trial", line));
    } else {
        let namespaces = policy.spec.namespaces.as_ref().map(|selector| policy_words::selector(selector, "all"));
        show("Namespaces", namespaces.unwrap_or_else(|| "all".into()));
        show("Selects", policy_words::selector(&policy.spec.instances, "all of their instances"));
    }
    for (title, word, way) in
        [("In", "from", Way::Ingress), ("Out", "to", Way::Egress), ("Published", "from", Way::Published)]
    {
        let (rules, closes) = (policy.spec.rules(way), policy.spec.closes.contains(&way));
        if rules.is_empty() && !closes && (host || way != Way::Published) {
            show(title, "says nothing".into());
        }
        let end = match policy.spec.otherwise {
            Otherwise::Deny => "deny everything else",
            Otherwise::Reject => "reject everything else",
        };
        let lines = rules.iter().map(|rule| policy_words::tier_rule(word, rule));
        for (at, line) in lines.chain(closes.then(|| end.to_owned())).enumerate() {
            show(if at == 0 { title } else { "" }, line);
        }
    }
    if let Some(failsafe) = &policy.failsafe {
        show("Always open", failsafe.clone());
    }
    show("Age", age(policy.created_at));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_in_words() {
        let spec = serde_json::json!({"tier": "admin", "priority": 7, "instances": {"labels": {"app": "web"}}, "egress": [
            {"action": "deny", "peers": [{"entity": "world"}], "ports": [{"port": [25, 25]}]},
            {"action": "pass"},
        ]});
        let policy = TierView {
            tenant: "red".parse().ok(),
            name: "no-mail".into(),
            spec: serde_json::from_value(spec).expect("a policy"),
            failsafe: None,
            trial: None,
            revision: 1,
            created_at: crate::model::Timestamp::default(),
        };
        let mut lines = describe(&policy);
        lines.pop();
        assert_eq!(
            lines,
            [
                "Name        no-mail",
                "Of          tenant red",
                "Tier        admin, priority 7",
                "Namespaces  all",
                "Selects     app=web",
                "In          says nothing",
                "Out         deny to whoever is outside the cluster; on 25/tcp",
                "            pass to everybody; on all ports",
            ]
        );
    }
}
