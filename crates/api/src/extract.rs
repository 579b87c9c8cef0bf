//! Decoding of requests; every rejection is a problem document.

use axum::{
    body::HttpBody as _,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::problem::ApiError;
use hivemind_control::IfMatch;
use hivemind_core::model::{
    AppKey, ContentKey, ErrorCode, PolicyKey, Problem, Scope, ServiceKey, TenantName, VolumeKey,
};

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let axum::Json(value) = axum::Json::<T>::from_request(request, state).await?;
        Ok(Self(value))
    }
}

/// A JSON body, or none.
pub(super) struct OptionalJson<T>(pub(super) Option<T>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if request.body().size_hint().exact() == Some(0) {
            return Ok(Self(None));
        }
        Json::from_request(request, state).await.map(|Json(value)| Self(Some(value)))
    }
}

/// A query string.
pub(super) struct Args<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Args<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

/// The query string of a change that takes none: a misspelt or misplaced `?dry_run=true` must not become the change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoArgs {}

/// `{tenant}` of the path.
pub(super) struct InTenant(pub(super) TenantName);

impl<S: Send + Sync> FromRequestParts<S> for InTenant {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(tenant) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(Self(tenant.parse()?))
    }
}

/// `{tenant}/{namespace}` of the path.
pub(super) struct InScope(pub(super) Scope);

impl<S: Send + Sync> FromRequestParts<S> for InScope {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((tenant, namespace)) = Path::<(String, String)>::from_request_parts(parts, state).await?;
        Ok(Self(scope(&tenant, &namespace)?))
    }
}

/// `{tenant}/{namespace}/{name}` of the path, the name as text.
pub(super) struct Named(pub(super) Scope, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((tenant, namespace, name)) =
            Path::<(String, String, String)>::from_request_parts(parts, state).await?;
        Ok(Self(scope(&tenant, &namespace)?, name))
    }
}

impl Named {
    /// As an app.
    pub(super) fn app(self) -> Result<AppKey, ApiError> {
        Ok(AppKey::new(self.0, self.1.parse()?))
    }

    /// As a policy.
    pub(super) fn policy(self) -> Result<PolicyKey, ApiError> {
        Ok(PolicyKey::new(self.0, self.1.parse()?))
    }

    /// As a volume.
    pub(super) fn volume(self) -> Result<VolumeKey, ApiError> {
        Ok(VolumeKey::new(self.0, self.1.parse()?))
    }

    /// As a secret or a config.
    pub(super) fn content(self) -> Result<ContentKey, ApiError> {
        Ok(ContentKey::new(self.0, self.1.parse()?))
    }

    /// As a service.
    pub(super) fn service(&self) -> Result<ServiceKey, ApiError> {
        Ok(ServiceKey::new(self.0.clone(), self.1.parse()?))
    }
}

/// `{name}` of the path, of what belongs to the whole cluster.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(Self(name))
    }
}

fn scope(tenant: &str, namespace: &str) -> Result<Scope, ApiError> {
    Ok(Scope { tenant: tenant.parse()?, namespace: namespace.parse()? })
}

/// The revision of `If-Match: "17"`; none without the header or with `*`.
pub(super) fn if_match(headers: &HeaderMap) -> Result<IfMatch, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    let why = || Problem::new(ErrorCode::BadRequest, format!("If-Match {text:?} is not an ETag of this API"));
    number.map(Some).ok_or_else(|| why().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_one_strong_etag_of_ours() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().expect("a header's value"));
            if_match(&headers).map_err(|ApiError(problem)| problem.code)
        };
        assert!(matches!(if_match(&HeaderMap::new()), Ok(None)));
        for (value, expected) in [
            ("\"17\"", Ok(Some(17))),
            (" \"0\" ", Ok(Some(0))),
            ("*", Ok(None)),
            ("17", Err(ErrorCode::BadRequest)),
            ("W/\"17\"", Err(ErrorCode::BadRequest)),
            ("\"17\", \"18\"", Err(ErrorCode::BadRequest)),
            ("\"-1\"", Err(ErrorCode::BadRequest)),
            ("\"99999999999999999999\"", Err(ErrorCode::BadRequest)),
            ("\"", Err(ErrorCode::BadRequest)),
        ] {
            assert_eq!(read(value), expected, "{value}");
        }
    }
}
