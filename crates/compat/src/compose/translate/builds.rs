//! Images that are built, and what of a service says how.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    super::{
        build::{From, Secret, Wanted, When},
        model::{Project, Service, deploy::Build},
    },
    Work,
};

/// The name of a service's image: its own, or that of the project and the service.
pub(super) fn image(project: &Project, name: &str, service: &Service) -> String {
    let own = service.image.clone().filter(|image| service.build.is_none() || !image.is_empty());
    own.unwrap_or_else(|| format!("{}-{name}", project.name).to_lowercase())
}

/// When the image of a service is built.
fn when(service: &Service) -> When {
    let named = service.image.as_deref().is_some_and(|image| !image.is_empty());
    match service.pull_policy.as_deref() {
        Some("build") => When::Always,
        Some("never") => When::Missing,
        // What has a name of its own may be in its registry.
        _ if named => When::NowhereElse,
        _ => When::Missing,
    }
}

impl Work<'_> {
    /// Adds the image of a service to those that are built. One image is built once, for all services that name it.
    pub(super) fn build(&mut self, name: &str, service: &Service, image: &str, builds: &mut BTreeMap<String, Wanted>) {
        let Some(build) = &service.build else { return };
        if image.contains('@') {
            let message = "the image names a digest, which nobody can build: name it by a tag, or remove build";
            self.fault(&["services", name, "image"], message);
            return;
        }
        let secrets = self.of_build(name, build);
        self.contexts(name, build);
        let mut platforms = build.platforms.clone();
        match &service.platform {
            Some(platform) if platforms.is_empty() => platforms.push(platform.clone()),
            Some(platform) if !platforms.contains(platform) => {
                let message = format!("the service is to run as {platform}, which is none of these: add it");
                self.fault(&["services", name, "build", "platforms"], message);
            }
            _ => {}
        }
        let context = build.context.clone().unwrap_or_else(|| self.project.dir.to_string_lossy().into_owned());
        let wanted = Wanted {
            image: image.to_owned(),
            services: vec![name.to_owned()],
            when: when(service),
            context,
            platforms,
            secrets,
            build: build.clone(),
        };
        match builds.entry(image.to_owned()) {
            Entry::Vacant(free) => drop(free.insert(wanted)),
            Entry::Occupied(taken) => {
                let other = taken.into_mut();
                if (&other.build, &other.platforms, &other.context)
                    != (&wanted.build, &wanted.platforms, &wanted.context)
                {
                    let message = format!(
                        "{} has another build for the image {image}: give one of them another image, or both the same build",
                        other.services[0]
                    );
                    self.fault(&["services", name, "build"], message);
                    return;
                }
                other.when = other.when.max(wanted.when);
                other.services.extend(wanted.services);
            }
        }
    }

    /// The secrets of a build, with what they hold.
    fn of_build(&mut self, name: &str, build: &Build) -> Vec<Secret> {
        let mut secrets = Vec::new();
        for (at, grant) in build.secrets.iter().enumerate() {
            let Some(declared) = self.project.secrets.get(&grant.source) else { continue };
            let id = grant.target.clone().unwrap_or_else(|| grant.source.clone());
            let from = match (&declared.file, &declared.data) {
                (Some(file), _) => From::File(file.clone()),
                // No variable can hold it.
                (None, Some(data)) if data.0.contains(&0) => {
                    self.fault(&["secrets", &grant.source], "it has a zero byte: put it into a file for the build");
                    continue;
                }
                (None, Some(data)) => From::Text(data.clone()),
                (None, None) => {
                    let message = format!(
                        "{} is external: the node has it, and images are built where this is typed; give it file or environment",
                        grant.source
                    );
                    self.fault(&["services", name, "build", "secrets", &at.to_string()], message);
                    continue;
                }
            };
            secrets.push(Secret { id, from });
        }
        secrets
    }

    /// Contexts that no builder is told of.
    fn contexts(&mut self, name: &str, build: &Build) {
        let contexts = build.context.iter().map(|value| (None, value));
        let further = build.additional_contexts.iter().map(|(key, value)| (Some(key), value));
        for (key, value) in contexts.chain(further) {
            if value.starts_with("service:") || value.starts_with("target:") {
                let mut steps = vec!["services", name, "build", "context"];
                if let Some(key) = key {
                    steps.splice(3.., ["additional_contexts", key]);
                }
                let message = format!(
                    "an image that is built here is not given to another build ({value}): make it a stage of one Dockerfile, or push it and write docker-image://NAME"
                );
                self.fault(&steps, message);
            }
        }
    }
}
