//! Made of the API's description by `cargo xtask docs`: meta.

use crate::documents::*;

impl Client {
    /// The version of the daemon.
    ///
    /// `GET /v1/version`
    pub async fn get_version(&self) -> Result<VersionView, Problem> {
        let asked = Asked::new(Method::GET, "/v1/version", &[]);
        self.document(asked).await
    }
}
