//! Which services a project has: profiles, services that were named, and what those need; and a project's name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    fault::{Findings, nearest},
    files::{Environment, Request, Start, shown},
    interpolate,
    load::Loader,
    model::{Project, Service},
    value::{Data, Node, Place},
};

/// A name with only what may be in one.
fn normal(name: &str) -> String {
    let kept = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let name: String = name.to_lowercase().chars().filter(kept).collect();
    name.trim_start_matches(['_', '-']).to_owned()
}

const RULE: &str = "a project's name has small letters, digits, '_' and '-', and begins with a letter or digit";

/// The project's name: `--project-name`, `COMPOSE_PROJECT_NAME`, `name:` of the last file that has one, the folder's.
pub(super) fn name(request: &Request, start: &Start, loader: &mut Loader<'_>) -> String {
    let variable = start.environment.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty());
    let said = request.project_name.as_ref().map(|name| ("--project-name", name));
    if let Some((place, name)) = said.or(variable.map(|name| ("COMPOSE_PROJECT_NAME", name))) {
        if normal(name) != *name || name.is_empty() {
            loader.found.fault(&Place::whole(place), "", format!("\"{name}\" is not allowed: {RULE}"));
        }
        return name.clone();
    }
    if let Some(name) = of_files(start, loader) {
        return name;
    }
    let folder = start.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = normal(&folder);
    if name.is_empty() {
        let message = format!("the folder {} gives no name for the project: use --project-name", start.dir.display());
        loader.found.fault(&Place::whole(&shown(&start.files[0], &request.working_dir)), "", message);
    }
    name
}

fn of_files(start: &Start, loader: &mut Loader<'_>) -> Option<String> {
    let mut named = None;
    for path in &start.files {
        for document in loader.raw(Path::new(path), None).iter() {
            if let Some(node) = document.get("name").filter(|node| node.text().is_some_and(|text| !text.is_empty())) {
                named = Some(node.clone());
            }
        }
    }
    let node = named?;
    let look = |name: &str| start.environment.get(name).cloned();
    // What is wrong with it is told when the file's variables are put in.
    let text = interpolate::substitute(node.text()?, &look, &mut Vec::new()).ok()?;
    let name = normal(&text);
    if name.is_empty() {
        loader.found.fault(&node.place, "name", format!("\"{text}\" is not allowed: {RULE}"));
    } else if name != text {
        loader.found.warn(&node.place, "name", format!("\"{text}\" is taken as {name}: {RULE}"));
    }
    Some(name)
}

/// Profiles that are active: flags, or `COMPOSE_PROFILES`.
fn profiles(request: &Request, environment: &Environment) -> BTreeSet<String> {
    let variable = environment.get("COMPOSE_PROFILES").map_or("", String::as_str);
    let listed = variable.split(',').map(|name| name.trim().to_owned());
    request.profiles.iter().cloned().chain(listed).filter(|name| !name.is_empty()).collect()
}

/// Parts the services into those that are enabled and others.
pub(super) fn services(
    mut all: BTreeMap<String, Service>,
    request: &Request,
    environment: &Environment,
    found: &mut Findings,
) -> (BTreeMap<String, Service>, BTreeMap<String, Service>) {
    let mut active = profiles(request, environment);
    for name in &request.services {
        match all.get(name) {
            // To name a service is to enable its profiles.
            Some(service) => active.extend(service.profiles.iter().cloned()),
            None => {
                let near = nearest(name, all.keys().map(String::as_str));
                let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                found.fault(&Place::whole(name), "", format!("the project has no service of this name{near}"));
            }
        }
    }
    let enabled = |service: &Service| {
        service.profiles.is_empty()
            || active.contains("*")
            || service.profiles.iter().any(|profile| active.contains(profile))
    };
    let mut kept: BTreeSet<String> =
        all.iter().filter(|(_, service)| enabled(service)).map(|(name, _)| name.clone()).collect();
    if !request.services.is_empty() {
        let mut wanted = BTreeSet::new();
        let mut open: Vec<String> = request.services.clone();
        while let Some(name) = open.pop() {
            if let Some(service) = all.get(&name).filter(|_| kept.contains(&name) && !wanted.contains(&name)) {
                open.extend(needs(service).map(|(name, _)| name.to_owned()));
                wanted.insert(name);
            }
        }
        kept = wanted;
    }
    let disabled = all.keys().filter(|name| !kept.contains(*name)).cloned().collect::<Vec<_>>();
    let disabled = disabled.into_iter().filter_map(|name| all.remove_entry(&name)).collect();
    (all, disabled)
}

/// The services that a service needs, and by which key it says so.
pub(super) fn needs(service: &Service) -> impl Iterator<Item = (&str, &'static str)> {
    fn after(text: &Option<String>) -> Option<&str> {
        text.as_deref()?.strip_prefix("service:")
    }
    let links = service.links.iter().map(|link| (link.split(':').next().unwrap_or(link), "links"));
    let shared =
        [(after(&service.network_mode), "network_mode"), (after(&service.ipc), "ipc"), (after(&service.pid), "pid")];
    let shared = shared.into_iter().filter_map(|(name, key)| Some((name?, key)));
    service.depends_on.keys().map(|name| (name.as_str(), "depends_on")).chain(links).chain(shared)
}

/// Puts services without networks into `default`, and gives everything its name beyond the project.
pub(super) fn complete(project: &mut Project) {
    let mut default = project.services.values().any(|service| service.networks.contains_key("default"));
    for service in project.services.values_mut() {
        if service.networks.is_empty() && service.network_mode.is_none() {
            service.networks.insert("default".to_owned(), None);
            default = true;
        }
    }
    if default {
        project.networks.entry("default".to_owned()).or_default();
    }
    let prefix = project.name.clone();
    let full = |name: &mut Option<String>, key: &str, external: Option<bool>| {
        name.get_or_insert_with(|| if external == Some(true) { key.to_owned() } else { format!("{prefix}_{key}") });
    };
    project.networks.iter_mut().for_each(|(key, one)| full(&mut one.name, key, one.external));
    project.volumes.iter_mut().for_each(|(key, one)| full(&mut one.name, key, one.external));
    project.secrets.iter_mut().for_each(|(key, one)| full(&mut one.name, key, one.external));
    project.configs.iter_mut().for_each(|(key, one)| full(&mut one.name, key, one.external));
}

/// Says of the old key `version` that it does nothing.
pub(super) fn version(document: &mut Node, found: &mut Findings) {
    let Some(Data::Map(map)) = Some(&mut document.data) else { return };
    if let Some(entry) = map.remove("version") {
        found.warn(&entry.key, "version", "the key has no meaning any more: remove it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_into_form() {
        for (name, wanted) in [("My App.2", "myapp2"), ("__x-y_", "x-y_"), ("Ä!", ""), ("9a", "9a")] {
            assert_eq!(normal(name), wanted);
        }
    }
}
