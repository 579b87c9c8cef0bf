//! Nodes.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{Json as Body, extract::State, response::Response};

use super::{
    ApiState,
    extract::Name,
    list::{Candidate, List, ListArgs, key},
    problem::{ApiError, not_found},
    view::{DataplaneView, MapView, NodeView, ProgramView},
};
use hivemind_core::model::{NodeName, Problem};

/// All nodes.
#[utoipa::path(get, operation_id = "listNodes", path = "/v1/nodes", tag = "nodes", params(ListArgs),
    responses((status = 200, body = [NodeView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, list: List) -> Result<Response, ApiError> {
    let open = list.open::<NodeView>(&state)?;
    let snapshot = Arc::clone(&open.snapshot);
    Ok(open.answer(snapshot.nodes.iter().map(|(name, row)| Candidate {
        key: key([name]),
        labels: Cow::Owned(BTreeMap::new()),
        view: || NodeView::new(&snapshot, &row.object),
    })))
}

/// A node; with its data plane, if it is the one that answers.
#[utoipa::path(get, operation_id = "getNode", path = "/v1/nodes/{name}", tag = "nodes", params(("name" = String, Path)),
    responses((status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, Name(name): Name) -> Result<Body<NodeView>, ApiError> {
    let snapshot = state.control.snapshot();
    let key: NodeName = name.parse()?;
    let there = || snapshot.nodes.keys().map(NodeName::as_str);
    let row = snapshot.nodes.get(&key).ok_or_else(|| not_found("node", &name, None, there()))?;
    let mut view = NodeView::new(&snapshot, &row.object);
    if key == state.node {
        view.dataplane = dataplane(&state).await;
    }
    Ok(Body(view))
}

async fn dataplane(state: &ApiState) -> Option<DataplaneView> {
    let info = state.datapath.info().await.ok()?;
    let (connections, repaired) = {
        let now = state.datapath.state();
        let now = now.borrow();
        (now.sweep.connections, now.repairs.total())
    };
    let program = |(name, instructions)| ProgramView { name, instructions };
    let map = |(name, capacity, bytes)| MapView { name, capacity, bytes };
    Some(DataplaneView {
        abi: info.abi,
        attach: info.attach,
        programs: info.programs.into_iter().map(program).collect(),
        maps: info.maps.into_iter().map(map).collect(),
        connections,
        repaired,
    })
}
