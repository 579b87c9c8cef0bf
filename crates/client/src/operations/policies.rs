//! Made of the API's description by `cargo xtask docs`: policies.

use super::shared::*;
use crate::documents::*;

impl Client {
    /// The policies of all namespaces.
    ///
    /// `GET /v1/policies`
    pub async fn list_all_policies(&self, args: &ListAllArgs) -> Result<Vec<PolicyView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/policies", &[]).query(args)?;
        self.document(asked).await
    }

    /// The policies of a namespace.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/policies`
    pub async fn list_policies(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<PolicyView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/policies", &parts).query(args)?;
        self.document(asked).await
    }

    /// Remove a policy.
    ///
    /// `DELETE /v1/tenants/{tenant}/namespaces/{namespace}/policies/{name}`
    pub async fn delete_policy(&self, scope: &Scope, name: &str, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/namespaces/{}/policies/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// A policy, with how many instances it is about now.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/policies/{name}`
    pub async fn get_policy(&self, scope: &Scope, name: &str) -> Result<PolicyView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/policies/{}", &parts);
        self.document(asked).await
    }

    /// Create a policy or change it.
    ///
    /// `PUT /v1/tenants/{tenant}/namespaces/{namespace}/policies/{name}`
    pub async fn put_policy(
        &self,
        scope: &Scope,
        name: &str,
        body: &PolicySpec,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/namespaces/{}/policies/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }

    /// Would packets pass, and which rule of which policy decides.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/why`
    pub async fn why(&self, scope: &Scope, body: &WhyBody) -> Result<Vec<WhyView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/why", &parts).json(body)?;
        self.document(asked).await
    }

    /// Remove a policy of a tier of a tenant.
    ///
    /// `DELETE /v1/tenants/{tenant}/tier-policies/{name}`
    pub async fn delete_tier_policy_of_tenant(
        &self,
        tenant: &str,
        name: &str,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [tenant, name];
        let asked = Asked::new(Method::DELETE, "/v1/tenants/{}/tier-policies/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed();
        self.document(asked).await
    }

    /// A policy of a tier of a tenant.
    ///
    /// `GET /v1/tenants/{tenant}/tier-policies/{name}`
    pub async fn get_tier_policy_of_tenant(&self, tenant: &str, name: &str) -> Result<TierView, Problem> {
        let parts = [tenant, name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/tier-policies/{}", &parts);
        self.document(asked).await
    }

    /// Create a policy of a tier about the namespaces of a tenant, or change it.
    ///
    /// `PUT /v1/tenants/{tenant}/tier-policies/{name}`
    pub async fn put_tier_policy_of_tenant(
        &self,
        tenant: &str,
        name: &str,
        body: &TierSpec,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let parts = [tenant, name];
        let asked = Asked::new(Method::PUT, "/v1/tenants/{}/tier-policies/{}", &parts)
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }

    /// All policies of tiers.
    ///
    /// `GET /v1/tier-policies`
    pub async fn list_tier_policies(&self, args: &ListArgs) -> Result<Vec<TierView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/tier-policies", &[]).query(args)?;
        self.document(asked).await
    }

    /// Remove a policy of a tier of the operator's.
    ///
    /// `DELETE /v1/tier-policies/{name}`
    pub async fn delete_tier_policy(&self, name: &str, args: &ChangeArgs) -> Result<ChangedView, Problem> {
        let asked =
            Asked::new(Method::DELETE, "/v1/tier-policies/{}", &[name]).query(args)?.only_if(args.if_match).keyed();
        self.document(asked).await
    }

    /// A policy of a tier of the operator's.
    ///
    /// `GET /v1/tier-policies/{name}`
    pub async fn get_tier_policy(&self, name: &str) -> Result<TierView, Problem> {
        let asked = Asked::new(Method::GET, "/v1/tier-policies/{}", &[name]);
        self.document(asked).await
    }

    /// Create a policy of a tier for the whole cluster, or change it.
    ///
    /// `PUT /v1/tier-policies/{name}`
    pub async fn put_tier_policy(
        &self,
        name: &str,
        body: &TierSpec,
        args: &ChangeArgs,
    ) -> Result<ChangedView, Problem> {
        let asked = Asked::new(Method::PUT, "/v1/tier-policies/{}", &[name])
            .query(args)?
            .only_if(args.if_match)
            .keyed()
            .json(body)?;
        self.document(asked).await
    }
}
