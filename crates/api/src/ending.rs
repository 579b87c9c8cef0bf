//! Signals to instances, and waiting for what comes of them.

use std::{convert::Infallible, sync::Arc};

use axum::{Json as Body, extract::State, response::Response};
use futures::{StreamExt, stream, stream::BoxStream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    events::{lines, ndjson},
    extract::{Args, Json, Named},
    instances::{container_of, find, pid_of},
    problem::ApiError,
    serve::Stop,
    terms::DryRun,
};
use hivemind_core::{
    model::{ErrorCode, EventKind, Exit, Instance, InstanceId, Phase, Problem, SidecarName, signal_number},
    spec::v1::RestartPolicy,
};
use hivemind_runtime::{RunState, RuntimeEvent};

/// A signal to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Its name with or without `SIG`, `RTMIN+3`, or its number.
    pub signal: String,
    /// To a sidecar of the instance, by its name; without it, to the app's own container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub container: Option<SidecarName>,
}

/// A signal that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Killed {
    /// The instance.
    pub instance: String,
    /// Its id.
    pub id: InstanceId,
    /// The signal's number.
    pub signal: i32,
    /// What is done if its process ends: an end by a signal is one like any other.
    pub restart: RestartPolicy,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// Its process ends; or has ended, and does not run now.
    #[default]
    Ended,
    /// It is Ready.
    Ready,
    /// Nothing of it is left.
    Gone,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitArgs {
    /// `ended`, `ready` or `gone`.
    #[serde(default)]
    until: Until,
}

/// What came of waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waited {
    /// The instance.
    pub instance: String,
    /// Its id.
    pub id: InstanceId,
    /// Whether that came which was waited for, or cannot come any more.
    pub reached: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// How its process ended, if that was seen.
    pub exit: Option<Exit>,
}

/// Send a signal to the first process of an instance. If it ends, its restart policy says what is done, as after a
/// crash.
#[utoipa::path(post, operation_id = "killInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/kill", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), DryRun),
    request_body = Kill,
    responses((status = 200, body = Killed), (status = "4XX", body = Problem)))]
pub(super) async fn kill(
    State(state): State<ApiState>,
    named: Named,
    Args(DryRun { dry_run }): Args<DryRun>,
    Json(kill): Json<Kill>,
) -> Result<Body<Killed>, ApiError> {
    let instance = find(&state, &named)?;
    let Some(signal) = signal_number(&kill.signal) else {
        let title = format!("signal: there is no signal {:?}; write e.g. TERM, SIGHUP or 9", kill.signal);
        return Err(Problem::new(ErrorCode::Invalid, title).into());
    };
    let id = container_of(&instance, kill.container.as_ref())?;
    pid_of(&state, &instance, &id).await?;
    let beside = instance.spec.sidecars.iter().find(|it| Some(&it.name) == id.sidecar());
    if !dry_run {
        state.runtime.kill(&id, signal, false).await?;
        let of = beside.map(|it| format!("/{}", it.name)).unwrap_or_default();
        let message = format!("signal {signal} was sent to {}{of} by request", instance.name());
        state.events.emit(EventKind::Normal, "Signalled", &instance.as_ref().into(), message);
    }
    let restart = beside.map_or(instance.spec.restart, |it| it.restart);
    Ok(Body(Killed { instance: instance.name(), id: instance.id.clone(), signal, restart }))
}

/// Wait until the process of an instance ends, it is Ready, or it is gone: one JSON document, once that is so or cannot
/// come any more. A stream that ends without it was cut off: the daemon stops.
#[utoipa::path(get, operation_id = "waitForInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/wait", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), WaitArgs),
    responses((status = 200, body = Waited, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn wait(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<WaitArgs>,
) -> Result<Response, ApiError> {
    let instance = find(&state, &named)?;
    // Before the first look, so that no end falls in between. Without them there is still what the agent reports.
    let events = match args.until {
        Until::Ended => state.runtime.events().await.unwrap_or_else(|_| stream::pending().boxed()),
        Until::Ready | Until::Gone => stream::pending().boxed(),
    };
    let answer = async move { Ok::<_, Infallible>(lines(&[waited(&state, &instance, args.until, events).await])) };
    Ok(ndjson(stream::once(answer), stop))
}

/// Waits. The end of a process is told by the runtime, also of one that is removed with its row, and by its status.
async fn waited(
    state: &ApiState,
    instance: &Arc<Instance>,
    until: Until,
    mut events: BoxStream<'static, RuntimeEvent>,
) -> Waited {
    let mut snapshots = state.control.subscribe();
    let id = &instance.id;
    let mut before = None;
    let mut last = Phase::Gone;
    let answer = |reached, phase, exit| Waited { instance: instance.name(), id: id.clone(), reached, phase, exit };
    loop {
        let status = {
            let now = snapshots.borrow_and_update();
            now.instances.contains_key(id).then(|| now.status_of(id))
        };
        let Some(status) = status else {
            return answer(until == Until::Gone || (until == Until::Ended && last != Phase::Gone), Phase::Gone, None);
        };
        last = status.phase;
        let rests = matches!(last, Phase::Completed | Phase::Failed | Phase::Backoff);
        let first = before.is_none();
        let known = before.get_or_insert_with(|| status.last_exit.clone());
        let ended = status.last_exit.is_some() && (*known != status.last_exit || (first && rests));
        match until {
            Until::Ended if ended => return answer(true, last, status.last_exit),
            Until::Ready if last == Phase::Ready => return answer(true, last, None),
            Until::Ready if matches!(last, Phase::Completed | Phase::Failed | Phase::Stopping) => {
                return answer(false, last, status.last_exit);
            }
            _ => {}
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() {
                return answer(false, last, None);
            },
            event = events.next() => match event {
                Some(RuntimeEvent::Exited { id: ended, code, at }) if ended == id.as_str() => {
                    let oom = match state.runtime.state(&id.into()).await {
                        Ok(Some(found)) => matches!(found.run, RunState::Exited { oom: true, .. }),
                        _ => false,
                    };
                    return answer(true, last, Some(Exit { code, oom, at, because: None }));
                }
                Some(_) => {}
                // containerd has gone: the agent reports when it is back.
                None => events = stream::pending().boxed(),
            },
        }
    }
}
