//! BuildKit through `buildctl`, with the frontend for Dockerfiles that it has in itself. The options are those of
//! BuildKit's `frontend/dockerfile/docs/reference` and of what buildx makes of Docker's flags (`build/opt.go`).

use std::path::Path;

use super::{ARCHIVE, Builder, Command, DOCKERFILE, INLINE, Recipe, Refusal, Wanted, Words, is_remote, refuse};

pub(super) fn recipe(wanted: &Wanted, refused: &mut Vec<Refusal>) -> Recipe {
    let build = &wanted.build;
    let mut words = Words::of(&["build", "--frontend", "dockerfile.v0"]);
    let mut files = Vec::new();
    contexts(wanted, &mut words, &mut files, refused);
    words.each("--opt", build.target.iter().cloned().map(option("target=")));
    words.each("--opt", wanted.args().map(option("build-arg:")));
    words.each("--opt", wanted.labels().map(option("label:")));
    if !wanted.platforms.is_empty() {
        words.pair("--opt", format!("platform={}", wanted.platforms.join(",")));
    }
    let hosts: Vec<_> = wanted.hosts().map(|(name, address)| format!("{name}={address}")).collect();
    if hosts.iter().any(|host| host.ends_with("=host-gateway")) {
        refuse(refused, "extra_hosts", "BuildKit does not know host-gateway: write the address");
    }
    if !hosts.is_empty() {
        words.pair("--opt", format!("add-hosts={}", hosts.join(",")));
    }
    match network(wanted, refused) {
        Some("host") => drop(words.pair("--opt", "force-network-mode=host").pair("--allow", "network.host")),
        Some(mode) => drop(words.pair("--opt", format!("force-network-mode={mode}"))),
        None => {}
    }
    if build.no_cache == Some(true) {
        words.word("--no-cache");
    }
    if build.pull == Some(true) {
        words.pair("--opt", "image-resolve-mode=pull");
    }
    words.each("--opt", wanted.shm_size().into_iter().map(option("shm-size=")));
    let ulimits: Vec<_> = wanted.ulimits().collect();
    if !ulimits.is_empty() {
        words.pair("--opt", format!("ulimit={}", ulimits.join(",")));
    }
    words.each("--import-cache", build.cache_from.iter().map(|cache| place(cache)));
    words.each("--export-cache", build.cache_to.iter().map(|cache| place(cache)));
    let (secrets, env) = wanted.secrets();
    words.each("--secret", secrets).each("--ssh", wanted.agents());
    words.pair("--output", format!("type=oci,dest={ARCHIVE}"));
    Recipe { files, commands: vec![Command { program: Builder::BuildKit.program(), args: words.0, env, input: None }] }
}

/// An option of the frontend.
fn option(key: &str) -> impl Fn(String) -> String {
    move |text| format!("{key}{text}")
}

/// Where its files and its Dockerfile are, and further contexts.
fn contexts(wanted: &Wanted, words: &mut Words, files: &mut Vec<(String, String)>, refused: &mut Vec<Refusal>) {
    let build = &wanted.build;
    let remote = is_remote(&wanted.context);
    if remote {
        words.pair("--opt", format!("context={}", wanted.context));
    } else {
        words.pair("--local", format!("context={}", wanted.context));
    }
    if let Some(text) = &build.dockerfile_inline {
        files.push((format!("{INLINE}/{DOCKERFILE}"), text.clone()));
        words.pair("--local", format!("dockerfile={INLINE}")).pair("--opt", format!("filename={DOCKERFILE}"));
        if remote {
            // Not the one in the context.
            words.pair("--opt", "dockerfilekey=dockerfile");
        }
    } else if remote {
        words.pair("--opt", format!("filename={}", wanted.dockerfile()));
    } else {
        let path = wanted.dockerfile();
        let path = Path::new(&path);
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let dir = path.parent().map(Path::as_os_str);
        words.pair("--local", format!("dockerfile={}", text(dir)));
        words.pair("--opt", format!("filename={}", text(path.file_name())));
    }
    for (name, value) in &build.additional_contexts {
        if value.starts_with("oci-layout:") {
            let why = format!("buildctl cannot be given {value} by its name: use docker, or an image of a registry");
            refuse(refused, "additional_contexts", why);
        } else if is_remote(value) {
            words.pair("--opt", format!("context:{name}={value}"));
        } else {
            // With a name of its own: `context` and `dockerfile` are taken.
            words.pair("--local", format!("extra-{name}={value}"));
            words.pair("--opt", format!("context:{name}=local:extra-{name}"));
        }
    }
}

/// The network of commands, if one is said that is not the usual one.
pub(super) fn network<'a>(wanted: &'a Wanted, refused: &mut Vec<Refusal>) -> Option<&'a str> {
    let mode = wanted.build.network.as_deref().filter(|mode| !matches!(*mode, "" | "default"))?;
    if !matches!(mode, "host" | "none") {
        refuse(refused, "network", format!("BuildKit knows default, host and none, and not {mode}"));
    }
    Some(mode)
}

/// Where layers are kept: an image, if no kind is said, as Docker has it.
fn place(cache: &str) -> String {
    if cache.split(',').any(|part| part.starts_with("type=")) {
        cache.to_owned()
    } else {
        format!("type=registry,ref={cache}")
    }
}
