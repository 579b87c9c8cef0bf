//! Docker through `docker buildx`: it builds into Docker's own images, and is asked to save what it has built. An
//! archive as the build's own output is not to be had of every daemon.

use super::{ARCHIVE, Builder, Command, Recipe, Refusal, Wanted, Words, buildkit, refuse};
use hivemind_core::model::Hidden;

/// Attestations hold the time of the build: with them no digest would come twice.
const NO_ATTESTATIONS: (&str, &str) = ("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");

pub(super) fn recipe(wanted: &Wanted, refused: &mut Vec<Refusal>) -> Recipe {
    let build = &wanted.build;
    let mut words = Words::of(&["buildx", "build", "--load", "--tag"]);
    words.word(&wanted.image);
    match &build.dockerfile_inline {
        Some(_) => words.pair("--file", "-"),
        None => words.pair("--file", wanted.dockerfile()),
    };
    words.each("--target", build.target.iter().cloned());
    words.each("--build-arg", wanted.args()).each("--label", wanted.labels());
    if wanted.platforms.len() > 1 {
        let why = "docker saves an image for one platform: name one, or use BuildKit (--builder buildkit)";
        refuse(refused, "platforms", why);
    }
    words.each("--platform", wanted.platforms.iter().cloned());
    words.each("--add-host", wanted.hosts().map(|(name, address)| format!("{name}:{address}")));
    if let Some(mode) = buildkit::network(wanted, refused) {
        words.pair("--network", mode);
        if mode == "host" {
            words.pair("--allow", "network.host");
        }
    }
    if build.no_cache == Some(true) {
        words.word("--no-cache");
    }
    if build.pull == Some(true) {
        words.word("--pull");
    }
    words.each("--shm-size", wanted.shm_size()).each("--ulimit", wanted.ulimits());
    words.each("--cache-from", build.cache_from.iter().cloned());
    words.each("--cache-to", build.cache_to.iter().cloned());
    let further = build.additional_contexts.iter().map(|(name, value)| format!("{name}={value}"));
    words.each("--build-context", further);
    let (secrets, mut env) = wanted.secrets();
    words.each("--secret", secrets).each("--ssh", wanted.agents());
    words.word(&wanted.context);
    let (name, value) = NO_ATTESTATIONS;
    env.push((name.to_owned(), Hidden(value.into())));
    let program = Builder::Docker.program();
    let made = Command { program, args: words.0, env, input: build.dockerfile_inline.clone() };
    let words = Words::of(&["image", "save", "--output", ARCHIVE, &wanted.image]);
    let saved = Command { program, args: words.0, env: Vec::new(), input: None };
    Recipe { files: Vec::new(), commands: vec![made, saved] }
}
