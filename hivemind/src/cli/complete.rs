//! Completion of words, with the names that the daemon knows.
//!
//! The script that `hivemind completion SHELL` prints calls this program for each completion, with `HIVEMIND_COMPLETE`
//! set; so names are those of the moment, and a script of an older version still completes the newest flags.

use std::time::Duration;

use clap::ValueEnum;
use clap_complete::{
    ArgValueCandidates, CompleteEnv, CompletionCandidate,
    env::{Bash, EnvCompleter, Fish, Zsh},
};

use crate::{
    api::{
        contents::ContentView,
        images::ImageView,
        object_view::{NamespaceView, PolicyView, TenantView},
        view::{AppView, InstanceView, NodeView, ServiceView},
        volumes::VolumeView,
    },
    client::{Client, ListArgs, Target},
    model::{ErrorCode, Problem, Scope},
};

/// The variable that asks for a completion.
const VARIABLE: &str = "HIVEMIND_COMPLETE";
/// Whoever presses the tabulator waits no longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Shells with completion.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    /// source <(hivemind completion bash), in ~/.bashrc
    Bash,
    /// source <(hivemind completion zsh), in ~/.zshrc
    Zsh,
    /// hivemind completion fish | source, in ~/.config/fish/config.fish
    Fish,
}

/// Answers a completion and ends the process, if this run is one.
pub(super) fn answer(command: impl Fn() -> clap::Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Prints the script for a shell.
pub(super) fn script(shell: Shell) -> Result<(), Problem> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut text = Vec::new();
    completer
        .write_registration(VARIABLE, "hivemind", "hivemind", "hivemind", &mut text)
        .map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    super::output::line(String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

/// Names of apps.
pub(super) fn apps() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(Client::list_apps, |app: AppView| app.name, |app| format!("{} ({})", app.spec.image, app.state))
    })
}

/// Names of apps as `APP=`, for scaling.
pub(super) fn assignments() -> ArgValueCandidates {
    let name = |app: AppView| format!("{}={}", app.name, app.spec.replicas);
    ArgValueCandidates::new(move || ask(Client::list_apps, name, |app| app.state.to_string()))
}

/// Names of apps and of instances.
pub(super) fn targets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let mut all = ask(Client::list_apps, |app: AppView| app.name, |_| "app".to_owned());
        all.extend(ask(
            Client::list_instances,
            |instance: InstanceView| instance.name,
            |instance| instance.phase.to_string(),
        ));
        all
    })
}

/// Names of services, and their DNS names.
pub(super) fn services() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(Client::list_services, |service: ServiceView| service.name, |s| s.dns_names.join(" "))
    })
}

/// Names of images.
pub(super) fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(
            async |client, _, all| client.list_images(all).await,
            |image: ImageView| image.name,
            |image| image.used_by.join(" "),
        )
    })
}

/// Names of volumes.
pub(super) fn volumes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| ask(Client::list_volumes, |volume: VolumeView| volume.name, |v| v.used_by.join(", ")))
}

/// Names of secrets.
pub(super) fn secrets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| ask(Client::list_secrets, |it: ContentView| it.name, |it| it.used_by.join(", ")))
}

/// Names of configs.
pub(super) fn configs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| ask(Client::list_configs, |it: ContentView| it.name, |it| it.used_by.join(", ")))
}

/// Names of tenants.
pub(super) fn tenants() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(
            async |client, _, all| client.list_tenants(all).await,
            |tenant: TenantView| tenant.name.to_string(),
            |_| String::new(),
        )
    })
}

/// Names of namespaces of the tenant.
pub(super) fn namespaces() -> ArgValueCandidates {
    let labels = |namespace: &NamespaceView| {
        namespace.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    ArgValueCandidates::new(move || {
        ask(
            async |client, scope, all| client.list_namespaces(scope.tenant.as_str(), all).await,
            |namespace: NamespaceView| namespace.name.to_string(),
            labels,
        )
    })
}

/// Names of policies.
pub(super) fn policies() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(
            Client::list_policies,
            |policy: PolicyView| policy.name,
            |p| super::policy_words::selector(&p.spec.instances, "all"),
        )
    })
}

/// Names of nodes.
pub(super) fn nodes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(
            async |client, _, all| client.list_nodes(all).await,
            |node: NodeView| node.node.name.to_string(),
            |n| n.status.kernel.clone(),
        )
    })
}

/// Error codes.
pub(super) fn codes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let candidate = |code: &ErrorCode| CompletionCandidate::new(code.as_str()).help(Some(code.explain().into()));
        ErrorCode::ALL.iter().map(candidate).collect()
    })
}

/// The value of a flag of the line that is being typed, in the forms in which it can be written. (The line stands behind the
/// arguments of this program.)
fn typed(line: &[String], long: &str, short: Option<char>) -> Option<String> {
    let mut found = None;
    for (n, word) in line.iter().enumerate() {
        if word == "--" && n > 1 {
            break;
        }
        let short = short.and_then(|short| word.strip_prefix(&format!("-{short}")));
        let long = word.strip_prefix(&format!("--{long}"));
        found = match (short, long) {
            (Some(""), _) | (_, Some("")) => line.get(n + 1).cloned(),
            (_, Some(value)) => value.strip_prefix('=').map(str::to_owned),
            (Some(value), _) => Some(value.strip_prefix('=').unwrap_or(value).to_owned()),
            _ => None,
        }
        .or(found);
    }
    found.filter(|value| !value.is_empty())
}

/// What the daemon lists, in the scope of the line that is being typed; nothing if it does not answer.
fn ask<T>(
    list: impl AsyncFn(&Client, &Scope, &ListArgs) -> Result<Vec<T>, Problem>,
    name: impl Fn(T) -> String,
    help: impl Fn(&T) -> String,
) -> Vec<CompletionCandidate> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let line: Vec<String> = std::env::args().collect();
    let flag = |long, short| typed(&line, long, short);
    let socket = flag("socket", None)
        .or_else(|| variable("HIVEMIND_SOCKET"))
        .unwrap_or_else(|| "/run/hivemind/hivemind.sock".into());
    let default = Scope::default();
    let tenant =
        flag("tenant", Some('T')).or_else(|| variable("HIVEMIND_TENANT")).unwrap_or_else(|| default.tenant.to_string());
    let namespace = flag("namespace", Some('n')).or_else(|| variable("HIVEMIND_NAMESPACE"));
    let namespace = namespace.unwrap_or_else(|| default.namespace.to_string());
    let (Ok(tenant), Ok(namespace)) = (tenant.parse(), namespace.parse()) else { return Vec::new() };
    let scope = Scope { tenant, namespace };
    let (Ok(target), Ok(runtime)) =
        (socket.parse::<Target>(), tokio::runtime::Builder::new_current_thread().enable_all().build())
    else {
        return Vec::new();
    };
    let client = Client::new(target.with_token(variable("HIVEMIND_TOKEN")));
    let all = ListArgs::default();
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, list(&client, &scope, &all)).await });
    let Ok(Ok(items)) = answer else { return Vec::new() };
    let candidate = |item: T| {
        let help = help(&item);
        CompletionCandidate::new(name(item)).help(Some(help.into()))
    };
    items.into_iter().map(candidate).collect()
}
