//! Errors on the wire: RFC 9457.

use axum::{
    extract::rejection::{JsonRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    control::ControlError,
    model::{ErrorCode, InvalidName, Problem},
    runtime::RuntimeError,
};

/// A handler's error.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Problem);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_value(&problem).unwrap_or_default();
        body["status"] = json!(status.as_u16());
        body["type"] = json!(format!("urn:hivemind:{}", problem.code));
        let mut response = (status, body.to_string()).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        Self(error.into())
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self(Problem::new(ErrorCode::Invalid, error.to_string()))
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let code = match &error {
            RuntimeError::NotRunning { .. } => ErrorCode::NotRunning,
            RuntimeError::Unavailable { .. } => ErrorCode::NoContainerd,
            RuntimeError::DiskFull { .. } => ErrorCode::DiskFull,
            _ => ErrorCode::Internal,
        };
        Self(Problem::new(code, error.to_string()))
    }
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        let code = match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
            // The document is JSON, but not this document: an unknown field, a wrong type.
            StatusCode::UNPROCESSABLE_ENTITY => ErrorCode::Invalid,
            _ => ErrorCode::BadRequest,
        };
        Self(Problem::new(code, error.body_text()))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self(Problem::new(ErrorCode::BadRequest, error.body_text()))
    }
}
