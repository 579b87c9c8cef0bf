//! Health checks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How to see whether an instance is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthSpec {
    /// What to do.
    pub check: Check,
    /// Milliseconds from one check to the next, 100 to 3,600,000.
    #[serde(default = "HealthSpec::default_interval")]
    pub interval_ms: u32,
    /// Milliseconds after which a check has failed, 1 to 600,000.
    #[serde(default = "HealthSpec::default_timeout")]
    pub timeout_ms: u32,
    /// Successes in a row until an instance is Ready, 1 to 100.
    #[serde(default = "HealthSpec::default_healthy")]
    pub healthy_after: u32,
    /// Failures in a row until a Ready instance is taken out and started again, 1 to 100.
    #[serde(default = "HealthSpec::default_unhealthy")]
    pub unhealthy_after: u32,
    /// Milliseconds after the start during which failures do not count, 0 to 3,600,000.
    #[serde(default = "HealthSpec::default_start_period")]
    pub start_period_ms: u32,
}

impl HealthSpec {
    fn default_interval() -> u32 {
        5_000
    }
    fn default_timeout() -> u32 {
        2_000
    }
    fn default_healthy() -> u32 {
        1
    }
    fn default_unhealthy() -> u32 {
        3
    }
    fn default_start_period() -> u32 {
        10_000
    }

    /// `check` with the default times and thresholds.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            interval_ms: Self::default_interval(),
            timeout_ms: Self::default_timeout(),
            healthy_after: Self::default_healthy(),
            unhealthy_after: Self::default_unhealthy(),
            start_period_ms: Self::default_start_period(),
        }
    }
}

/// One kind of check. HTTP and TCP checks are made to every address of the instance; all must pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", tag = "type", deny_unknown_fields)]
pub enum Check {
    /// `GET path`; a status from 200 to 399 is well.
    Http {
        /// The instance's port.
        port: u16,
        /// The path, beginning with `/`.
        path: String,
    },
    /// A connection is accepted.
    Tcp {
        /// The instance's port.
        port: u16,
    },
    /// A command in the container ends with 0.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    },
}
