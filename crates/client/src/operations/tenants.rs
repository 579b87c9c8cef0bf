//! Made of the API's description by `cargo xtask docs`: tenants.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// All tenants.
    ///
    /// `GET /v1/tenants`
    pub async fn list_tenants(&self, args: &ListArgs) -> Result<Vec<TenantView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/tenants", &[]).query(args)?;
        self.document(asked).await
    }

    /// Remove a tenant with its namespaces; refused while there are apps, policies or volumes in them.
    ///
    /// `DELETE /v1/tenants/{tenant}`
    pub async fn delete_tenant(&self, tenant: &str, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}", &[tenant]).query(args)?.only_if(args.if_match).keyed();
        self.document(asked).await
    }

    /// A tenant.
    ///
    /// `GET /v1/tenants/{tenant}`
    pub async fn get_tenant(&self, tenant: &str) -> Result<TenantView, Problem> {
        let asked = Asked::new(Method::GET, "/v1/tenants/{}", &[tenant]);
        self.document(asked).await
    }

    /// Create a tenant, or give it other limits; without a body it keeps those that it has.
    ///
    /// `PUT /v1/tenants/{tenant}`
    pub async fn put_tenant(
        &self,
        tenant: &str,
        body: Option<&TenantBody>,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}", &[tenant])
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .optional(body)?;
        self.document(asked).await
    }

    /// The namespaces of a tenant.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces`
    pub async fn list_namespaces(&self, tenant: &str, args: &ListArgs) -> Result<Vec<NamespaceView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces", &[tenant]).query(args)?;
        self.document(asked).await
    }

    /// Remove a namespace; refused while there are apps, policies or volumes in it.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}`
    pub async fn delete_namespace(&self, scope: &Scope, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// A namespace.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}`
    pub async fn get_namespace(&self, scope: &Scope) -> Result<NamespaceView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}", &parts);
        self.document(asked).await
    }

    /// Create a namespace, or give it other labels.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}`
    pub async fn put_namespace(
        &self,
        scope: &Scope,
        body: &NamespaceBody,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }
}
