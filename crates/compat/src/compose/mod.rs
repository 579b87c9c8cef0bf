//! Compose files, as the Compose Specification has them, to a typed project.
//!
//! [`load()`] finds the files, reads them ([`value`]: every node knows its file, line and column), puts variables in,
//! makes short forms long, does `extends` and `include`, merges, validates against `schema.json`, reads the typed model
//! ([`model`]) and checks what the schema cannot say. Everything that is wrong is said at once, each fault with its place
//! and its key's path ([`fault`]). Which keys the product honours is said in [`matrix`], whence `docs/compose.md` comes.
//!
//! Pure but for [`files::Files`]. Work is bounded: bytes, nodes (aliases resolved), depth, text with variables put in,
//! chains of `extends` and `include`.

pub mod build;
mod canonical;
mod check;
mod dotenv;
pub mod fault;
pub mod files;
mod forms;
mod interpolate;
mod load;
pub mod matrix;
mod merge;
pub mod model;
mod parse;
mod resolve;
mod scalar;
mod select;
mod short;
#[cfg(test)]
mod tests;
pub mod translate;
mod validate;
pub mod value;

use std::collections::BTreeMap;

use fault::{Fault, Findings};
use files::{Files, Request};
use load::Loader;
use model::{Project, Service};
pub use short::Ports;

/// A project, and what was odd in its files.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    /// The project.
    pub project: Project,
    /// What was odd, in the order of the files.
    pub warnings: Vec<Fault>,
}

/// Loads a project.
///
/// # Errors
/// Everything that is wrong with it, and what was odd.
pub fn load(request: &Request, files: &dyn Files) -> Result<Loaded, Findings> {
    let mut found = Findings::default();
    let project = try_load(request, files, &mut found);
    let found = found.sorted();
    match project {
        Some(project) if found.good() => Ok(Loaded { project, warnings: found.warnings }),
        _ => Err(found),
    }
}

/// The name of a project, also of one whose services are wrong.
///
/// # Errors
/// If there is no file, or no name can be had of it.
pub fn name(request: &Request, files: &dyn Files) -> Result<String, Findings> {
    let (mut found, mut budget) = (Findings::default(), parse::Budget::default());
    let named = files::start(request, files, &mut budget, &mut found).map(|start| {
        let mut loader = Loader::new(files, &request.working_dir, &mut budget, &mut found);
        select::name(request, &start, &mut loader)
    });
    named.filter(|name| found.good() && !name.is_empty()).ok_or_else(|| found.sorted())
}

fn try_load(request: &Request, files: &dyn Files, found: &mut Findings) -> Option<Project> {
    let mut budget = parse::Budget::default();
    let mut start = files::start(request, files, &mut budget, found)?;
    let mut loader = Loader::new(files, &request.working_dir, &mut budget, found);
    let name = select::name(request, &start, &mut loader);
    start.environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    let model = loader.model(&start.files, &start.dir, &start.environment, &[], None);
    let included = std::mem::take(&mut loader.included);
    let Some(mut document) = model else {
        if found.good() {
            let file = files::shown(&start.files[0], &request.working_dir);
            found.fault(&value::Place::whole(&file), "", "the file is empty: it needs services");
        }
        return None;
    };
    select::version(&mut document, found);
    validate::document(&document, found);
    if !found.good() {
        return None;
    }
    let all: BTreeMap<String, Service> = model::section(&document, "services", found);
    let (services, disabled) = select::services(all, request, &start.environment, found);
    let mut project = Project {
        name,
        dir: start.dir,
        services,
        disabled,
        networks: model::section(&document, "networks", found),
        volumes: model::section(&document, "volumes", found),
        secrets: model::section(&document, "secrets", found),
        configs: model::section(&document, "configs", found),
        document,
    };
    select::complete(&mut project);
    let sources = resolve::Sources {
        files,
        environment: &start.environment,
        included: &included,
        working_dir: &request.working_dir,
        budget: &mut budget,
        found,
    };
    { sources }.resolve(&mut project);
    check::project(&mut project, found);
    Some(project)
}
