//! The first process of a container, and further ones.

use serde_json::{Value, json};

use super::{Host, INIT};
use crate::{
    types::{ContainerSpec, ExecSpec, TtySize},
    user::ResolvedUser,
};
use hivemind_core::spec::v1::{ContainerSpec as Options, DEFAULT_CAPABILITIES, UNLIMITED, capability};

pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files, unless a process raises it: more breaks `select`.
const OPEN_FILES: u64 = 1024;

/// What AppArmor profiles of containers are called where Docker or Kubernetes has loaded one.
const APPARMOR_DEFAULTS: &[&str] = &["docker-default", "cri-containerd.apparmor.d"];

pub(super) fn process(spec: &ContainerSpec, user: &ResolvedUser, host: &Host<'_>) -> Result<Value, String> {
    let (image, options) = (&spec.image, &spec.options);
    let (first, rest) = match (&spec.command, &spec.args) {
        (Some(command), args) => (command, args.as_deref().unwrap_or_default()),
        (None, Some(args)) => (&image.entrypoint, args.as_slice()),
        (None, None) => (&image.entrypoint, image.cmd.as_slice()),
    };
    let args: Vec<&str> = first.iter().chain(rest).map(String::as_str).collect();
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(format!("the image {} has no command and none was given", image.reference));
    }
    let args = [first_words(options), args].concat();
    let cwd = spec.workdir.as_deref().or(image.workdir.as_deref()).unwrap_or("/");
    let cwd = if cwd.starts_with('/') { cwd.to_owned() } else { format!("/{cwd}") };
    let own = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    let base = [PATH.to_owned(), format!("HOSTNAME={}", spec.hostname), format!("HOME={}", user.home)];
    let term = options.tty.then(|| "TERM=xterm".to_owned());
    let env = merge_env(base.into_iter().chain(term).chain(image.env.iter().cloned()).chain(own));
    // Not inheritable and not ambient: a process that is not root keeps none of them.
    let caps = capabilities(options, host)?;
    let mut process = json!({
        "terminal": options.tty,
        "user": user_json(user),
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "rlimits": rlimits(options, host.open_files),
        "noNewPrivileges": options.security.no_new_privileges && !options.privileged,
    });
    if let Some(score) = options.oom_score_adj {
        process["oomScoreAdj"] = json!(score);
    }
    if let Some(profile) = apparmor(options, host.apparmor)? {
        process["apparmorProfile"] = json!(profile);
    }
    Ok(process)
}

/// Our own program, which begins the container's, where it has something to do.
fn first_words(options: &Options) -> Vec<&'static str> {
    match (options.init, needs_input(options)) {
        (false, false) => vec![],
        (true, false) => vec![INIT, "reap", "--"],
        (false, true) => vec![INIT, "hold", "--"],
        (true, true) => vec![INIT, "both", "--"],
    }
}

/// A terminal is open by itself.
pub(super) fn needs_input(options: &Options) -> bool {
    options.stdin_open && !options.tty
}

/// Whether the container needs [`INIT`].
pub(crate) fn has_init(options: &Options) -> bool {
    options.init || needs_input(options)
}

/// The container's capabilities.
pub(super) fn capabilities(options: &Options, host: &Host<'_>) -> Result<Vec<String>, String> {
    let named = |names: &[String]| names.iter().filter_map(|name| capability(name)).collect::<Vec<_>>();
    let (add, drop) = (named(&options.cap_add), named(&options.cap_drop));
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    let missing = add.iter().find(|name| *name != "ALL" && !has(host.capabilities, name));
    if let Some(name) = missing {
        return Err(format!("the capability {name} cannot be given: the daemon on this node does not have it"));
    }
    let mut caps: Vec<String> = if options.privileged || has(&add, "ALL") {
        host.capabilities.to_vec()
    } else if has(&drop, "ALL") {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|&name| name.to_owned()).collect()
    };
    caps.retain(|name| !has(&drop, name));
    for name in add.into_iter().filter(|name| name != "ALL") {
        if !has(&caps, &name) {
            caps.push(name);
        }
    }
    Ok(caps)
}

fn rlimits(options: &Options, open_files: u64) -> Value {
    let own = options.ulimits.iter().map(|(name, limit)| {
        // The kernel has no unlimited number of open files.
        let none = if name == "nofile" { open_files } else { u64::MAX };
        let number = |limit: i64| if limit == UNLIMITED { none } else { limit.unsigned_abs() };
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
        json!({"type": kind, "soft": number(limit.soft), "hard": number(limit.hard)})
    });
    let files = json!({"type": "RLIMIT_NOFILE", "soft": OPEN_FILES.min(open_files), "hard": open_files});
    let default = (!options.ulimits.contains_key("nofile")).then_some(files);
    default.into_iter().chain(own).collect()
}

fn apparmor(options: &Options, loaded: Option<&[String]>) -> Result<Option<String>, String> {
    match (options.security.apparmor.as_deref(), loaded) {
        (Some("unconfined"), _) | (None, None) => Ok(None),
        (Some(profile), None) => {
            Err(format!("the AppArmor profile {profile} cannot be used: this node has no AppArmor"))
        }
        (Some(profile), Some(loaded)) if loaded.iter().any(|name| name == profile) => Ok(Some(profile.to_owned())),
        (Some(profile), Some(_)) => {
            Err(format!("the AppArmor profile {profile} is not loaded on this node (aa-status lists those that are)"))
        }
        (None, Some(_)) if options.privileged => Ok(None),
        (None, Some(loaded)) => {
            let default = APPARMOR_DEFAULTS.iter().find(|name| loaded.iter().any(|have| have == **name));
            Ok(default.map(|name| (*name).to_owned()))
        }
    }
}

fn user_json(user: &ResolvedUser) -> Value {
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.extra_groups})
}

/// The process of an exec: the container's own, changed.
pub(crate) fn exec_process(container: &Value, spec: &ExecSpec, user: Option<&ResolvedUser>) -> Value {
    let mut process = container["process"].clone();
    process["args"] = json!(spec.command);
    process["terminal"] = json!(spec.tty.is_some());
    if let Some(TtySize { rows, cols }) = spec.tty {
        process["consoleSize"] = json!({"height": rows, "width": cols});
    }
    if let Some(cwd) = &spec.workdir {
        process["cwd"] = json!(cwd);
    }
    if let Some(user) = user {
        process["user"] = user_json(user);
    }
    let inherited = process["env"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let home = user.map(|u| format!("HOME={}", u.home));
    let term = spec.tty.map(|_| "TERM=xterm".to_owned());
    process["env"] = json!(merge_env(term.into_iter().chain(inherited).chain(home).chain(spec.env.iter().cloned())));
    process
}

/// The last value of a name wins, in the place of its first.
fn merge_env(all: impl Iterator<Item = String>) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for pair in all {
        match merged.iter_mut().find(|have| name(have) == name(&pair)) {
            Some(have) => *have = pair,
            None => merged.push(pair),
        }
    }
    merged
}
