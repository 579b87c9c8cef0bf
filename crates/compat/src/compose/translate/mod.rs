//! A typed project to what the API takes: an app for each service, and a policy for each that keeps its networks apart.
//!
//! What the product does not honour is found by the [`matrix`](super::matrix), key by key, with its place; what depends on
//! a value is found here. Nothing is left out without a word: it is refused, or told. Pure.

mod builds;
mod container;
mod contents;
mod health;
mod logging;
mod names;
mod networks;
mod ports;
mod process;
mod resources;
mod storage;
#[cfg(test)]
mod tests;

pub use names::label;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Loaded,
    build::Wanted,
    fault::{Fault, Findings},
    matrix::{self, Stance},
    model::{
        Project, Service,
        service::{Condition, Dependency},
    },
    value::Place,
};
use hivemind_core::{
    model::{AppName, ContentKind, ContentName, PolicyName, VolumeName},
    spec::v1::{
        self, AppSpec, ContentSpec, PROJECT_LABEL, PolicySpec, PullPolicy, SERVICE_LABEL, VolumeSpec, validate_app,
    },
};

/// What a command line says beside the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How many instances of which services.
    pub scale: BTreeMap<String, u32>,
    /// Services that are brought up without those that come before them; empty: all, with them.
    pub alone: BTreeSet<String>,
    /// When images are fetched, instead of what the files say.
    pub pull: Option<PullPolicy>,
}

/// A project as the API takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translated {
    /// The apps.
    pub apps: BTreeMap<AppName, AppSpec>,
    /// The app of each service.
    pub names: BTreeMap<String, AppName>,
    /// The policies.
    pub policies: BTreeMap<PolicyName, PolicySpec>,
    /// The secrets.
    pub secrets: BTreeMap<ContentName, ContentSpec>,
    /// The configs.
    pub configs: BTreeMap<ContentName, ContentSpec>,
    /// What is asked for of its volumes.
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
    /// Volumes that are of elsewhere, and must be there.
    pub external_volumes: BTreeSet<VolumeName>,
    /// Apps of services that are not enabled, or were not named.
    pub others: BTreeSet<AppName>,
    /// Images that are built, by their names.
    pub builds: BTreeMap<String, Wanted>,
    /// What is not honoured, and what was odd in the files.
    pub warnings: Vec<Fault>,
}

/// What a service is translated with.
struct Work<'a> {
    project: &'a Project,
    names: &'a BTreeMap<String, AppName>,
    found: &'a mut Findings,
}

/// Translates a project.
///
/// # Errors
/// Everything in it that is refused, and what else is not honoured.
pub fn translate(loaded: &Loaded, options: &Options) -> Result<Translated, Findings> {
    let project = &loaded.project;
    let mut found = Findings { faults: Vec::new(), warnings: loaded.warnings.clone() };
    keys(project, &mut found);
    let all: Vec<&String> = project.services.keys().chain(project.disabled.keys()).collect();
    let names = names::apps(project, &all, &mut found);
    for service in options.scale.keys().filter(|service| !project.services.contains_key(*service)) {
        let message = format!("--scale {service}: the project has no service of this name that is brought up");
        found.fault(&Place::whole("command line"), "", message);
    }
    let mut made = Translated::default();
    let mut brought = BTreeSet::new();
    let mut work = Work { project, names: &names, found: &mut found };
    for (name, service) in &project.services {
        if !options.alone.is_empty() && !options.alone.contains(name) {
            continue;
        }
        let Some(app) = names.get(name) else { continue };
        brought.insert(name);
        let mut spec = work.service(name, service);
        if let Some(count) = options.scale.get(name) {
            spec.replicas = *count;
        }
        // What is built is there, exactly as it was built.
        if let Some(pull) = options.pull.filter(|_| service.build.is_none()) {
            spec.pull = pull;
        }
        if !options.alone.is_empty() {
            spec.depends_on.clear();
        }
        work.build(name, service, &spec.image, &mut made.builds);
        work.valid(name, &spec);
        if let Some((policy, rules)) = work.policy(name, app, &spec) {
            made.policies.insert(policy, rules);
        }
        made.apps.insert(app.clone(), spec);
    }
    (made.secrets, made.configs) = (work.contents(ContentKind::Secret), work.contents(ContentKind::Config));
    (made.volumes, made.external_volumes) = work.volumes(&brought);
    if !found.good() {
        return Err(found.sorted());
    }
    made.others = names.values().filter(|app| !made.apps.contains_key(*app)).cloned().collect();
    made.names = names;
    made.warnings = found.sorted().warnings;
    Ok(made)
}

/// Keys that the table refuses or ignores, wherever they stand in what is brought up.
fn keys(project: &Project, found: &mut Findings) {
    for used in matrix::uses(&project.document) {
        let mut steps = used.path.splitn(3, '.');
        let off = steps.next() == Some("services") && steps.next().is_some_and(|name| !on(project, name));
        match used.stance {
            _ if off || used.empty => {}
            Stance::Refused(why) => found.fault(&used.place, used.path, why),
            Stance::Ignored(why) => found.warn(&used.place, used.path, why),
            Stance::Honoured | Stance::Differently(_) => {}
        }
    }
}

/// Whether a service is brought up. Names may have dots, of which only the first part is left here.
fn on(project: &Project, first: &str) -> bool {
    project.services.keys().any(|name| name.split('.').next() == Some(first))
}

impl Work<'_> {
    fn fault(&mut self, steps: &[&str], message: impl Into<String>) {
        self.found.fault(self.project.place(steps), path(steps), message);
    }

    fn warn(&mut self, steps: &[&str], message: impl Into<String>) {
        self.found.warn(self.project.place(steps), path(steps), message);
    }

    fn service(&mut self, name: &str, service: &Service) -> AppSpec {
        let mut spec = AppSpec::new(builds::image(self.project, name, service));
        spec.labels.clone_from(&service.labels);
        for (key, value) in service.annotations.iter().chain(&service.deploy.labels) {
            spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for label in [PROJECT_LABEL, SERVICE_LABEL] {
            if spec.labels.contains_key(label) {
                self.fault(
                    &["services", name, "labels"],
                    format!("{label} is a label that is set by itself: remove it"),
                );
            }
        }
        spec.labels.insert(PROJECT_LABEL.into(), self.project.name.clone());
        spec.labels.insert(SERVICE_LABEL.into(), name.to_owned());
        self.count(name, service, &mut spec);
        self.process(name, service, &mut spec);
        self.resources(name, service, &mut spec);
        self.container(name, service, &mut spec);
        self.mounts(name, service, &mut spec);
        self.files(name, service, &mut spec);
        self.update(service, &mut spec);
        self.ports(name, service, &mut spec);
        self.health(name, service, &mut spec);
        self.logging(name, service, &mut spec);
        self.networks(name, service, &mut spec);
        self.depends(name, service, &mut spec);
        spec
    }

    fn count(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let count = service.scale.or(service.deploy.replicas).unwrap_or(1);
        spec.replicas = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(mode @ ("global-job" | "replicated-job")) = service.deploy.mode.as_deref() {
            let message = format!("{mode} is not known here: use restart: \"no\", and what waits for its end");
            self.fault(&["services", name, "deploy", "mode"], message);
        }
    }

    fn depends(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let links = service.links.iter().map(|link| link.split(':').next().unwrap_or(link).to_owned());
        let started = Dependency { condition: Condition::Started, restart: None, required: None };
        let linked = links.map(|first| (first, started.clone()));
        // What is said of a service that is linked too goes before the link.
        let all: BTreeMap<String, Dependency> = linked.chain(service.depends_on.clone()).collect();
        for (first, how) in all {
            let Some(app) = self.names.get(&first).filter(|_| self.project.services.contains_key(&first)) else {
                continue;
            };
            let condition = match how.condition {
                Condition::Started => v1::Condition::Started,
                Condition::Healthy => v1::Condition::Healthy,
                Condition::Completed => v1::Condition::Completed,
            };
            if condition == v1::Condition::Completed && self.project.services.get(&first).is_some_and(process::is_kept)
            {
                let message = format!(
                    "{first} is started again whenever it ends, so that it never completes: give it restart: \"no\" or on-failure"
                );
                self.fault(&["services", name, "depends_on", &first], message);
            }
            let restart = how.restart == Some(true);
            spec.depends_on.insert(app.clone(), v1::Dependency { condition, restart });
        }
    }

    /// What the API would refuse is told with the service's place.
    fn valid(&mut self, name: &str, spec: &AppSpec) {
        for fault in validate_app(spec) {
            self.fault(&["services", name], fault);
        }
    }
}

/// A path as messages have it: numbers are indexes.
fn path(steps: &[&str]) -> String {
    super::check::path(steps)
}
