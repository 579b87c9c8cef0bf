//! Made of the API's description by `cargo xtask docs`: apps.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// The apps of all namespaces.
    ///
    /// `GET /v1/apps`
    pub async fn list_all_apps(&self, args: &ListAllArgs) -> Result<Vec<AppView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/apps", &[]).query(args)?;
        self.document(asked).await
    }

    /// The apps of a namespace.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/apps`
    pub async fn list_apps(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<AppView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/apps", &parts).query(args)?;
        self.document(asked).await
    }

    /// Stop the instances of an app and remove it.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}`
    pub async fn delete_app(&self, scope: &Scope, name: &str, args: &ChangeArgs) -> Result<AppWritten, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}/apps/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// An app.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}`
    pub async fn get_app(&self, scope: &Scope, name: &str) -> Result<AppView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/apps/{}", &parts);
        self.document(asked).await
    }

    /// Create an app or change it.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}`
    pub async fn put_app(
        &self,
        scope: &Scope,
        name: &str,
        body: &AppSpec,
        args: &ChangeArgs,
    ) -> Result<AppWritten, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/apps/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }

    /// The generations of an app that are kept, oldest first.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/history`
    pub async fn get_app_history(&self, scope: &Scope, name: &str) -> Result<Vec<Past>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/apps/{}/history", &parts);
        self.document(asked).await
    }

    /// Replace all instances, one after the other.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/restart`
    pub async fn restart_app(&self, scope: &Scope, name: &str, args: &ChangeArgs) -> Result<AppWritten, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/apps/{}/restart", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// Go back to a former generation of an app, with as many instances as it has now.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/rollback`
    pub async fn roll_back_app(
        &self,
        scope: &Scope,
        name: &str,
        body: &RollBack,
        args: &ChangeArgs,
    ) -> Result<AppWritten, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/apps/{}/rollback", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }

    /// Change the number of instances.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/apps/{name}/scale`
    pub async fn scale_app(
        &self,
        scope: &Scope,
        name: &str,
        body: &Scale,
        args: &ChangeArgs,
    ) -> Result<AppWritten, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/apps/{}/scale", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }
}
