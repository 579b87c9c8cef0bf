//! Health checks.

use std::time::Duration;

use super::{super::model::Service, Work};
use hivemind_core::spec::v1::{AppSpec, Check, HealthSpec};

/// The specification's, where nothing is said: 30 s, 30 s, 3 times, no time to start.
const INTERVAL: u32 = 30_000;
const TIMEOUT: u32 = 30_000;
const RETRIES: u32 = 3;

impl Work<'_> {
    pub(super) fn health(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let Some(check) = &service.healthcheck else { return };
        let off = check.disable == Some(true) || check.test.as_deref().is_some_and(|test| test[..] == ["NONE"]);
        if off {
            let message = "a check that the image brings is not switched off: it decides, if there is one";
            self.warn(&["services", name, "healthcheck"], message);
            return;
        }
        let Some(test) = &check.test else {
            let message = "without test the image's check runs with the image's times: these are ignored";
            self.warn(&["services", name, "healthcheck"], message);
            return;
        };
        let command = match test.split_first() {
            Some((kind, rest)) if kind == "CMD" => rest.to_vec(),
            Some((kind, [text])) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), text.clone()],
            // Checked when it was loaded.
            _ => return,
        };
        let millis = |time: Option<Duration>, default: u32| {
            time.filter(|time| !time.is_zero())
                .map_or(default, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1))
        };
        let retries = check.retries.filter(|retries| *retries > 0);
        spec.health = Some(HealthSpec {
            interval_ms: millis(check.interval, INTERVAL).max(100),
            timeout_ms: millis(check.timeout, TIMEOUT),
            start_period_ms: check.start_period.map_or(0, |time| millis(Some(time), 0)),
            unhealthy_after: retries.map_or(RETRIES, |retries| u32::try_from(retries).unwrap_or(u32::MAX)),
            ..HealthSpec::new(Check::Exec { command })
        });
    }
}
