//! Made of the API's description by `cargo xtask docs`: projects.

use super::shared::*;
use crate::documents::*;

/// What else can be asked of [`Client::delete_project`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeleteProjectArgs {
    /// Also the volumes that it has made, with all that is in them. What somebody else uses, or has made, stays.
    #[serde(skip_serializing_if = "Not::not")]
    pub volumes: bool,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(rename = "dryRun", skip_serializing_if = "Not::not")]
    pub dry_run: bool,
}

impl Client {
    /// Stop all instances of a project; when the last is gone its apps, its policies and its namespace go.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}/projects/{name}`
    pub async fn delete_project(
        &self,
        scope: &Scope,
        name: &str,
        args: &DeleteProjectArgs,
    ) -> Result<ProjectChanged, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}/projects/{}", &parts).query(args)?.keyed();
        self.document(asked).await
    }

    /// Make a project what the document says, all of it or nothing; its namespace is created with it.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/projects/{name}`
    pub async fn put_project(
        &self,
        scope: &Scope,
        name: &str,
        body: &ProjectSpec,
        args: &DryRunArgs,
    ) -> Result<ProjectChanged, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/projects/{}", &parts)
            .query(args)?
            .keyed()
            .json(body)?;
        self.document(asked).await
    }
}
