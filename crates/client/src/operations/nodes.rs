//! Made of the API's description by `cargo xtask docs`: nodes.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// All nodes.
    ///
    /// `GET /v1/nodes`
    pub async fn list_nodes(&self, args: &ListArgs) -> Result<Vec<NodeView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/nodes", &[]).query(args)?;
        self.document(asked).await
    }

    /// A node; with its data plane, if it is the one that answers.
    ///
    /// `GET /v1/nodes/{name}`
    pub async fn get_node(&self, name: &str) -> Result<NodeView, Problem> {
        let asked = Asked::new(Method::GET, "/v1/nodes/{}", &[name]);
        self.document(asked).await
    }
}
