//! Images of the node that answers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    time::Duration,
};

use axum::{
    Json as Body,
    body::Body as HttpBody,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    events::{lines, ndjson},
    extract::{Args, Json},
    list::{Candidate, List, ListArgs},
    problem::{ApiError, not_found},
    serve::Stop,
};
use hivemind_core::{
    model::{ErrorCode, Problem, Timestamp},
    spec::v1::PullPolicy,
};
use hivemind_runtime::{Layer, PullProgress, Pushed, StoredImage, complete_reference, is_digest};

/// How often a fetch says how far it is.
const PERIOD: Duration = Duration::from_millis(200);

/// An image that the node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Its full name, e.g. `docker.io/library/nginx:latest`.
    pub name: String,
    /// The digest that the name stands for.
    pub digest: String,
    /// What it is for, e.g. `linux/amd64`; absent if parts of it are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Bytes of its layers as they were fetched. Layers that images share count for each.
    pub size: u64,
    /// The apps that use it, as `tenant/namespace/app`.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// When it came under this name for the first time.
    pub created_at: Timestamp,
}

/// An image with what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetails {
    /// The image.
    #[serde(flatten)]
    pub image: ImageView,
    /// The digest of its manifest for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Its layers, lowest first.
    #[serde(default)]
    pub layers: Vec<LayerView>,
    /// Its configuration as it was built: environment, command, history.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerView {
    /// Its digest.
    pub digest: String,
    /// Its bytes as it was fetched.
    pub size: u64,
}

/// How far a fetch is; the last one says what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullView {
    /// What is being done: `resolving`, `fetching`, `unpacking`, `done`.
    pub step: String,
    /// Bytes of layers that are there.
    pub done: u64,
    /// Bytes of layers in all; 0 until known.
    pub total: u64,
    /// The image, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageView>,
    /// Why it did not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What was sent to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PushedView {
    /// The name that it has there.
    pub name: String,
    /// What that name stands for now.
    pub digest: String,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that the registry took from another repository of its own.
    pub mounted: u64,
    /// Bytes that it had.
    pub there: u64,
    /// Variants that neither the node nor the registry has: what the name stands for is this machine's variant alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// How far sending is; the last one says what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PushView {
    /// What is being done: `looking`, `sending`, `naming`, `done`.
    pub step: String,
    /// Bytes that the registry has.
    pub done: u64,
    /// Bytes in all; 0 until known.
    pub total: u64,
    /// What was sent, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<PushedView>,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Layers of images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Layers {
    /// Their digests, `sha256:…`.
    pub layers: Vec<String>,
}

/// Images that came or went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImagesChanged {
    /// Their names.
    pub names: Vec<String>,
    /// Bytes of their layers; what other images have as well stays.
    pub size: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NameArgs {
    /// The image, e.g. `nginx` or `registry.local:5000/team/web:1`.
    name: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PushArgs {
    /// The image.
    name: String,
    /// The name that it is sent under, whose registry gets it; its own by default.
    to: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveArgs {
    /// The image.
    name: String,
    /// Also if an app uses it: its instances run on, and it is fetched again for the next one.
    #[serde(default)]
    force: bool,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(default, rename = "dryRun", alias = "dry_run")]
    #[param(rename = "dryRun", value_type = Option<bool>)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TagArgs {
    /// The image.
    name: String,
    /// The name that it gets besides.
    other: String,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(default, rename = "dryRun", alias = "dry_run")]
    #[param(rename = "dryRun", value_type = Option<bool>)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PruneArgs {
    /// Only say what would go. Also as `dry_run`.
    #[serde(default, rename = "dryRun", alias = "dry_run")]
    #[param(rename = "dryRun", value_type = Option<bool>)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportArgs {
    /// The name that the one image of the archive gets; the archive's own by default.
    name: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportArgs {
    /// The images, with commas between them.
    names: String,
}

/// The apps that use images, by the images' names: those whose instances run with one, and those that want it.
fn users(state: &ApiState) -> BTreeMap<String, BTreeSet<String>> {
    let snapshot = state.control.snapshot();
    let instances = snapshot.instances.values().map(|row| (&row.object.spec, &row.object.app));
    let apps = snapshot.apps.iter().map(|(key, row)| (&row.object.spec, key));
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (spec, app) in instances.chain(apps) {
        for name in spec.images().filter_map(|image| complete_reference(image).ok()) {
            users.entry(name).or_default().insert(app.to_string());
        }
    }
    users
}

fn view(image: &StoredImage, users: &BTreeMap<String, BTreeSet<String>>) -> ImageView {
    ImageView {
        name: image.reference.clone(),
        digest: image.digest.clone(),
        platform: image.content.as_ref().map(|content| content.platform.clone()),
        size: image.size(),
        used_by: users.get(&image.reference).into_iter().flatten().cloned().collect(),
        created_at: image.created_at,
    }
}

async fn missing(state: &ApiState, name: &str) -> ApiError {
    let there = state.images.images().await.unwrap_or_default();
    not_found("image", name, None, there.iter().map(|image| image.reference.as_str()))
}

/// The images that the node has.
#[utoipa::path(get, operation_id = "listImages", path = "/v1/images", tag = "images", params(ListArgs),
    responses((status = 200, body = [ImageView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, list: List) -> Result<Response, ApiError> {
    // The images themselves are containerd's, as they are now: only their order is the same on every page.
    let open = list.open::<ImageView>(&state)?;
    let (mut images, users) = (state.images.images().await?, users(&state));
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(open.answer(images.iter().map(|image| Candidate {
        key: image.reference.clone(),
        labels: image.content.as_ref().map_or_else(Cow::default, |content| Cow::Borrowed(&content.labels)),
        view: || view(image, &users),
    })))
}

/// An image with its layers and its configuration.
#[utoipa::path(get, operation_id = "getImage", path = "/v1/images/info", tag = "images", params(NameArgs),
    responses((status = 200, body = ImageDetails), (status = "4XX", body = Problem)))]
pub(super) async fn info(
    State(state): State<ApiState>,
    Args(NameArgs { name }): Args<NameArgs>,
) -> Result<Body<ImageDetails>, ApiError> {
    let name = complete_reference(&name)?;
    let Some(image) = state.images.image(&name).await? else { return Err(missing(&state, &name).await) };
    let shown = view(&image, &users(&state));
    let config = state.images.config(&name).await?.unwrap_or_default();
    let (manifest, layers) = image.content.map(|content| (content.manifest.clone(), content.layers.clone())).unzip();
    let layers = layers.into_iter().flatten().map(|Layer { digest, size }| LayerView { digest, size }).collect();
    Ok(Body(ImageDetails { image: shown, manifest, layers, config }))
}

/// Fetch an image, also one that is there. Each line says how far it is; the last one has the image, or the problem.
#[utoipa::path(post, operation_id = "pullImage", path = "/v1/images/pull", tag = "images", params(NameArgs),
    responses((status = 200, body = PullView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn pull(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(NameArgs { name }): Args<NameArgs>,
) -> Result<Response, ApiError> {
    let name = complete_reference(&name)?;
    let (sender, progress) = watch::channel(PullProgress::default());
    // It is broken off with the connection.
    let work = Box::pin(async move {
        let fetched = state.runtime.ensure_image(&name, PullPolicy::Always, sender).await;
        match fetched {
            Ok(_) => {
                let users = users(&state);
                let image = state.images.image(&name).await.ok().flatten().map(|image| view(&image, &users));
                PullView { step: "done".into(), image, ..PullView::default() }
            }
            Err(error) => PullView { problem: Some(ApiError::from(error).0), ..PullView::default() },
        }
    });
    let now = |PullProgress { done, total, step }| PullView { step: step.into(), done, total, ..PullView::default() };
    Ok(ndjson(told(work, progress, now), stop))
}

/// Send an image to a registry: what that lacks, manifests last. Each line says how far it is; the last one says what was sent,
/// or has the problem.
#[utoipa::path(post, operation_id = "pushImage", path = "/v1/images/push", tag = "images", params(PushArgs),
    responses((status = 200, body = PushView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn push(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(PushArgs { name, to }): Args<PushArgs>,
) -> Result<Response, ApiError> {
    let name = complete_reference(&name)?;
    let to = to.map_or_else(|| Ok(name.clone()), |to| complete_reference(&to))?;
    if state.images.image(&name).await?.is_none() {
        return Err(missing(&state, &name).await);
    }
    let (sender, progress) = watch::channel(PullProgress::default());
    // It is broken off with the connection.
    let work = Box::pin(async move {
        let problem = |problem| PushView { problem: Some(problem), ..PushView::default() };
        match state.images.push(&name, &to, sender).await {
            Ok(Some(Pushed { reference, digest, sent, mounted, there, left_out })) => {
                let pushed = PushedView { name: reference, digest, sent, mounted, there, left_out };
                PushView { step: "done".into(), pushed: Some(pushed), ..PushView::default() }
            }
            Ok(None) => problem(missing(&state, &name).await.0),
            Err(error) => problem(ApiError::from(error).0),
        }
    });
    let now = |PullProgress { done, total, step }| PushView { step: step.into(), done, total, ..PushView::default() };
    Ok(ndjson(told(work, progress, now), stop))
}

/// How far work is, now and then, and what came of it, as lines.
fn told<V: Serialize + 'static>(
    work: impl Future<Output = V> + Send + Unpin + 'static,
    progress: watch::Receiver<PullProgress>,
    now: fn(PullProgress) -> V,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::unfold(Some((work, progress)), move |step| async move {
        let (mut work, progress) = step?;
        tokio::select! {
            biased;
            last = &mut work => Some((Ok(lines(&[last])), None)),
            () = tokio::time::sleep(PERIOD) => {
                let line = now(progress.borrow().clone());
                Some((Ok(lines(&[line])), Some((work, progress))))
            }
        }
    })
}

/// Forget an image's name; what no other name has is removed.
#[utoipa::path(delete, operation_id = "deleteImage", path = "/v1/images", tag = "images", params(RemoveArgs),
    responses((status = 200, body = ImagesChanged), (status = "4XX", body = Problem)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    Args(RemoveArgs { name, force, dry_run }): Args<RemoveArgs>,
) -> Result<Body<ImagesChanged>, ApiError> {
    let name = complete_reference(&name)?;
    if let Some(users) = users(&state).get(&name).filter(|_| !force) {
        let apps = users.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Problem::new(ErrorCode::Taken, format!("image {name} is used by {apps}"))
            .hint("hivemind app rm APP, or hivemind image rm --force: instances run on, and it is fetched again")
            .into());
    }
    let image = state.images.image(&name).await?;
    let there = if dry_run { image.is_some() } else { state.images.remove_image(&name).await? };
    if !there {
        return Err(missing(&state, &name).await);
    }
    Ok(Body(ImagesChanged { names: vec![name], size: image.map_or(0, |image| image.size()) }))
}

/// Give an image another name besides. One with a digest must have its own.
#[utoipa::path(post, operation_id = "tagImage", path = "/v1/images/tag", tag = "images", params(TagArgs),
    responses((status = 200, body = ImagesChanged), (status = "4XX", body = Problem)))]
pub(super) async fn tag(
    State(state): State<ApiState>,
    Args(TagArgs { name, other, dry_run }): Args<TagArgs>,
) -> Result<Body<ImagesChanged>, ApiError> {
    let (name, other) = (complete_reference(&name)?, complete_reference(&other)?);
    if let Some((_, digest)) = other.split_once('@') {
        let Some(image) = state.images.image(&name).await? else { return Err(missing(&state, &name).await) };
        if image.digest != digest {
            let title =
                format!("{other} names a digest, and {name} is {}: what it stands for cannot be chosen", image.digest);
            return Err(Problem::new(ErrorCode::Invalid, title).into());
        }
    }
    let there = match dry_run {
        true => state.images.image(&name).await?.is_some(),
        false => state.images.tag_image(&name, &other).await?,
    };
    if !there {
        return Err(missing(&state, &name).await);
    }
    Ok(Body(ImagesChanged { names: vec![other], size: 0 }))
}

/// Remove all images that no app uses.
#[utoipa::path(post, operation_id = "pruneImages", path = "/v1/images/prune", tag = "images", params(PruneArgs),
    responses((status = 200, body = ImagesChanged), (status = "4XX", body = Problem)))]
pub(super) async fn prune(
    State(state): State<ApiState>,
    Args(PruneArgs { dry_run }): Args<PruneArgs>,
) -> Result<Body<ImagesChanged>, ApiError> {
    let mut gone = ImagesChanged::default();
    let images = state.images.images().await?;
    let used = users(&state);
    for image in images.into_iter().filter(|image| !used.contains_key(&image.reference)) {
        // Asked again before it goes: an app may have come meanwhile.
        if !dry_run && users(&state).contains_key(&image.reference) {
            continue;
        }
        if dry_run || state.images.remove_image(&image.reference).await? {
            gone.size += image.size();
            gone.names.push(image.reference);
        }
    }
    Ok(Body(gone))
}

/// Which of these layers the node does not have. An archive for `/v1/images/import` may leave out the others.
#[utoipa::path(post, operation_id = "missingLayers", path = "/v1/images/missing", tag = "images", request_body = Layers,
    responses((status = 200, body = Layers), (status = "4XX", body = Problem)))]
pub(super) async fn missing_layers(
    State(state): State<ApiState>,
    Json(Layers { layers }): Json<Layers>,
) -> Result<Body<Layers>, ApiError> {
    let faults: Vec<_> =
        layers.iter().filter(|digest| !is_digest(digest)).map(|digest| format!("{digest:?}")).collect();
    if !faults.is_empty() {
        let problem = Problem::new(ErrorCode::Invalid, "a layer is named by sha256: and 64 digits from 0 to f");
        return Err(Problem { details: faults, ..problem }.into());
    }
    Ok(Body(Layers { layers: state.images.missing(layers).await? }))
}

/// Take the images of a tar archive, an OCI layout or what `docker save` writes. It is looked through as a whole first.
#[utoipa::path(post, operation_id = "importImages", path = "/v1/images/import", tag = "images", params(ImportArgs),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = ImagesChanged), (status = "4XX", body = Problem)))]
pub(super) async fn import(
    State(state): State<ApiState>,
    Args(ImportArgs { name }): Args<ImportArgs>,
    body: HttpBody,
) -> Result<Body<ImagesChanged>, ApiError> {
    let name = name.map(|name| complete_reference(&name)).transpose()?;
    let archive = body.into_data_stream().map(|part| part.map_err(io::Error::other));
    let names = state.images.import(archive.boxed(), name).await?;
    let mut size = 0;
    for name in &names {
        size += state.images.image(name).await?.map_or(0, |image| image.size());
    }
    Ok(Body(ImagesChanged { names, size }))
}

/// A tar archive of images, as Docker, Podman and containerd read it.
#[utoipa::path(get, operation_id = "exportImages", path = "/v1/images/export", tag = "images", params(ExportArgs),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-tar"), (status = "4XX", body = Problem)))]
pub(super) async fn export(
    State(state): State<ApiState>,
    Args(ExportArgs { names }): Args<ExportArgs>,
) -> Result<Response, ApiError> {
    let names = names.split(',').map(complete_reference).collect::<Result<Vec<_>, _>>()?;
    for name in &names {
        if state.images.image(name).await?.is_none() {
            return Err(missing(&state, name).await);
        }
    }
    let archive = state.images.export(names).await?;
    Ok(([("content-type", "application/x-tar")], HttpBody::from_stream(archive)).into_response())
}
