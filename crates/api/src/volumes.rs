//! Volumes.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json as Body,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    apps::etag,
    extract::{InScope, Json, Named},
    list::{Candidate, List, ListAll, ListAllArgs, ListArgs, key},
    problem::ApiError,
    tenants::{ChangedView, change, check, refused},
    terms::{Conditions, DryRun, Key, Terms},
};
use hivemind_control::{ControlError, ObjectChange, ObjectName};
use hivemind_core::{
    model::{
        Bytes, ClusterSnapshot, NamespaceName, Problem, Revision, Row, Scope, TenantName, Timestamp, Volume, VolumeId,
        VolumeKey,
    },
    spec::v1::VolumeSpec,
};
use hivemind_storage::{Place, Usage};

/// How long a question about one volume measures it.
const MEASURE: Duration = Duration::from_secs(2);

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
    /// Its id, which names its folder.
    pub id: VolumeId,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The size that is asked for; absent if it has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// The size that it has on the node that answers; absent if it has no limit, or nobody has used it yet, or not one volume was
    /// asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_there: Option<Bytes>,
    /// What keeps it from being what is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Who uses it: `app web`, `instance web-x7k2p`.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Where its content is on the node that answers.
    pub path: String,
    /// What it holds; absent if that is not known yet, or nobody has used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
    /// Whether it is being removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
    /// The ETag: the revision that last wrote it.
    pub revision: Revision,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Bytes on the disk.
    pub bytes: u64,
    /// The most that it can hold, if it has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Whether all was counted; if not, there are at least so many.
    pub complete: bool,
    /// When it was measured.
    pub measured_at: Timestamp,
}

impl From<Usage> for UsageView {
    fn from(Usage { bytes, limit, complete, at }: Usage) -> Self {
        Self { bytes, limit, complete, measured_at: at }
    }
}

impl VolumeView {
    /// A volume of the snapshot, with what was last measured of it.
    pub(super) fn new(state: &ApiState, snapshot: &ClusterSnapshot, row: &Row<Volume>) -> Self {
        let Volume { id, key, spec, created_at, deleting } = &*row.object;
        Self {
            tenant: key.scope.tenant.clone(),
            namespace: key.scope.namespace.clone(),
            name: key.name.to_string(),
            id: id.clone(),
            labels: spec.labels.clone(),
            size: spec.size,
            size_there: None,
            fault: state.storage.fault(id),
            used_by: snapshot.users_of(key),
            path: state.storage.data(&Place::Volume(id.clone())).display().to_string(),
            usage: state.storage.usage(id).map(UsageView::from),
            deleting: *deleting,
            revision: row.modified,
            created_at: *created_at,
        }
    }
}

/// The volumes of all namespaces.
#[utoipa::path(get, operation_id = "listAllVolumes", path = "/v1/volumes", tag = "volumes", params(ListAllArgs),
    responses((status = 200, body = [VolumeView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_all(State(state): State<ApiState>, ListAll(of, list): ListAll) -> Result<Response, ApiError> {
    all(&state, list, |scope| of.has(scope))
}

/// The volumes of a namespace.
#[utoipa::path(get, operation_id = "listVolumes", path = "/v1/tenants/{tenant}/namespaces/{namespace}/volumes", tag = "volumes",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [VolumeView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    check(&state, &scope)?;
    all(&state, list, |other| *other == scope)
}

fn all(state: &ApiState, list: List, of: impl Fn(&Scope) -> bool) -> Result<Response, ApiError> {
    let open = list.open::<VolumeView>(state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let volumes = snapshot.volumes.iter().filter(|(key, _)| of(&key.scope));
    Ok(open.answer(volumes.map(|(VolumeKey { scope, name }, row)| Candidate {
        key: key([&scope.tenant, &scope.namespace, name]),
        labels: Cow::Borrowed(&row.object.spec.labels),
        view: || VolumeView::new(state, &snapshot, row),
    })))
}

/// A volume; what it holds is measured now.
#[utoipa::path(get, operation_id = "getVolume", path = "/v1/tenants/{tenant}/namespaces/{namespace}/volumes/{name}", tag = "volumes",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = VolumeView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Response, ApiError> {
    let key = named.volume()?;
    let snapshot = state.control.snapshot();
    check(&state, &key.scope)?;
    let Some(row) = snapshot.volumes.get(&key) else {
        return Err(refused(&state, ControlError::NotFound { object: ObjectName::Volume(key) }));
    };
    if let Err(error) = state.storage.measure(&row.object.id, MEASURE).await {
        tracing::warn!(volume = %key, %error, "a volume cannot be measured");
    }
    let mut view = VolumeView::new(&state, &snapshot, row);
    let place = Place::Volume(row.object.id.clone());
    view.size_there = state.storage.size(&place).await.unwrap_or_default();
    Ok((etag(row.modified), Body(view)).into_response())
}

/// Create a volume, give it other labels, or make one with a limit larger.
#[utoipa::path(put, operation_id = "putVolume", path = "/v1/tenants/{tenant}/namespaces/{namespace}/volumes/{name}", tag = "volumes",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    request_body = VolumeSpec,
    responses((status = 200, body = ChangedView), (status = 201, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    named: Named,
    terms: Terms,
    Json(spec): Json<VolumeSpec>,
) -> Result<Response, ApiError> {
    let put = ObjectChange::PutVolume(named.volume()?, VolumeId::from_bits(rand::random()), spec);
    change(&state, put, terms).await
}

/// Remove a volume with what is in it; refused while somebody uses it.
#[utoipa::path(delete, operation_id = "deleteVolume", path = "/v1/tenants/{tenant}/namespaces/{namespace}/volumes/{name}", tag = "volumes",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = ChangedView), (status = "4XX", body = Problem)))]
pub(super) async fn delete(State(state): State<ApiState>, named: Named, terms: Terms) -> Result<Response, ApiError> {
    change(&state, ObjectChange::RemoveVolume(named.volume()?), terms).await
}
