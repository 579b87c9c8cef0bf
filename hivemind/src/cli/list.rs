//! Lists: how far they reach, and what of them is shown.

use super::{
    Context,
    output::{Leading, Listed},
};
use crate::{
    client::{self, Client, ListAllArgs},
    model::{Problem, Scope},
};

/// What is said when nothing has what was asked for.
const NONE: &str = "nothing fits";

/// What is listed of what belongs to namespaces.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    pub(super) only: Only,
}

/// How far a list reaches.
#[derive(clap::Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Of all namespaces of the tenant
    #[arg(short = 'A', long)]
    pub(super) all_namespaces: bool,
    /// Of all tenants
    #[arg(long)]
    pub(super) all_tenants: bool,
}

/// What of a list is shown.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Only {
    /// Only what has such labels: app=web,tier!=db or 'tier in (a, b),!old'
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Only what has such a field, e.g. name!=web; may be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    field: Vec<String>,
}

impl Only {
    /// Whether all is shown.
    fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// What is asked of a list.
    pub(super) fn asked(&self) -> client::ListArgs {
        let field_selector = (!self.field.is_empty()).then(|| self.field.join(","));
        client::ListArgs { label_selector: self.selector.clone(), field_selector }
    }
}

impl Reach {
    /// Whose namespaces it reaches over, all tenants' if nobody is named; nothing if it stays in one namespace.
    pub(super) fn tenant(self, context: &Context) -> Option<Option<String>> {
        match (self.all_tenants, self.all_namespaces) {
            (true, _) => Some(None),
            (false, true) => Some(Some(context.scope.tenant.to_string())),
            (false, false) => None,
        }
    }

    pub(super) fn columns(self) -> Leading {
        match (self.all_tenants, self.all_namespaces) {
            (true, _) => Leading::TenantAndNamespace,
            (false, true) => Leading::Namespace,
            (false, false) => Leading::Nothing,
        }
    }
}

impl Context {
    /// Shows such a list; `empty` is said when there is nothing at all.
    pub(super) fn show_all<T: Listed>(&self, only: &Only, items: &[T], empty: &str) -> Result<(), Problem> {
        self.output.list(items, if only.is_all() { empty } else { NONE })
    }

    /// Lists apps, instances, volumes as far as was asked for.
    pub(super) async fn list<T>(
        &self,
        args: &ListArgs,
        here: impl AsyncFn(&Client, &Scope, &client::ListArgs) -> Result<Vec<T>, Problem>,
        everywhere: impl AsyncFn(&Client, &ListAllArgs) -> Result<Vec<T>, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let Some(tenant) = args.reach.tenant(self) else { return self.list_here(&args.only, here).await };
        let client::ListArgs { label_selector, field_selector } = args.only.asked();
        everywhere(&self.client, &ListAllArgs { tenant, label_selector, field_selector }).await
    }

    /// Lists them in the namespace. That nothing is in a namespace is something else than that there is no such namespace,
    /// which is an error.
    pub(super) async fn list_here<T>(
        &self,
        only: &Only,
        here: impl AsyncFn(&Client, &Scope, &client::ListArgs) -> Result<Vec<T>, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let found = here(&self.client, &self.scope, &only.asked()).await?;
        if found.is_empty() && self.scope != Scope::default() {
            self.client.get_namespace(&self.scope).await?;
        }
        Ok(found)
    }

    /// Shows such a list. If there is nothing as far as was asked, it says where there is something, or else `empty`.
    pub(super) async fn show_list<T: Listed>(
        &self,
        args: &ListArgs,
        list: &str,
        everywhere: impl AsyncFn(&Client, &ListAllArgs) -> Result<Vec<T>, Problem>,
        items: &[T],
        empty: &str,
    ) -> Result<(), Problem> {
        let ListArgs { reach, only } = args;
        if !only.is_all() {
            return self.output.list_with(reach.columns(), items, NONE);
        }
        let mut text = empty.to_owned();
        if items.is_empty() && !reach.all_tenants && self.output.is_for_people() {
            let everywhere = everywhere(&self.client, &ListAllArgs::default()).await?;
            let places = everywhere.iter().map(Listed::place);
            let (own, others): (Vec<_>, Vec<_>) = places.partition(|place| place.0 == self.scope.tenant.as_str());
            let here = match reach.all_namespaces {
                true => format!("no {list} in the tenant {}", self.scope.tenant),
                false => {
                    format!("no {list} in the namespace {} of the tenant {}", self.scope.namespace, self.scope.tenant)
                }
            };
            let there = [("other namespaces (-A)", own.len()), ("other tenants (--all-tenants)", others.len())];
            let there = there.iter().filter(|(_, number)| *number > 0);
            let there = there.map(|(place, number)| format!("{number} in {place}")).collect::<Vec<_>>();
            if !there.is_empty() {
                text = format!("{here}; {}", there.join(", "));
            }
        }
        self.output.list_with(reach.columns(), items, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_in_the_request() {
        let only = |selector: Option<&str>, fields: &[&str]| Only {
            selector: selector.map(str::to_owned),
            field: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        for (asked, labels, fields) in [
            (only(None, &[]), None, None),
            (only(Some("a in (b, c)"), &[]), Some("a in (b, c)"), None),
            (only(Some("a"), &["state=ready", "name!=x"]), Some("a"), Some("state=ready,name!=x")),
        ] {
            let client::ListArgs { label_selector, field_selector } = asked.asked();
            assert_eq!((label_selector.as_deref(), field_selector.as_deref()), (labels, fields));
        }
    }
}
