//! Apps.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json as Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    auth::Caller,
    extract::{InScope, Json, Named},
    list::{Candidate, List, ListAll, ListAllArgs, ListArgs, key},
    problem::{ApiError, not_found},
    tenants,
    terms::{Conditions, DryRun, Key, Terms},
    view::AppView,
};
use hivemind_control::{AppChange, Control, ControlError, ObjectName};
use hivemind_core::{
    model::{App, AppKey, Past, Problem, Revision, Row, Scope},
    spec::v1::{AppSpec, validate_app},
};
use hivemind_runtime::check_reference;

pub use hivemind_control::Written;

/// How many instances.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// 0 to 1000.
    pub replicas: u32,
}

/// Where to go back to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// A generation of the history; without it, the last that was in place and is another than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// What a change of an app did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppWritten {
    /// What.
    #[serde(flatten)]
    pub written: Written,
    /// Only of a dry run: the app as it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<AppView>>,
}

pub(super) fn etag(revision: Revision) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{revision}\""))]
}

/// Whether whoever asks may change an app so. What counts is the app that comes of it: to go back to what the operator had
/// run, or to have more of it, is no way around.
fn authorise(control: &Control, caller: &Caller, key: &AppKey, change: &AppChange) -> Result<(), ApiError> {
    if caller.is_operator() || *change == AppChange::Remove {
        return Ok(());
    }
    let (_, app) = control.preview(key, change.clone(), None)?;
    Ok(caller.may_run(app.iter().map(|app| (&key.name, &app.spec)))?)
}

/// Changes an app, or only looks what would come of it.
async fn change(
    state: &ApiState,
    caller: &Caller,
    key: AppKey,
    change: AppChange,
    terms: Terms,
) -> Result<Response, ApiError> {
    authorise(&state.control, caller, &key, &change)?;
    if terms.dry_run {
        let preview = state.control.preview(&key, change, terms.if_match);
        let (written, app) = preview.map_err(|error| refused(state, error))?;
        let object = app.map(|app| Box::new(would_be(state, &key, app, written.revision)));
        return Ok(Body(AppWritten { written, object }).into_response());
    }
    let done = state.control.once(terms.once).write(key, change, terms.if_match).await;
    let done = done.map_err(|error| refused(state, error))?;
    let status = if done.created { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok((status, etag(done.revision), Body(AppWritten { written: done, object: None })).into_response())
}

/// An app as it would be shown right after it was written.
fn would_be(state: &ApiState, key: &AppKey, app: App, modified: Revision) -> AppView {
    let mut snapshot = (*state.control.snapshot()).clone();
    let row = Row { object: Arc::new(app), modified };
    snapshot.set_app(key, Some(row.clone()));
    AppView::new(&snapshot, &row)
}

fn find(state: &ApiState, key: &AppKey) -> Result<AppView, ApiError> {
    let snapshot = state.control.snapshot();
    snapshot.apps.get(key).map(|row| AppView::new(&snapshot, row)).ok_or_else(|| missing(state, key))
}

/// A refused command; an app that is not there with those that are.
fn refused(state: &ApiState, error: ControlError) -> ApiError {
    match error {
        ControlError::NotFound { object: ObjectName::App(key) } => missing(state, &key),
        error => tenants::refused(state, error),
    }
}

fn missing(state: &ApiState, key: &AppKey) -> ApiError {
    let snapshot = state.control.snapshot();
    let here = snapshot.apps.keys().filter(|other| other.scope == key.scope).map(|other| other.name.as_str());
    not_found("app", key.name.as_str(), Some(&key.scope), here)
}

/// The apps of all namespaces.
#[utoipa::path(get, operation_id = "listAllApps", path = "/v1/apps", tag = "apps", params(ListAllArgs),
    responses((status = 200, body = [AppView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_all(State(state): State<ApiState>, ListAll(of, list): ListAll) -> Result<Response, ApiError> {
    all(&state, list, |scope| of.has(scope))
}

/// The apps of a namespace.
#[utoipa::path(get, operation_id = "listApps", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [AppView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    all(&state, list, |other| *other == scope)
}

fn all(state: &ApiState, list: List, of: impl Fn(&Scope) -> bool) -> Result<Response, ApiError> {
    let open = list.open::<AppView>(state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let apps = snapshot.apps.iter().filter(|(key, _)| of(&key.scope));
    Ok(open.answer(apps.map(|(AppKey { scope, name }, row)| Candidate {
        key: key([&scope.tenant, &scope.namespace, name]),
        labels: Cow::Borrowed(&row.object.spec.labels),
        view: || AppView::new(&snapshot, row),
    })))
}

/// An app.
#[utoipa::path(get, operation_id = "getApp", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = AppView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Response, ApiError> {
    let app = find(&state, &named.app()?)?;
    Ok((etag(app.revision), Body(app)).into_response())
}

/// Create an app or change it.
#[utoipa::path(put, operation_id = "putApp", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    request_body = AppSpec,
    responses((status = 200, body = AppWritten, description = "Dry run: nothing was changed"),
        (status = 201, body = AppWritten), (status = 202, body = AppWritten), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    named: Named,
    terms: Terms,
    Json(spec): Json<AppSpec>,
) -> Result<Response, ApiError> {
    let key = named.app()?;
    let before = spec.container.hooks.pre_start.iter().filter_map(|init| init.image.as_deref());
    let before = before.map(|image| ("container.hooks.pre_start", image));
    let wrong = |(field, image)| check_reference(image).err().map(|error| format!("{field}: {error}"));
    let references: Vec<String> = before.chain([("image", spec.image.as_str())]).filter_map(wrong).collect();
    if !references.is_empty() {
        let mut faults = validate_app(&spec);
        faults.extend(references);
        return Err(refused(&state, ControlError::Invalid { object: ObjectName::App(key), faults }));
    }
    change(&state, &caller, key, AppChange::Deploy(Box::new(spec)), terms).await
}

/// Stop the instances of an app and remove it.
#[utoipa::path(delete, operation_id = "deleteApp", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = AppWritten, description = "Dry run: nothing was changed"),
        (status = 202, body = AppWritten), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    named: Named,
    terms: Terms,
) -> Result<Response, ApiError> {
    change(&state, &caller, named.app()?, AppChange::Remove, terms).await
}

/// Change the number of instances.
#[utoipa::path(post, operation_id = "scaleApp", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/scale", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    request_body = Scale,
    responses((status = 200, body = AppWritten, description = "Dry run: nothing was changed"),
        (status = 202, body = AppWritten), (status = "4XX", body = Problem)))]
pub(super) async fn scale(
    State(state): State<ApiState>,
    caller: Caller,
    named: Named,
    terms: Terms,
    Json(scale): Json<Scale>,
) -> Result<Response, ApiError> {
    change(&state, &caller, named.app()?, AppChange::Scale(scale.replicas), terms).await
}

/// Replace all instances, one after the other.
#[utoipa::path(post, operation_id = "restartApp", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/restart", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    responses((status = 200, body = AppWritten, description = "Dry run: nothing was changed"),
        (status = 202, body = AppWritten), (status = "4XX", body = Problem)))]
pub(super) async fn restart(
    State(state): State<ApiState>,
    caller: Caller,
    named: Named,
    terms: Terms,
) -> Result<Response, ApiError> {
    change(&state, &caller, named.app()?, AppChange::Restart, terms).await
}

/// The generations of an app that are kept, oldest first.
#[utoipa::path(get, operation_id = "getAppHistory", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/history", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = [Past]), (status = "4XX", body = Problem)))]
pub(super) async fn history(State(state): State<ApiState>, named: Named) -> Result<Body<Vec<Past>>, ApiError> {
    let key = named.app()?;
    find(&state, &key)?;
    let snapshot = state.control.snapshot();
    Ok(Body(snapshot.past_of(&key).map(|past| (**past).clone()).collect()))
}

/// Go back to a former generation of an app, with as many instances as it has now.
#[utoipa::path(post, operation_id = "rollBackApp", path = "/v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/rollback", tag = "apps",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), DryRun, Conditions, Key),
    request_body = RollBack,
    responses((status = 200, body = AppWritten, description = "Dry run: nothing was changed"),
        (status = 202, body = AppWritten), (status = "4XX", body = Problem)))]
pub(super) async fn roll_back(
    State(state): State<ApiState>,
    caller: Caller,
    named: Named,
    terms: Terms,
    Json(RollBack { to }): Json<RollBack>,
) -> Result<Response, ApiError> {
    change(&state, &caller, named.app()?, AppChange::RollBack(to), terms).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::of_tenant;
    use hivemind_control::{ControlConfig, load, start};
    use hivemind_core::{model::ErrorCode, spec::v1::MountSpec};
    use hivemind_observe::Events;
    use hivemind_schedule::ServiceRanges;
    use hivemind_store::{RedbStore, Store};

    #[tokio::test]
    async fn a_tenants_user_has_nothing_run_that_reaches_the_host_by_any_change() {
        let store: Arc<dyn Store> = Arc::new(RedbStore::in_memory().await.expect("a store"));
        let config = ControlConfig { services: ServiceRanges { v4: "10.96.0.0/16".parse().ok(), v6: None } };
        let loaded = load(store).await.expect("rows");
        let (control, run) = start(loaded, config, Events::default()).await.expect("a loop");
        let task = tokio::spawn(run);
        let key = AppKey::new(Scope::default(), "web".parse().expect("a name"));
        let plain = AppSpec::new("web");
        let mount: MountSpec = "/etc:/etc".parse().expect("a mount");
        let own = AppSpec { mounts: vec![mount], ..AppSpec::new("web") };
        let deploy = |spec: &AppSpec| AppChange::Deploy(Box::new(spec.clone()));
        let (user, operator) = (of_tenant("red"), of_tenant(""));
        let asks = |caller, change| {
            authorise(&control, caller, &key, &change).map_err(|ApiError(problem)| (problem.code, problem.details))
        };
        let refused = Err((ErrorCode::OperatorOnly, vec!["web: mounts[0].source".to_owned()]));

        assert_eq!(asks(&user, deploy(&plain)), Ok(()));
        assert_eq!(asks(&user, deploy(&own)), refused);
        assert_eq!(asks(&operator, deploy(&own)), Ok(()));
        assert_eq!(asks(&user, AppChange::Scale(2)).map_err(|(code, _)| code), Err(ErrorCode::NotFound));
        control.write(key.clone(), deploy(&own), None).await.expect("deployed");
        for change in [AppChange::Scale(2), AppChange::Restart] {
            assert_eq!(asks(&user, change.clone()), refused, "{change:?}");
            assert_eq!(asks(&operator, change), Ok(()));
        }
        assert_eq!(asks(&user, AppChange::Remove), Ok(()));
        control.write(key.clone(), deploy(&plain), None).await.expect("deployed");
        assert_eq!(asks(&user, AppChange::Scale(2)), Ok(()));
        assert_eq!(asks(&user, AppChange::RollBack(Some(1))), refused);
        assert_eq!(asks(&operator, AppChange::RollBack(Some(1))), Ok(()));
        task.abort();
    }
}
