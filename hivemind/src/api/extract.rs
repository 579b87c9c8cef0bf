//! Decoding of requests; every rejection is a problem document.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::ApiError;
use crate::{
    control::IfMatch,
    model::{AppKey, ErrorCode, Problem, Scope, ServiceKey},
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

/// A query string.
pub(super) struct Args<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Args<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

/// `{tenant}/{namespace}` of the path.
pub(super) struct InScope(pub(super) Scope);

impl<S: Send + Sync> FromRequestParts<S> for InScope {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(names) = path::<(String, String), S>(parts, state).await?;
        Ok(Self(scope(&names.0, &names.1)?))
    }
}

/// `{tenant}/{namespace}/{name}` of the path, the name as text.
pub(super) struct Named(pub(super) Scope, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((tenant, namespace, name)) = path::<(String, String, String), S>(parts, state).await?;
        Ok(Self(scope(&tenant, &namespace)?, name))
    }
}

impl Named {
    /// As an app.
    pub(super) fn app(self) -> Result<AppKey, ApiError> {
        Ok(AppKey::new(self.0, self.1.parse()?))
    }

    /// As a service.
    pub(super) fn service(self) -> Result<ServiceKey, ApiError> {
        Ok(ServiceKey::new(self.0, self.1.parse()?))
    }
}

async fn path<T: DeserializeOwned + Send, S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError> {
    Path::<T>::from_request_parts(parts, state)
        .await
        .map_err(|error| Problem::new(ErrorCode::BadRequest, error.body_text()).into())
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
