//! Lists: how far they reach, and what of them is shown.

use serde::de::DeserializeOwned;

use super::{
    Context,
    output::{Leading, Listed},
    parse::escape,
};
use crate::{
    api::object_view::NamespaceView,
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

    /// The path of a list with what is asked of it.
    fn of(&self, path: String) -> String {
        let fields = (!self.field.is_empty()).then(|| self.field.join(","));
        let asked = [("labelSelector", self.selector.as_deref()), ("fieldSelector", fields.as_deref())];
        asked.into_iter().filter_map(|(name, value)| Some((name, value?))).fold(path, |path, (name, value)| {
            let sign = if path.contains('?') { '&' } else { '?' };
            format!("{path}{sign}{name}={}", escape(value))
        })
    }
}

impl Reach {
    /// The path of the list: `apps`, `instances`, `policies`.
    pub(super) fn path(self, context: &Context, list: &str) -> String {
        match (self.all_tenants, self.all_namespaces) {
            (true, _) => format!("/v1/{list}"),
            (false, true) => format!("/v1/{list}?tenant={}", context.scope.tenant),
            (false, false) => context.path(list),
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
    /// Lists what belongs to the whole cluster or to a tenant.
    pub(super) async fn list_at<T: DeserializeOwned>(&self, path: &str, only: &Only) -> Result<Vec<T>, Problem> {
        self.client.get(&only.of(path.to_owned())).await
    }

    /// Shows such a list; `empty` is said when there is nothing at all.
    pub(super) fn show_all<T: Listed>(&self, only: &Only, items: &[T], empty: &str) -> Result<(), Problem> {
        self.output.list(items, if only.is_all() { empty } else { NONE })
    }

    /// Lists `apps`, `instances`, `services` as far as was asked for. That nothing is in a namespace is something else
    /// than that there is no such namespace, which is an error.
    pub(super) async fn list<T: DeserializeOwned>(&self, args: &ListArgs, list: &str) -> Result<Vec<T>, Problem> {
        let reach = args.reach;
        let found: Vec<T> = self.list_at(&reach.path(self, list), &args.only).await?;
        if found.is_empty() && reach == Reach::default() && self.scope != Scope::default() {
            let _: NamespaceView = self.client.get(self.path("").trim_end_matches('/')).await?;
        }
        Ok(found)
    }

    /// Shows such a list. If there is nothing as far as was asked, it says where there is something, or else `empty`.
    pub(super) async fn show_list<T: Listed + DeserializeOwned>(
        &self,
        args: &ListArgs,
        list: &str,
        items: &[T],
        empty: &str,
    ) -> Result<(), Problem> {
        let ListArgs { reach, only } = args;
        if !only.is_all() {
            return self.output.list_with(reach.columns(), items, NONE);
        }
        let mut text = empty.to_owned();
        if items.is_empty() && !reach.all_tenants && self.output.is_for_people() {
            let everywhere: Vec<T> = self.client.get(&format!("/v1/{list}")).await?;
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
    fn what_is_asked_for_is_in_the_path() {
        let only = |selector: Option<&str>, fields: &[&str]| Only {
            selector: selector.map(str::to_owned),
            field: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        for (asked, path, expected) in [
            (only(None, &[]), "/v1/apps", "/v1/apps"),
            (only(Some("a in (b, c)"), &[]), "/v1/apps", "/v1/apps?labelSelector=a%20in%20%28b%2C%20c%29"),
            (
                only(Some("a"), &["state=ready", "name!=x"]),
                "/v1/apps?tenant=acme",
                "/v1/apps?tenant=acme&labelSelector=a&fieldSelector=state%3Dready%2Cname%21%3Dx",
            ),
        ] {
            assert_eq!(asked.of(path.to_owned()), expected);
        }
    }
}
