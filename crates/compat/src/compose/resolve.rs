//! What files and the environment add to a project: `env_file`, `label_file`, profiles of `security_opt`, secrets and configs
//! out of variables.

use std::{io, path::Path};

use super::{
    dotenv,
    fault::Findings,
    files::{Environment, Files, read, shown},
    model::{Project, Secret, Service},
    parse::Budget,
};
use hivemind_core::{
    model::Hidden,
    spec::v1::{MAX_CONTENT, seccomp_file},
};

/// What is read with, and what is found.
pub(super) struct Sources<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) environment: &'a Environment,
    /// Variables that files of `include` add.
    pub(super) included: &'a Environment,
    pub(super) working_dir: &'a Path,
    pub(super) budget: &'a mut Budget,
    pub(super) found: &'a mut Findings,
}

impl Sources<'_> {
    /// Fills in what enabled services, secrets and configs take from elsewhere.
    pub(super) fn resolve(&mut self, project: &mut Project) {
        let mut services = std::mem::take(&mut project.services);
        for (name, service) in &mut services {
            self.environment(project, name, service);
            self.labels(project, name, service);
            self.profiles(project, name, service);
        }
        project.services = services;
        for kind in ["secrets", "configs"] {
            let section = if kind == "secrets" { &mut project.secrets } else { &mut project.configs };
            let mut section = std::mem::take(section);
            for (name, one) in &mut section {
                self.content(project, kind, name, one);
            }
            if kind == "secrets" { project.secrets = section } else { project.configs = section }
        }
    }

    fn environment(&mut self, project: &Project, name: &str, service: &mut Service) {
        let mut values = Environment::new();
        for (at, file) in service.env_file.iter().enumerate() {
            let index = at.to_string();
            let place = project.place(&["services", name, "env_file", &index, "path"]);
            let path = format!("services.{name}.env_file[{at}]");
            let shown = shown(Path::new(&file.path), self.working_dir);
            let text = match read(self.files, Path::new(&file.path)) {
                Ok(text) => text,
                Err(_) if file.required == Some(false) && !self.files.is_file(Path::new(&file.path)) => continue,
                Err(why) => {
                    let message = format!("{shown}: {why}; write path and required: false if it may be missing");
                    self.found.fault(place, path, message);
                    continue;
                }
            };
            let own = &service.environment;
            let look = |name: &str| self.environment.get(name).cloned().or_else(|| own.get(name).cloned().flatten());
            match file.format.as_deref() {
                None => dotenv::read(&shown, &text, &look, &mut values, self.budget, self.found),
                Some("raw") => dotenv::read_raw(&text, &look, &mut values),
                Some(other) => {
                    let place = project.place(&["services", name, "env_file", &index, "format"]);
                    let message = format!("\"{other}\" is no format: write raw, or leave it out");
                    self.found.fault(place, path, message);
                }
            }
        }
        for (name, value) in values {
            service.environment.entry(name).or_insert(Some(value));
        }
    }

    fn labels(&mut self, project: &Project, name: &str, service: &mut Service) {
        let mut values = Environment::new();
        for (at, file) in service.label_file.iter().enumerate() {
            let shown = shown(Path::new(file), self.working_dir);
            match read(self.files, Path::new(file)) {
                Ok(text) => {
                    let look = |name: &str| self.environment.get(name).cloned();
                    dotenv::read(&shown, &text, &look, &mut values, self.budget, self.found);
                }
                Err(why) => {
                    let place = project.place(&["services", name, "label_file", &at.to_string()]);
                    self.found.fault(place, format!("services.{name}.label_file[{at}]"), format!("{shown}: {why}"));
                }
            }
        }
        for (name, value) in values {
            service.labels.entry(name).or_insert(value);
        }
    }

    fn profiles(&mut self, project: &Project, name: &str, service: &mut Service) {
        for (at, option) in service.security_opt.iter().enumerate() {
            let Some(file) = seccomp_file(option) else { continue };
            match read(self.files, Path::new(file)) {
                Ok(text) => drop(service.seccomp_profiles.insert(file.to_owned(), text)),
                Err(why) => {
                    let place = project.place(&["services", name, "security_opt", &at.to_string()]);
                    let message = format!("{}: {why}", shown(Path::new(file), self.working_dir));
                    self.found.fault(place, format!("services.{name}.security_opt[{at}]"), message);
                }
            }
        }
    }

    /// What a secret or config holds: out of a variable, a file, or the document itself.
    fn content(&mut self, project: &Project, kind: &str, name: &str, one: &mut Secret) {
        let grants = |service: &Service| {
            let of_build = service.build.iter().flat_map(|build| &build.secrets).filter(|_| kind == "secrets");
            let own = if kind == "secrets" { &service.secrets } else { &service.configs };
            own.iter().chain(of_build).any(|grant| grant.source == name)
        };
        if one.external == Some(true) || !project.services.values().any(grants) {
            return;
        }
        if let Some(variable) = &one.environment {
            let value = self.environment.get(variable).or_else(|| self.included.get(variable));
            match value {
                Some(value) => one.data = Some(Hidden(value.clone().into_bytes())),
                None => {
                    let place = project.place(&[kind, name, "environment"]);
                    let message = format!("the variable {variable} is not set: set it in the environment or in .env");
                    self.found.fault(place, format!("{kind}.{name}.environment"), message);
                }
            }
        }
        if let Some(text) = &one.content {
            one.data = Some(Hidden(text.clone().into_bytes()));
        }
        let Some(file) = &one.file else { return };
        let long = || format!("it is longer than {} KiB: put it into a volume", MAX_CONTENT / 1024);
        let message = match self.files.bytes(Path::new(file)) {
            Ok(bytes) if bytes.len() <= MAX_CONTENT => {
                one.data = Some(Hidden(bytes));
                return;
            }
            Ok(_) => long(),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => long(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "there is no such file".to_owned(),
            Err(error) => format!("it cannot be read: {error}"),
        };
        let shown = shown(Path::new(file), self.working_dir);
        let (place, path) = (project.place(&[kind, name, "file"]), format!("{kind}.{name}.file"));
        self.found.fault(place, path, format!("{shown}: {message}"));
    }
}
