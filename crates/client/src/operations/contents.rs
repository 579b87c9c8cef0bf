//! Made of the API's description by `cargo xtask docs`: contents.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// The configs of all namespaces, without their contents.
    ///
    /// `GET /v1/configs`
    pub async fn list_all_configs(&self, args: &ListAllArgs) -> Result<Vec<ContentView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/configs", &[]).query(args)?;
        self.document(asked).await
    }

    /// The secrets of all namespaces, without their contents.
    ///
    /// `GET /v1/secrets`
    pub async fn list_all_secrets(&self, args: &ListAllArgs) -> Result<Vec<ContentView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/secrets", &[]).query(args)?;
        self.document(asked).await
    }

    /// The configs of a namespace, without their contents.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/configs`
    pub async fn list_configs(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<ContentView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/configs", &parts).query(args)?;
        self.document(asked).await
    }

    /// Remove a config; refused while somebody uses it.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}/configs/{name}`
    pub async fn delete_config(&self, scope: &Scope, name: &str, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}/configs/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// A config; with its content.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/configs/{name}`
    pub async fn get_config(&self, scope: &Scope, name: &str) -> Result<ContentView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/configs/{}", &parts);
        self.document(asked).await
    }

    /// Create a config, or give it another content.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/configs/{name}`
    pub async fn put_config(
        &self,
        scope: &Scope,
        name: &str,
        body: &ContentSpec,
        args: &ContentArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/configs/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }

    /// The secrets of a namespace, without their contents.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/secrets`
    pub async fn list_secrets(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<ContentView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/secrets", &parts).query(args)?;
        self.document(asked).await
    }

    /// Remove a secret; refused while somebody uses it.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}/secrets/{name}`
    pub async fn delete_secret(&self, scope: &Scope, name: &str, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}/secrets/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// A secret; its content is never shown.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/secrets/{name}`
    pub async fn get_secret(&self, scope: &Scope, name: &str) -> Result<ContentView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/secrets/{}", &parts);
        self.document(asked).await
    }

    /// Create a secret, or give it another content.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/secrets/{name}`
    pub async fn put_secret(
        &self,
        scope: &Scope,
        name: &str,
        body: &ContentSpec,
        args: &ContentArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/secrets/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }
}
