//! Who talks with whom, what was dropped, and which rule decided: live, and as it happens.

use axum::{Json as Body, extract::State, response::Response};
use futures::stream;

use super::{
    ApiState,
    events::{lines, ndjson},
    extract::Args,
    flow_args::FlowArgs,
    flow_names::Who,
    flow_view::{FlowKind, FlowView},
    problem::ApiError,
    serve::Stop,
};
use hivemind_agent::datapath::Seen;
use hivemind_core::{lifecycle::clock, model::Problem};
use hivemind_dataplane::flows::Told;

/// What one line of the stream's batches has at most: then the next batch begins.
const BATCH: usize = 256;

/// The live flows of this node, and what was dropped last; the latest come last.
#[utoipa::path(get, operation_id = "listFlows", path = "/v1/flows", tag = "flows", params(FlowArgs),
    responses((status = 200, body = [FlowView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Args(args): Args<FlowArgs>,
) -> Result<Body<Vec<FlowView>>, ApiError> {
    let args = args.check()?;
    let who = Who::now(&state).await?;
    let mut views = seen(&state, &who).await?;
    args.known(&state, &who, &views)?;
    views.retain(|view| args.wants(view));
    views.sort_by_key(|view| (view.last, view.first));
    Ok(Body(views))
}

async fn seen(state: &ApiState, who: &Who) -> Result<Vec<FlowView>, ApiError> {
    let Seen { flows, drops } = state.datapath.seen().await?;
    let flows = flows.iter().map(|flow| who.flow(FlowKind::Live, flow));
    Ok(flows.chain(drops.iter().map(|drops| who.dropped(drops))).collect())
}

/// Flows of this node as they begin and end, and packets that are dropped: a JSON document for each, from now on. What
/// a reader is too slow for is said by a document of the kind `missed`.
#[utoipa::path(get, operation_id = "watchFlows", path = "/v1/flows/watch", tag = "flows", params(FlowArgs),
    responses((status = 200, body = FlowView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn watch(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(args): Args<FlowArgs>,
) -> Result<Response, ApiError> {
    let args = args.check()?;
    {
        let who = Who::now(&state).await?;
        args.known(&state, &who, &seen(&state, &who).await?)?;
    }
    let listener = state.datapath.watch().listen()?;
    let chunks = stream::unfold((listener, state, args, None), |(mut listener, state, args, mut known)| async move {
        loop {
            let mut batch = vec![listener.next().await?];
            while let (true, Some(told)) = (batch.len() < BATCH, listener.try_next()) {
                batch.push(told);
            }
            // An error means that the daemon is stopping.
            let who = Who::lately(&state, known.take()).await.ok()?;
            let views = batch.into_iter().map(|told| match told {
                Ok(Told::Begun(flow)) => who.flow(FlowKind::Begun, &flow),
                Ok(Told::Ended(flow)) => who.flow(FlowKind::Ended, &flow),
                Ok(Told::Dropped(drops)) => who.dropped(&drops),
                Err(missed) => FlowView::missed(missed, clock::now()),
            });
            let views: Vec<_> = views.filter(|view| view.kind == FlowKind::Missed || args.wants(view)).collect();
            known = Some(who);
            if !views.is_empty() {
                return Some((Ok::<_, std::convert::Infallible>(lines(&views)), (listener, state, args, known)));
            }
        }
    });
    Ok(ndjson(chunks, stop))
}

#[cfg(test)]
#[path = "flows_tests.rs"]
pub(super) mod tests;
