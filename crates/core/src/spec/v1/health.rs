//! Health checks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How to see whether an instance is well, by one check for everything. Until it passes first, the instance starts: failures
/// count when the start period is over. From then on it decides both whether the instance is served and whether its process
/// must be started again. Where these are to be apart there are [`ProbesSpec`].
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

/// What a probe is for, as in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// Whether the process has started: the others begin when it has passed. When it fails, the process is started again.
    Startup,
    /// Whether the instance is to be served. When it fails, the process stays as it is.
    Readiness,
    /// Whether the process works. When it fails, it is started again.
    Liveness,
}

impl Probe {
    /// The name of the field in [`ProbesSpec`], and what people read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

/// Checks for one purpose each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbesSpec {
    /// Whether the process has started. The other two begin when it has passed once; when it fails, the process is started
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<ProbeSpec>,
    /// Whether the instance is to be served. While it fails, nothing new is sent there; its process stays as it is. Without
    /// it, an instance that has started is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ProbeSpec>,
    /// Whether the process works. When it fails, the process is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<ProbeSpec>,
}

impl ProbesSpec {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Those that there are, in the order in which they begin.
    pub fn iter(&self) -> impl Iterator<Item = (Probe, &ProbeSpec)> {
        let all =
            [(Probe::Startup, &self.startup), (Probe::Readiness, &self.readiness), (Probe::Liveness, &self.liveness)];
        all.into_iter().filter_map(|(probe, spec)| Some((probe, spec.as_ref()?)))
    }
}

/// A check for one purpose. Names and defaults are those of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeSpec {
    /// What to do.
    pub check: Check,
    /// Milliseconds from the start of the process to the first check, 0 to 3,600,000.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub initial_delay_ms: u32,
    /// Milliseconds from one check to the next, 100 to 3,600,000. Until a startup or readiness probe has passed, there are
    /// more checks between, so that what passes is seen soon; their failures are not counted.
    #[serde(default = "ProbeSpec::default_period")]
    pub period_ms: u32,
    /// Milliseconds after which a check has failed, 1 to 600,000.
    #[serde(default = "ProbeSpec::default_timeout")]
    pub timeout_ms: u32,
    /// Successes in a row until it has passed, 1 to 100; 1 for startup and liveness.
    #[serde(default = "ProbeSpec::default_success")]
    pub success_threshold: u32,
    /// Failures in a row until it has failed, 1 to 10,000.
    #[serde(default = "ProbeSpec::default_failure")]
    pub failure_threshold: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl ProbeSpec {
    fn default_period() -> u32 {
        10_000
    }
    fn default_timeout() -> u32 {
        1_000
    }
    fn default_success() -> u32 {
        1
    }
    fn default_failure() -> u32 {
        3
    }

    /// `check` with the default times and thresholds.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            initial_delay_ms: 0,
            period_ms: Self::default_period(),
            timeout_ms: Self::default_timeout(),
            success_threshold: Self::default_success(),
            failure_threshold: Self::default_failure(),
        }
    }

    /// The longest time in milliseconds that it may take from the start of the process to the last failure that counts.
    fn allowance_ms(&self) -> i64 {
        i64::from(self.initial_delay_ms) + i64::from(self.period_ms) * i64::from(self.failure_threshold)
    }
}

/// How long, in milliseconds, a process may take to start by what is said of its health, before anything is wrong with it.
pub(super) fn start_allowance_ms(health: Option<&HealthSpec>, probes: &ProbesSpec) -> i64 {
    let startup = probes.startup.as_ref().map_or(0, ProbeSpec::allowance_ms);
    let delay = probes.readiness.as_ref().map_or(0, |probe| i64::from(probe.initial_delay_ms));
    health.map_or(0, |health| i64::from(health.start_period_ms)).max(startup.saturating_add(delay))
}

/// One kind of check. Those of a port are made to every address of the instance; all must pass.
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
    /// The server says of itself that it is `SERVING`, by `grpc.health.v1.Health/Check` without TLS
    /// (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
    Grpc {
        /// The instance's port.
        port: u16,
        /// The service that is asked for; empty is the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
    /// A command in the container ends with 0.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    },
}
