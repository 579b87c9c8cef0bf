//! buildah, which builds into its own images and is asked for an archive of what it has built: Docker's form, for OCI's
//! has no HEALTHCHECK.

use super::{ARCHIVE, Builder, Command, Recipe, Refusal, Wanted, Words, refuse};

pub(super) fn recipe(wanted: &Wanted, refused: &mut Vec<Refusal>) -> Recipe {
    let build = &wanted.build;
    // With layers: what has not changed is taken from the last time, and has the same digest.
    let mut words = Words::of(&["build", "--layers", "--format", "docker", "--tag"]);
    words.word(&wanted.image);
    match &build.dockerfile_inline {
        Some(_) => words.pair("--file", "-"),
        None => words.pair("--file", wanted.dockerfile()),
    };
    words.each("--target", build.target.iter().cloned());
    words.each("--build-arg", wanted.args()).each("--label", wanted.labels());
    if wanted.platforms.len() > 1 {
        let why = "buildah has no archive for several platforms that keeps HEALTHCHECK: name one, or use BuildKit (--builder buildkit)";
        refuse(refused, "platforms", why);
    }
    words.each("--platform", wanted.platforms.iter().cloned());
    words.each("--add-host", wanted.hosts().map(|(name, address)| format!("{name}:{address}")));
    match build.network.as_deref() {
        None | Some("" | "default") => {}
        Some(mode @ ("host" | "none")) => drop(words.pair("--network", mode)),
        Some(mode) => refuse(refused, "network", format!("buildah knows default, host and none, and not {mode}")),
    }
    if build.no_cache == Some(true) {
        words.word("--no-cache");
    }
    if build.pull == Some(true) {
        words.word("--pull=always");
    }
    words.each("--shm-size", wanted.shm_size()).each("--ulimit", wanted.ulimits());
    cache(&mut words, "cache_from", "--cache-from", &build.cache_from, refused);
    cache(&mut words, "cache_to", "--cache-to", &build.cache_to, refused);
    for (name, value) in &build.additional_contexts {
        if value.starts_with("oci-layout:") {
            let why = format!("buildah takes no {value} there: use docker, or an image of a registry");
            refuse(refused, "additional_contexts", why);
        }
        words.pair("--build-context", format!("{name}={value}"));
    }
    let (secrets, env) = wanted.secrets();
    words.each("--secret", secrets).each("--ssh", wanted.agents());
    words.word(&wanted.context);
    let program = Builder::Buildah.program();
    let made = Command { program, args: words.0, env, input: build.dockerfile_inline.clone() };
    // Not compressed: the node is usually this machine.
    let words = Words::of(&["push", "--disable-compression", &wanted.image, &format!("docker-archive:{ARCHIVE}")]);
    let saved = Command { program, args: words.0, env: Vec::new(), input: None };
    Recipe { files: Vec::new(), commands: vec![made, saved] }
}

/// It keeps layers in one repository of a registry, and nowhere else.
fn cache(words: &mut Words, key: &'static str, flag: &str, places: &[String], refused: &mut Vec<Refusal>) {
    for place in places {
        let mut parts: Vec<_> = place.split(',').filter(|part| *part != "type=registry").collect();
        if let [part] = &mut parts[..] {
            *part = part.strip_prefix("ref=").unwrap_or(part);
        }
        match parts[..] {
            [repository] if !repository.contains('=') && places.len() == 1 => drop(words.pair(flag, repository)),
            _ => {
                let why = format!(
                    "buildah keeps layers in one repository of a registry (type=registry,ref=NAME), not in {place}"
                );
                refuse(refused, key, why);
            }
        }
    }
}
