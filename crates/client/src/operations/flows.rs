//! Made of the API's description by `cargo xtask docs`: flows.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// The live flows of this node, and what was dropped last; the latest come last.
    ///
    /// `GET /v1/flows`
    pub async fn list_flows(&self, args: &FlowArgs) -> Result<Vec<FlowView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/flows", &[]).query(args)?;
        self.document(asked).await
    }

    /// Flows of this node as they begin and end, and packets that are dropped: a JSON document for each, from now on.
    /// What a reader is too slow for is said by a document of the kind `missed`.
    ///
    /// `GET /v1/flows/watch`
    pub async fn watch_flows(&self, args: &FlowArgs) -> Result<Lines<FlowView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/flows/watch", &[]).query(args)?;
        self.lines(asked).await
    }
}
