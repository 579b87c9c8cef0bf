//! Lists: narrowed by labels and fields, in the order of keys, all at once or page by page.
//!
//! The body of an answer is the array that it always was; what belongs to the list as a whole is in headers, so that who
//! knows nothing of pages reads the same. Objects are shown one by one until a page is full: a short page of a long list
//! costs little.

mod fields;
mod pages;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json as Body,
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, HeaderValue, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{
    IntoParams,
    openapi::{Header, HeaderBuilder, ObjectBuilder, OpenApi, RefOr, schema::Type},
};

use super::{ApiState, extract::Args, problem::ApiError, tenants::OfTenant};
use hivemind_core::{
    model::{ClusterSnapshot, ErrorCode, Problem, TenantName},
    spec::v1::Selector,
};
use pages::Token;

pub(super) use fields::{FieldSelector, Listed};
pub(super) use pages::Pages;

/// What carries the token of the next page.
const CONTINUE: &str = "x-continue";
/// What carries the version of the list.
const REVISION: &str = "x-revision";

/// How a list is narrowed and cut.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct ListArgs {
    /// Only what has such labels, as Kubernetes writes it: `app=web,tier in (a, b),!old`.
    label_selector: Option<String>,
    /// Only what has such fields: `state=ready,name!=web`.
    field_selector: Option<String>,
    /// At most so many; where there are more, the header `x-continue` has the token of the next page.
    #[param(minimum = 1)]
    limit: Option<u32>,
    /// The token of the page before; all else as it was then.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    token: Option<String>,
}

/// The same, of all namespaces.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct ListAllArgs {
    /// Only of this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// Only what has such labels, as Kubernetes writes it: `app=web,tier in (a, b),!old`.
    label_selector: Option<String>,
    /// Only what has such fields: `state=ready,name!=web`.
    field_selector: Option<String>,
    /// At most so many; where there are more, the header `x-continue` has the token of the next page.
    #[param(minimum = 1)]
    limit: Option<u32>,
    /// The token of the page before; all else as it was then.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    token: Option<String>,
}

/// A list that is asked for.
pub(super) struct List {
    args: ListArgs,
    tenant: Option<TenantName>,
    path: String,
    /// As it came.
    query: String,
    pages: Pages,
}

impl<S: Send + Sync> FromRequestParts<S> for List
where
    Pages: FromRef<S>,
{
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Args(args) = Args::from_request_parts(parts, state).await?;
        Ok(Self::new(args, None, &parts.uri, Pages::from_ref(state)))
    }
}

/// A list of all namespaces, or of those of one tenant.
pub(super) struct ListAll(pub(super) OfTenant, pub(super) List);

impl<S: Send + Sync> FromRequestParts<S> for ListAll
where
    Pages: FromRef<S>,
{
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Args(ListAllArgs { tenant, label_selector, field_selector, limit, token }) =
            Args::from_request_parts(parts, state).await?;
        let args = ListArgs { label_selector, field_selector, limit, token };
        let list = List::new(args, tenant.clone(), &parts.uri, Pages::from_ref(state));
        Ok(Self(OfTenant::new(tenant), list))
    }
}

/// An object that may be in the list.
pub(super) struct Candidate<'a, V: FnOnce() -> T, T> {
    /// Where in the list it stands; no other has the same.
    pub(super) key: String,
    /// Its labels.
    pub(super) labels: Cow<'a, BTreeMap<String, String>>,
    /// Makes its document.
    pub(super) view: V,
}

/// The key of what is called so: parts in the order by which lists are sorted. No name has a byte 0 in it.
pub(super) fn key<const N: usize>(parts: [&dyn std::fmt::Display; N]) -> String {
    parts.map(ToString::to_string).join("\0")
}

/// A list that is being made.
pub(super) struct Open {
    /// The version that it is of.
    pub(super) snapshot: Arc<ClusterSnapshot>,
    labels: Selector,
    fields: FieldSelector,
    limit: usize,
    /// The key behind which the page begins.
    after: Option<String>,
    question: String,
    list: List,
}

impl List {
    fn new(args: ListArgs, tenant: Option<TenantName>, uri: &Uri, pages: Pages) -> Self {
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        Self { args, tenant, path, query, pages }
    }

    /// Reads what is asked for, and finds the version that it is to be of. Fails with every fault of the question.
    pub(super) fn open<T: Listed>(self, state: &ApiState) -> Result<Open, ApiError> {
        let snapshot = state.control.snapshot();
        self.open_at::<T>(snapshot).map_err(ApiError::from)
    }

    fn open_at<T: Listed>(self, newest: Arc<ClusterSnapshot>) -> Result<Open, Problem> {
        let mut faults = Vec::new();
        let mut said = |name: &str, found: Vec<String>| {
            faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
        };
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        let question = self.question();
        let labels = Selector::parse(&text(&self.args.label_selector)).unwrap_or_else(|found| {
            said("labelSelector", found);
            Selector::default()
        });
        if !T::LABELS && labels != Selector::default() {
            said("labelSelector", vec![format!("{} have no labels", T::NAME)]);
        }
        let fields = FieldSelector::parse::<T>(&text(&self.args.field_selector)).unwrap_or_else(|found| {
            said("fieldSelector", found);
            FieldSelector::default()
        });
        if self.args.limit == Some(0) {
            said("limit", vec!["a page has at least one object; leave it out for all at once".into()]);
        }
        let token = self.args.token.as_ref().map(|token| Token::read(token, &question)).transpose();
        let token = token.unwrap_or_else(|fault| {
            faults.push(fault);
            None
        });
        if !faults.is_empty() {
            let mut problem = Problem::new(ErrorCode::BadRequest, format!("this list of {} cannot be made", T::NAME));
            problem.details = faults;
            return Err(problem);
        }
        let snapshot = match &token {
            Some(token) => self.pages.find(token.revision, newest)?,
            None => newest,
        };
        let limit = self.args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Open { snapshot, labels, fields, limit, after: token.map(|token| token.after), question, list: self })
    }

    /// What must be the same for all pages.
    fn question(&self) -> String {
        let ListArgs { label_selector, field_selector, .. } = &self.args;
        format!("{}\n{:?}\n{label_selector:?}\n{field_selector:?}", self.path, self.tenant)
    }

    /// The address of the next page.
    fn next(&self, token: &str) -> String {
        let rest = self.query.split('&').filter(|part| !part.is_empty() && !part.starts_with("continue="));
        let token = format!("continue={token}");
        format!("{}?{}", self.path, rest.chain([token.as_str()]).collect::<Vec<_>>().join("&"))
    }
}

impl Open {
    /// The answer: those of the candidates, which come in the order of their keys, that are asked for.
    pub(super) fn answer<'a, T: Listed, V: FnOnce() -> T>(
        self,
        candidates: impl Iterator<Item = Candidate<'a, V, T>>,
    ) -> Response {
        let (items, last) = self.page(candidates);
        let mut headers = HeaderMap::new();
        headers.insert(REVISION, HeaderValue::from(self.snapshot.revision));
        if let Some(after) = last {
            self.list.pages.keep(&self.snapshot);
            let token = Token { revision: self.snapshot.revision, after }.write(&self.question);
            let link = format!("<{}>; rel=\"next\"", self.list.next(&token));
            // Both are letters, digits and what URLs are made of.
            HeaderValue::try_from(token).ok().map(|token| headers.insert(CONTINUE, token));
            HeaderValue::try_from(link).ok().map(|link| headers.insert("link", link));
        }
        (headers, Body(items)).into_response()
    }

    /// A page, and the key of its last object if there are more.
    fn page<'a, T: Listed, V: FnOnce() -> T>(
        &self,
        candidates: impl Iterator<Item = Candidate<'a, V, T>>,
    ) -> (Vec<T>, Option<String>) {
        let (mut items, mut last) = (Vec::new(), None);
        for Candidate { key, labels, view } in candidates {
            if self.after.as_ref().is_some_and(|after| key <= *after) || !self.labels.matches(&labels) {
                continue;
            }
            let item = view();
            if !self.fields.matches(&item) {
                continue;
            }
            if items.len() == self.limit {
                return (items, last);
            }
            items.push(item);
            last = Some(key);
        }
        (items, None)
    }
}

/// Describes the headers of lists in the description of the API.
pub(super) fn describe(document: &mut OpenApi) {
    let header = |kind: Type, text: &str| -> Header {
        let schema = ObjectBuilder::new().schema_type(kind);
        HeaderBuilder::new().schema(Some(schema)).description(Some(text)).build()
    };
    for item in document.paths.paths.values_mut() {
        let Some(operation) = item.get.as_mut() else { continue };
        let cut = operation
            .parameters
            .iter()
            .flatten()
            .any(|parameter| matches!(parameter, RefOr::T(one) if one.name == "continue"));
        let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200").filter(|_| cut) else { continue };
        for (name, kind, text) in [
            (REVISION, Type::Integer, "The version that the list is of; /v1/watch?revision= goes on from there"),
            (CONTINUE, Type::String, "The token of the next page, if there is one"),
            ("link", Type::String, "The address of the next page, if there is one, as rel=\"next\" (RFC 8288)"),
        ] {
            answer.headers.insert(name.into(), RefOr::T(header(kind, text)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_view::TenantView;

    fn list(args: ListArgs) -> List {
        List::new(args, None, &Uri::from_static("/v1/tenants"), Pages::default())
    }

    fn limit(limit: u32, token: Option<String>) -> ListArgs {
        ListArgs { limit: Some(limit), token, ..ListArgs::default() }
    }

    fn page(open: &Open, names: &[&str]) -> (Vec<String>, Option<String>) {
        let candidates = names.iter().map(|name| Candidate {
            key: (*name).to_owned(),
            labels: Cow::Owned(BTreeMap::new()),
            view: || TenantView::new(&name.parse().expect("a name"), None),
        });
        let (items, last) = open.page(candidates);
        (items.iter().map(|item| item.name.to_string()).collect(), last)
    }

    fn open(args: ListArgs) -> Result<Open, Problem> {
        list(args).open_at::<TenantView>(Arc::new(ClusterSnapshot::at(7)))
    }

    #[test]
    fn pages_are_full_and_the_last_one_has_no_next() {
        let names = ["a", "b", "c", "d"];
        let (mut seen, mut after) = (Vec::new(), None);
        for expected in [vec!["a", "b"], vec!["c", "d"]] {
            let token = after.map(|after| Token { revision: 7, after }.write(&list(limit(2, None)).question()));
            let (items, last) = page(&open(limit(2, token)).expect("a list"), &names);
            assert_eq!(items, expected);
            seen.extend(items);
            after = last;
        }
        assert_eq!((seen.len(), after), (4, None));
        assert_eq!(page(&open(limit(9, None)).expect("a list"), &names).0.len(), 4);
        assert_eq!(page(&open(ListArgs::default()).expect("a list"), &names).0.len(), 4);
        let narrowed = ListArgs { field_selector: Some("name!=b".into()), ..limit(2, None) };
        assert_eq!(page(&open(narrowed).expect("a list"), &names), (vec!["a".into(), "c".into()], Some("c".into())));
    }

    #[test]
    fn every_fault_of_the_question_is_named() {
        let args = ListArgs {
            label_selector: Some("a b".into()),
            field_selector: Some("color=red".into()),
            limit: Some(0),
            token: Some("x".into()),
        };
        let problem = open(args).err().expect("refused");
        assert_eq!((problem.code, problem.details.len()), (ErrorCode::BadRequest, 4), "{problem}");
        let args = ListArgs { label_selector: Some("a=b".into()), ..ListArgs::default() };
        let problem = open(args).err().expect("refused");
        assert_eq!(problem.details, ["labelSelector: tenants have no labels"]);
    }

    #[test]
    fn the_address_of_the_next_page_keeps_the_question() {
        let next = |uri| List::new(ListArgs::default(), None, &Uri::from_static(uri), Pages::default()).next("T");
        assert_eq!(next("/v1/apps?limit=2&labelSelector=a%3Db"), "/v1/apps?limit=2&labelSelector=a%3Db&continue=T");
        assert_eq!(next("/v1/apps?continue=S&limit=2"), "/v1/apps?limit=2&continue=T");
        assert_eq!(next("/v1/apps"), "/v1/apps?continue=T");
    }

    #[test]
    fn keys_sort_as_their_parts_do() {
        assert!(key([&"a", &"z"]) < key([&"a-b", &"a"]));
        assert!(key([&"a", &"b"]) < key([&"a", &"b-c"]));
    }
}
