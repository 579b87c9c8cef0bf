//! Names of services, which may have capitals, dots and underscores, to those of apps, which are DNS labels.

use std::collections::BTreeMap;

use super::super::{fault::Findings, model::Project};
use hivemind_core::{
    model::{AppName, PolicyName},
    spec::v1::POLICY_PREFIX,
};

/// The app of each service.
pub(super) fn apps(project: &Project, services: &[&String], found: &mut Findings) -> BTreeMap<String, AppName> {
    let mut taken: BTreeMap<AppName, &str> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for service in services {
        let mut fault = |message: String| {
            found.fault(project.place(&["services", service]), format!("services.{service}"), message);
        };
        let Some(app) = app(service) else {
            fault(format!("no name of an app can be made of {service}: use a-z, 0-9 and '-', at most 55 of them"));
            continue;
        };
        if let Some(other) = taken.insert(app.clone(), service) {
            fault(format!("the services {other} and {service} would both be the app {app}: rename one"));
        }
        names.insert((*service).clone(), app);
    }
    names
}

/// Small letters, with `-` for what no name of an app may have.
fn app(service: &str) -> Option<AppName> {
    let app = label(service)?.parse().ok()?;
    // Its policy has a name too.
    format!("{POLICY_PREFIX}{app}").parse::<PolicyName>().ok().map(|_| app)
}

/// A DNS label made of a text; `None` if nothing is left, or too much.
pub fn label(text: &str) -> Option<String> {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = text.chars().map(kept).collect();
    let label = label.trim_matches('-');
    (!label.is_empty() && label.len() <= 63).then(|| label.to_owned())
}
