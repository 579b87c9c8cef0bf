//! Made of the API's description by `cargo xtask docs`: volumes.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// The volumes of a namespace.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/volumes`
    pub async fn list_volumes(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<VolumeView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/volumes", &parts).query(args)?;
        self.document(asked).await
    }

    /// Remove a volume with what is in it; refused while somebody uses it.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}/volumes/{name}`
    pub async fn delete_volume(&self, scope: &Scope, name: &str, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}/volumes/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// A volume; what it holds is measured now.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/volumes/{name}`
    pub async fn get_volume(&self, scope: &Scope, name: &str) -> Result<VolumeView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/volumes/{}", &parts);
        self.document(asked).await
    }

    /// Create a volume, give it other labels, or make one with a limit larger.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/volumes/{name}`
    pub async fn put_volume(
        &self,
        scope: &Scope,
        name: &str,
        body: &VolumeSpec,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/volumes/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }

    /// The volumes of all namespaces.
    ///
    /// `GET /v1/volumes`
    pub async fn list_all_volumes(&self, args: &ListAllArgs) -> Result<Vec<VolumeView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/volumes", &[]).query(args)?;
        self.document(asked).await
    }
}
