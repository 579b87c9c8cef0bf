//! Files of running instances, as tar streams in both directions.

use std::{
    io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use axum::{
    Json as Body,
    body::Body as HttpBody,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    extract::{Args, Named},
    instances::{container_of, find, pid_of},
    problem::ApiError,
    serve::Stop,
};
use hivemind_core::model::{ErrorCode, Problem, SidecarName};
use hivemind_runtime::{
    Inside,
    tree::{self, Copied, Reading, TreeError},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FileArgs {
    /// The path in the instance; a relative one begins at its root.
    path: String,
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[param(value_type = Option<String>)]
    container: Option<SidecarName>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutFileArgs {
    /// The path in the instance; a relative one begins at its root. What comes goes into it, if it is a folder.
    path: String,
    /// It must be a folder. Otherwise, one that is not there names what comes, as `cp` does.
    #[serde(default)]
    folder: bool,
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[param(value_type = Option<String>)]
    container: Option<SidecarName>,
}

/// What was copied into an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopiedView {
    /// Files, links and folders.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

impl From<Copied> for CopiedView {
    fn from(Copied { entries, bytes, left_out }: Copied) -> Self {
        Self { entries, bytes, left_out }
    }
}

/// A file or a folder of a running instance, as a tar archive. Names in it begin with the last part of the path, or with
/// `.` if that is `/` or ends in `/.`. What a tar archive cannot carry is left out, and named by a comment at its end.
#[utoipa::path(get, operation_id = "getFiles", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/files", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), FileArgs),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-tar"), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<FileArgs>,
) -> Result<Response, ApiError> {
    let instance = find(&state, &named)?;
    let id = container_of(&instance, args.container.as_ref())?;
    let pid = pid_of(&state, &instance, &id).await?;
    let name = instance.name();
    let path = PathBuf::from(args.path);
    let wanted = path.clone();
    let opened = blocking(move || {
        let top = Inside::of(id.as_str(), pid)?.open(&wanted, OFlag::O_PATH)?;
        let kind = std::fs::File::from(top.try_clone()?).metadata()?.file_type();
        if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a socket, a pipe or a device"));
        }
        Ok(top)
    });
    let top = opened.await?.map_err(|error| refused(&name, &path, &error))?;
    let (mut to, chunks) = tree::pipe();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = tree::pack(top, &tree::name_of(&path), &mut to) {
            // Whoever reads sees that the archive breaks off; why is in the log.
            tracing::warn!(instance = name, %error, "a copy out of an instance has failed");
            to.fail(io::Error::other(error));
        }
    });
    let body = HttpBody::from_stream(whole(chunks, stop));
    Ok(([("content-type", "application/x-tar")], body).into_response())
}

/// Write a tar archive into a running instance. Modes, owners and times are kept; no link of the instance is followed
/// beneath the path.
#[utoipa::path(post, operation_id = "putFiles", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/files", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), PutFileArgs),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = CopiedView), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    named: Named,
    Args(args): Args<PutFileArgs>,
    body: HttpBody,
) -> Result<Body<CopiedView>, ApiError> {
    let instance = find(&state, &named)?;
    let id = container_of(&instance, args.container.as_ref())?;
    let pid = pid_of(&state, &instance, &id).await?;
    let name = instance.name();
    let path = PathBuf::from(args.path);
    let wanted = path.clone();
    let opened = blocking(move || {
        let inside = Inside::of(id.as_str(), pid)?;
        let folder = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match inside.open(&wanted, folder) {
            Ok(dir) => Ok((dir, None)),
            Err(error) if args.folder || error.raw_os_error().is_none() => Err(error),
            // It is a file to replace, or not there: then its folder must be.
            Err(error) => {
                let Some(last) = wanted.file_name() else { return Err(error) };
                let parent = wanted.parent().unwrap_or(Path::new("/"));
                Ok((inside.open(parent, folder)?, Some(last.to_owned())))
            }
        }
    });
    let (dir, rename) = opened.await?.map_err(|error| refused(&name, &path, &error))?;
    let (to, from) = Reading::new();
    let carried = async move {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            // An error means that what it was for has failed, and is told below.
            if to.send(chunk.map_err(io::Error::other)).await.is_err() {
                break;
            }
        }
    };
    let written = blocking(move || tree::unpack(&dir, rename.as_deref(), true, from));
    let (written, ()) = tokio::join!(written, carried);
    let written = written?.map_err(|TreeError { path: file, source }| {
        let at = path.join(&file);
        refused(&name, &at, &source)
    })?;
    Ok(Body(written.into()))
}

/// An archive that the daemon's stop cuts off is no whole one: it must not end as if it were.
fn whole(
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    stop: Stop,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let stopped = stream::once(async move {
        stop.stopped().await;
        None
    });
    let ended = stream::once(async { Some(None) });
    let chunks = chunks.map(|chunk| Some(Some(chunk))).chain(ended);
    let merged = stream::select(chunks, stopped).take_while(|item| std::future::ready(!matches!(item, Some(None))));
    merged.map(|item| item.flatten().unwrap_or_else(|| Err(io::Error::other("the daemon stops"))))
}

/// What the kernel said of a path, in words of users.
fn refused(instance: &str, path: &Path, error: &io::Error) -> Problem {
    let at = format!("{instance}:{}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Problem::new(ErrorCode::NotFound, format!("{at} does not exist: {error}"))
            .hint(format!("hivemind exec {instance} -- ls /")),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Problem::new(ErrorCode::DiskFull, format!("no space left on {at}"))
        }
        io::ErrorKind::ReadOnlyFilesystem => Problem::new(ErrorCode::FileRefused, format!("{at} is read-only"))
            .hint("copy to a volume or a tmpfs of it, which can be written"),
        _ => Problem::new(ErrorCode::FileRefused, format!("{at} cannot be copied: {error}")),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()).into())
}
