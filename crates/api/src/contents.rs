//! Secrets and configs.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{
    Json as Body,
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    apps::etag,
    extract::{Args, InScope, Json, Named},
    list::{Candidate, List, ListAll, ListAllArgs, ListArgs, key},
    problem::ApiError,
    tenants::{ChangedView, change, check, refused},
    terms::{Conditions, DryRun, Key, Terms},
};
use hivemind_control::{ControlError, NewContent, ObjectChange, ObjectName};
use hivemind_core::{
    model::{
        ClusterSnapshot, Content, ContentKey, ContentKind, Hidden, NamespaceName, Problem, Revision, Row, Scope,
        TenantName, Timestamp,
    },
    spec::v1::ContentSpec,
};

/// A secret or a config. The content of a secret is in no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentView {
    /// Which.
    pub kind: ContentKind,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The length of its content.
    pub bytes: usize,
    /// Grows by one with each change of the content.
    pub version: u64,
    /// Who uses it: `app web`, `instance web-x7k2p`.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// The content, in base64: only of a config, and only if it was asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Hidden>,
    /// The ETag: the revision that last wrote it.
    pub revision: Revision,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its content was last changed.
    pub changed_at: Timestamp,
}

/// How it is written.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutContentArgs {
    /// Give one that is there another content; without it that is refused.
    #[serde(default)]
    replace: bool,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(default, rename = "dryRun", alias = "dry_run")]
    #[param(rename = "dryRun", value_type = Option<bool>)]
    dry_run: bool,
}

/// How a write was asked for.
pub(super) struct Put {
    replace: bool,
    terms: Terms,
}

impl<S: Send + Sync> FromRequestParts<S> for Put {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Args(PutContentArgs { replace, dry_run }) = Args::from_request_parts(parts, state).await?;
        Ok(Self { replace, terms: Terms::new(parts, dry_run)? })
    }
}

impl ContentView {
    pub(super) fn new(snapshot: &ClusterSnapshot, row: &Row<Content>) -> Self {
        let Content { kind, key, labels, data, version, created_at, changed_at } = &*row.object;
        Self {
            kind: *kind,
            tenant: key.scope.tenant.clone(),
            namespace: key.scope.namespace.clone(),
            name: key.name.to_string(),
            labels: labels.clone(),
            bytes: data.0.len(),
            version: *version,
            used_by: snapshot.users_of_content(*kind, key),
            data: None,
            revision: row.modified,
            created_at: *created_at,
            changed_at: *changed_at,
        }
    }
}

fn all(state: &ApiState, kind: ContentKind, list: List, of: impl Fn(&Scope) -> bool) -> Result<Response, ApiError> {
    let open = list.open::<ContentView>(state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let rows = snapshot.contents.iter().filter(|((other, key), _)| *other == kind && of(&key.scope));
    Ok(open.answer(rows.map(|((_, ContentKey { scope, name }), row)| Candidate {
        key: key([&scope.tenant, &scope.namespace, name]),
        labels: Cow::Borrowed(&row.object.labels),
        view: || ContentView::new(&snapshot, row),
    })))
}

fn one(state: &ApiState, kind: ContentKind, named: Named) -> Result<Response, ApiError> {
    let key = named.content()?;
    let snapshot = state.control.snapshot();
    check(state, &key.scope)?;
    let Some(row) = snapshot.contents.get(&(kind, key.clone())) else {
        return Err(refused(state, ControlError::NotFound { object: ObjectName::Content(kind, key) }));
    };
    let mut view = ContentView::new(&snapshot, row);
    if kind == ContentKind::Config {
        view.data = Some(row.object.data.clone());
    }
    Ok((etag(row.modified), Body(view)).into_response())
}

async fn write(
    state: &ApiState,
    kind: ContentKind,
    named: Named,
    Put { replace, terms }: Put,
    body: ContentSpec,
) -> Result<Response, ApiError> {
    let new = NewContent { kind, key: named.content()?, labels: body.labels, data: body.data, replace };
    change(state, ObjectChange::PutContent(Box::new(new)), terms).await
}

async fn remove(state: &ApiState, kind: ContentKind, named: Named, terms: Terms) -> Result<Response, ApiError> {
    change(state, ObjectChange::RemoveContent(kind, named.content()?), terms).await
}

/// The secrets of all namespaces, without their contents.
#[utoipa::path(get, operation_id = "listAllSecrets", path = "/v1/secrets", tag = "contents", params(ListAllArgs),
    responses((status = 200, body = [ContentView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_all_secrets(
    State(state): State<ApiState>,
    ListAll(of, list): ListAll,
) -> Result<Response, ApiError> {
    all(&state, ContentKind::Secret, list, |scope| of.has(scope))
}

/// The secrets of a namespace, without their contents.
#[utoipa::path(get, operation_id = "listSecrets", path = "/v1/tenants/{tenant}/namespaces/{namespace}/secrets", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [ContentView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_secrets(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    check(&state, &scope)?;
    all(&state, ContentKind::Secret, list, |other| *other == scope)
}

/// A secret; its content is never shown.
#[utoipa::path(get, operation_id = "getSecret", path = "/v1/tenants/{tenant}/namespaces/{namespace}/secrets/{name}", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ContentView), (status = "4XX", body = Problem)))]
pub(super) async fn get_secret(State(state): State<ApiState>, named: Named) -> Result<Response, ApiError> {
    one(&state, ContentKind::Secret, named)
}

/// Create a secret, or give it another content.
#[utoipa::path(put, operation_id = "putSecret", path = "/v1/tenants/{tenant}/namespaces/{namespace}/secrets/{name}", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), PutContentArgs, Conditions, Key),
    request_body = ContentSpec,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put_secret(
    State(state): State<ApiState>,
    named: Named,
    put: Put,
    Json(body): Json<ContentSpec>,
) -> Result<Response, ApiError> {
    write(&state, ContentKind::Secret, named, put, body).await
}

/// Remove a secret; refused while somebody uses it.
#[utoipa::path(delete, operation_id = "deleteSecret", path = "/v1/tenants/{tenant}/namespaces/{namespace}/secrets/{name}", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete_secret(
    State(state): State<ApiState>,
    named: Named,
    terms: Terms,
) -> Result<Response, ApiError> {
    remove(&state, ContentKind::Secret, named, terms).await
}

/// The configs of all namespaces, without their contents.
#[utoipa::path(get, operation_id = "listAllConfigs", path = "/v1/configs", tag = "contents", params(ListAllArgs),
    responses((status = 200, body = [ContentView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_all_configs(
    State(state): State<ApiState>,
    ListAll(of, list): ListAll,
) -> Result<Response, ApiError> {
    all(&state, ContentKind::Config, list, |scope| of.has(scope))
}

/// The configs of a namespace, without their contents.
#[utoipa::path(get, operation_id = "listConfigs", path = "/v1/tenants/{tenant}/namespaces/{namespace}/configs", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [ContentView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_configs(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    check(&state, &scope)?;
    all(&state, ContentKind::Config, list, |other| *other == scope)
}

/// A config; with its content.
#[utoipa::path(get, operation_id = "getConfig", path = "/v1/tenants/{tenant}/namespaces/{namespace}/configs/{name}", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ContentView), (status = "4XX", body = Problem)))]
pub(super) async fn get_config(State(state): State<ApiState>, named: Named) -> Result<Response, ApiError> {
    one(&state, ContentKind::Config, named)
}

/// Create a config, or give it another content.
#[utoipa::path(put, operation_id = "putConfig", path = "/v1/tenants/{tenant}/namespaces/{namespace}/configs/{name}", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), PutContentArgs, Conditions, Key),
    request_body = ContentSpec,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put_config(
    State(state): State<ApiState>,
    named: Named,
    put: Put,
    Json(body): Json<ContentSpec>,
) -> Result<Response, ApiError> {
    write(&state, ContentKind::Config, named, put, body).await
}

/// Remove a config; refused while somebody uses it.
#[utoipa::path(delete, operation_id = "deleteConfig", path = "/v1/tenants/{tenant}/namespaces/{namespace}/configs/{name}", tag = "contents",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete_config(
    State(state): State<ApiState>,
    named: Named,
    terms: Terms,
) -> Result<Response, ApiError> {
    remove(&state, ContentKind::Config, named, terms).await
}
