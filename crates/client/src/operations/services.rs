//! Made of the API's description by `cargo xtask docs`: services.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// The services of a namespace. A service has the labels of its app.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/services`
    pub async fn list_services(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<ServiceView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/services", &parts).query(args)?;
        self.document(asked).await
    }

    /// A service, by its name or one of its DNS names.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/services/{name}`
    pub async fn get_service(&self, scope: &Scope, name: &str) -> Result<ServiceView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/services/{}", &parts);
        self.document(asked).await
    }
}
