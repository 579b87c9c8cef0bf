//! How a change of a project is shown: a line for each app, and beneath it what differs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    super::{difference, output::colours},
    Read,
};
use crate::{
    api::{
        projects::{AppAction, AppChanged, ProjectChanged},
        view::AppView,
    },
    model::AppName,
};

/// What `-o json` shows of a change.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    project: String,
    tenant: String,
    namespace: String,
    /// Whether anything is not as it was, or would not be.
    changed: bool,
    revision: u64,
    services: BTreeMap<String, ServiceShown>,
    contents_put: Vec<String>,
    volumes_put: Vec<String>,
    policies_put: Vec<String>,
    policies_removed: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ServiceShown {
    app: String,
    action: AppAction,
    generation: u64,
    differences: Vec<String>,
}

/// Whether anything is not as it was.
pub(super) fn changes(done: &ProjectChanged) -> bool {
    let rows = [done.policies_put.len(), done.policies_removed.len(), done.contents_put.len(), done.volumes_put.len()];
    rows != [0; 4] || done.apps.values().any(|app| app.action.is_change())
}

/// The document of a change.
pub(super) fn document(read: &Read, before: &[AppView], done: &ProjectChanged) -> Shown {
    let names: BTreeMap<&AppName, &String> = read.made.names.iter().map(|(service, app)| (app, service)).collect();
    let service = |(app, changed): (&AppName, &AppChanged)| {
        let shown = ServiceShown {
            app: app.to_string(),
            action: changed.action,
            generation: changed.generation,
            differences: differences(read, before, app, *changed),
        };
        (names.get(app).map_or_else(|| app.to_string(), |name| (*name).clone()), shown)
    };
    Shown {
        project: read.loaded.project.name.clone(),
        tenant: read.context.scope.tenant.to_string(),
        namespace: read.context.scope.namespace.to_string(),
        changed: changes(done),
        revision: done.revision,
        services: done.apps.iter().map(service).collect(),
        contents_put: done.contents_put.iter().cloned().collect(),
        volumes_put: done.volumes_put.iter().map(ToString::to_string).collect(),
        policies_put: done.policies_put.iter().map(ToString::to_string).collect(),
        policies_removed: done.policies_removed.iter().map(ToString::to_string).collect(),
        warnings: read.made.warnings.iter().map(ToString::to_string).collect(),
    }
}

/// What differs of an app.
fn differences(read: &Read, before: &[AppView], app: &AppName, changed: AppChanged) -> Vec<String> {
    let after = read.made.apps.get(app);
    let before = before.iter().find(|view| view.name == app.as_str()).map(|view| &view.spec);
    let (Some(after), Some(before)) = (after, before) else {
        if after.is_none() && changed.action == AppAction::Replaced {
            return vec!["a secret or config of it is another".into()];
        }
        let new = after.filter(|_| changed.action == AppAction::Created);
        return new.map(|spec| format!("{} of {}", instances(spec.replicas), spec.image)).into_iter().collect();
    };
    let mut lines = difference::lines(before, after);
    if before.replicas != after.replicas {
        lines.push(format!("{}, was {}", instances(after.replicas), before.replicas));
    }
    if lines.is_empty() && changed.action == AppAction::Replaced {
        lines.push("nothing of it differs; new instances are asked for, a secret or config of it is another, or a service before it gets new ones".into());
    }
    lines
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}

/// Lines for people: of every app that is not as it was, or not as it should be.
pub(super) fn lines(read: &Read, before: &[AppView], done: &ProjectChanged, would: bool) -> Vec<String> {
    let coloured = if would { colours(&std::io::stdout()) } else { colours(&std::io::stderr()) };
    let paint = |colour: u8, text: String| if coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text };
    let mut lines = Vec::new();
    for (app, changed) in &done.apps {
        let (sign, colour, is, may) = match changed.action {
            AppAction::Unchanged => continue,
            AppAction::Created => ('+', 32, "is created", "would be created"),
            AppAction::Replaced => ('~', 33, "gets new instances", "would get new instances"),
            AppAction::Scaled => ('~', 33, "is scaled", "would be scaled"),
            AppAction::Changed => ('~', 33, "is changed; its instances stay", "would be changed; its instances stay"),
            AppAction::Removed => ('-', 31, "is removed", "would be removed"),
            AppAction::Orphan => {
                let text = "is in the file no more, and stays: --remove-orphans removes it";
                lines.push(paint(35, format!("? {app} {text}")));
                continue;
            }
        };
        lines.push(paint(colour, format!("{sign} {app} {}", if would { may } else { is })));
        lines.extend(differences(read, before, app, *changed).into_iter().map(|line| format!("    {line}")));
    }
    for content in &done.contents_put {
        let may = if would { "would be written" } else { "is written" };
        lines.push(paint(33, format!("~ {content} {may}")));
    }
    for volume in &done.volumes_put {
        let may = if would { "would be made, or changed" } else { "is made, or changed" };
        lines.push(paint(33, format!("~ volume {volume} {may}")));
    }
    let plural = |count: usize| if count == 1 { "policy" } else { "policies" };
    let (put, removed) = (done.policies_put.len(), done.policies_removed.len());
    if put > 0 {
        let may = if would { "would be written" } else { "written" };
        lines.push(format!("  {put} {} of its networks {may}", plural(put)));
    }
    if removed > 0 {
        let may = if would { "would be removed" } else { "removed" };
        lines.push(format!("  {removed} {} of its networks {may}", plural(removed)));
    }
    lines
}
