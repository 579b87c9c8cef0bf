//! Nodes.

use axum::{
    Json as Body,
    extract::{Path, State},
};

use super::{ApiState, apps::not_found, problem::ApiError, view::NodeView};
use crate::model::{NodeName, Problem};

/// All nodes.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses((status = 200, body = [NodeView])))]
pub(super) async fn list(State(state): State<ApiState>) -> Body<Vec<NodeView>> {
    let snapshot = state.control.snapshot();
    Body(snapshot.nodes.values().map(|row| NodeView::new(&snapshot, &row.object)).collect())
}

/// A node.
#[utoipa::path(get, path = "/v1/nodes/{name}", tag = "nodes", params(("name" = String, Path)),
    responses((status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Body<NodeView>, ApiError> {
    let snapshot = state.control.snapshot();
    let key: NodeName = name.parse()?;
    match snapshot.nodes.get(&key) {
        Some(row) => Ok(Body(NodeView::new(&snapshot, &row.object))),
        None => Err(not_found("node", &name, snapshot.nodes.keys().map(NodeName::as_str))),
    }
}
