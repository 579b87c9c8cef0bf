//! What is wrong with an app's checks.

use super::{AppSpec, Check, Probe};

/// The most successes or failures in a row that a health check, and the successes that a probe, may ask for.
const MAX_IN_A_ROW: u32 = 100;
/// The most failures in a row of a probe: with a period of 100 ms, a start may take a quarter of an hour.
const MAX_FAILURES: u32 = 10_000;
/// An hour.
const MAX_MS: u32 = 3_600_000;
/// The longest time that a check may take.
const MAX_TIMEOUT_MS: u32 = 600_000;

pub(super) fn check(spec: &AppSpec, fault: &mut impl FnMut(&str, String)) {
    if let Some(health) = &spec.health {
        check_kind("health", &health.check, fault);
        let numbers = [
            ("interval_ms", health.interval_ms, 100, MAX_MS),
            ("timeout_ms", health.timeout_ms, 1, MAX_TIMEOUT_MS),
            ("healthy_after", health.healthy_after, 1, MAX_IN_A_ROW),
            ("unhealthy_after", health.unhealthy_after, 1, MAX_IN_A_ROW),
            ("start_period_ms", health.start_period_ms, 0, MAX_MS),
        ];
        check_numbers("health", &numbers, fault);
        if !spec.probes.is_empty() {
            let text = "health is one check for all purposes; say either health or probes";
            fault("probes", text.into());
        }
    }
    for (probe, of) in spec.probes.iter() {
        let path = format!("probes.{}", probe.as_str());
        check_kind(&path, &of.check, fault);
        let numbers = [
            ("initial_delay_ms", of.initial_delay_ms, 0, MAX_MS),
            ("period_ms", of.period_ms, 100, MAX_MS),
            ("timeout_ms", of.timeout_ms, 1, MAX_TIMEOUT_MS),
            ("failure_threshold", of.failure_threshold, 1, MAX_FAILURES),
        ];
        check_numbers(&path, &numbers, fault);
        match probe {
            Probe::Readiness => {
                check_numbers(&path, &[("success_threshold", of.success_threshold, 1, MAX_IN_A_ROW)], fault);
            }
            Probe::Startup | Probe::Liveness if of.success_threshold != 1 => {
                let text = format!("{} is not 1; only a readiness probe may ask for more", of.success_threshold);
                fault(&format!("{path}.success_threshold"), text);
            }
            Probe::Startup | Probe::Liveness => {}
        }
    }
}

fn check_kind(path: &str, check: &Check, fault: &mut impl FnMut(&str, String)) {
    match check {
        Check::Http { path: asked, .. } if !asked.starts_with('/') => {
            fault(&format!("{path}.path"), format!("{asked:?} must begin with '/'"));
        }
        Check::Http { path: asked, .. } if asked.bytes().any(|byte| !byte.is_ascii_graphic()) => {
            let text = format!("{asked:?} has a blank or a letter that is not ASCII: write it as %XX");
            fault(&format!("{path}.path"), text);
        }
        Check::Http { port: 0, .. } | Check::Tcp { port: 0 } | Check::Grpc { port: 0, .. } => {
            fault(&format!("{path}.port"), "0 is not a port; ports are from 1 to 65535".into());
        }
        Check::Exec { command } if command.is_empty() => {
            fault(&format!("{path}.command"), "is empty".into());
        }
        Check::Http { .. } | Check::Tcp { .. } | Check::Grpc { .. } | Check::Exec { .. } => {}
    }
}

fn check_numbers(path: &str, numbers: &[(&str, u32, u32, u32)], fault: &mut impl FnMut(&str, String)) {
    for (field, value, low, high) in numbers {
        if !(low..=high).contains(&value) {
            fault(&format!("{path}.{field}"), format!("{value} is not from {low} to {high}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::v1::{HealthSpec, ProbeSpec, validate_app};

    fn grpc(port: u16) -> Check {
        Check::Grpc { port, service: String::new() }
    }

    fn faults(change: impl FnOnce(&mut AppSpec)) -> Vec<String> {
        let mut spec = AppSpec::new("web");
        change(&mut spec);
        validate_app(&spec)
    }

    #[test]
    fn three_probes_are_valid_beside_each_other() {
        let all = |spec: &mut AppSpec| {
            spec.probes.startup = Some(ProbeSpec { failure_threshold: 10_000, ..ProbeSpec::new(grpc(1)) });
            spec.probes.readiness =
                Some(ProbeSpec { success_threshold: 100, ..ProbeSpec::new(Check::Tcp { port: 1 }) });
            spec.probes.liveness = Some(ProbeSpec::new(Check::Exec { command: vec!["true".into()] }));
        };
        assert_eq!(faults(all), Vec::<String>::new());
    }

    #[test]
    fn every_fault_of_a_probe_is_named_with_its_path() {
        let wrong = |check| ProbeSpec {
            initial_delay_ms: 3_600_001,
            period_ms: 99,
            timeout_ms: 0,
            success_threshold: 2,
            failure_threshold: 0,
            ..ProbeSpec::new(check)
        };
        let found = faults(|spec| {
            spec.probes.startup = Some(wrong(grpc(0)));
            spec.probes.readiness = Some(ProbeSpec {
                success_threshold: 0,
                ..ProbeSpec::new(Check::Http { port: 1, path: "/a b".into() })
            });
            spec.probes.liveness =
                Some(ProbeSpec { success_threshold: 3, ..ProbeSpec::new(Check::Exec { command: vec![] }) });
        });
        let fields: Vec<_> = found.iter().map(|fault| fault.split(':').next().unwrap_or_default()).collect();
        let expected = [
            "probes.startup.port",
            "probes.startup.initial_delay_ms",
            "probes.startup.period_ms",
            "probes.startup.timeout_ms",
            "probes.startup.failure_threshold",
            "probes.startup.success_threshold",
            "probes.readiness.path",
            "probes.readiness.success_threshold",
            "probes.liveness.command",
            "probes.liveness.success_threshold",
        ];
        assert_eq!(fields, expected, "{found:?}");
    }

    #[test]
    fn the_one_check_and_probes_exclude_each_other() {
        let both = faults(|spec| {
            spec.health = Some(HealthSpec::new(grpc(1)));
            spec.probes.liveness = Some(ProbeSpec::new(grpc(1)));
        });
        assert_eq!(both, ["probes: health is one check for all purposes; say either health or probes"]);
    }

    #[test]
    fn a_start_may_take_as_long_as_its_probe_asks() {
        let mut spec = AppSpec::new("web");
        assert_eq!(spec.start_allowance_ms(), 0);
        spec.health = Some(HealthSpec { start_period_ms: 7_000, ..HealthSpec::new(grpc(1)) });
        assert_eq!(spec.start_allowance_ms(), 7_000);
        spec.health = None;
        spec.probes.startup = Some(ProbeSpec {
            initial_delay_ms: 1_000,
            period_ms: 2_000,
            failure_threshold: 30,
            ..ProbeSpec::new(grpc(1))
        });
        spec.probes.readiness = Some(ProbeSpec { initial_delay_ms: 500, ..ProbeSpec::new(grpc(1)) });
        assert_eq!(spec.start_allowance_ms(), 61_500);
    }
}
