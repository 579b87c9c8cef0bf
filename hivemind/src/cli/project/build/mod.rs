//! Images that the project's files say how to build: built here, sent to the node, and run by their digests.
//!
//! Everything is built before anything is sent, and everything is sent before the project is changed. What is sent has
//! two names: the one in the file, which the next build takes, and that with its digest, which is what the apps name. So
//! an image that comes out as before changes no app, one that does not gives new instances, and the generation before
//! still has its own.

mod find;
mod run;
mod verb;

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};

pub(in super::super) use verb::{BuildArgs, build};

use super::{
    super::{Context, image},
    Read,
};
use crate::{
    api::view::AppView,
    client::DryRunArgs,
    compat::compose::build::{Builder, Wanted, When},
    model::{ErrorCode, Problem},
};

/// Whether images are built, and by what.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Build")]
pub(super) struct Building {
    /// Build the images of services that have a build, also those that are there
    #[arg(long, conflicts_with = "no_build")]
    build: bool,
    /// Build no image: each must be there
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    by: By,
}

/// What builds.
#[derive(Args, Clone, Copy, Debug, Default)]
struct By {
    /// What builds images [default: the first of these that is there]
    #[arg(long, value_enum, env = "HIVEMIND_BUILDER", value_name = "NAME")]
    builder: Option<Named>,
}

/// A builder, by the name that it is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// BuildKit: buildctl, and a buildkitd that answers
    Buildkit,
    /// Docker: docker with buildx, and a daemon that answers
    Docker,
    /// buildah, which needs no daemon
    Buildah,
}

impl By {
    fn chosen(self) -> Option<Builder> {
        self.builder.map(|named| match named {
            Named::Buildkit => Builder::BuildKit,
            Named::Docker => Builder::Docker,
            Named::Buildah => Builder::Buildah,
        })
    }
}

/// What is to become of an image before the project is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// It is there.
    Keep,
    /// It is built.
    Build,
    /// It is fetched, and built if no registry has it.
    Fetch,
    /// It is not there, and must be.
    Refuse,
}

impl Building {
    /// What is to become of an image that is there, or is not.
    fn deed(&self, when: When, there: bool) -> Deed {
        match (there, when) {
            _ if self.build => Deed::Build,
            (false, When::NowhereElse) => Deed::Fetch,
            (true, _) if self.no_build => Deed::Keep,
            (false, _) if self.no_build => Deed::Refuse,
            (_, When::Always) | (false, When::Missing) => Deed::Build,
            (true, When::Missing | When::NowhereElse) => Deed::Keep,
        }
    }
}

/// Sees to it that the node has every image that the project builds, and makes its apps name them by their digests.
pub(super) async fn bring(read: &mut Read, before: &[AppView], how: &Building) -> Result<(), Problem> {
    let context = &read.context;
    let (mut known, mut to_build) = (BTreeMap::new(), Vec::new());
    for wanted in read.made.builds.values() {
        let there = there(context, wanted, before).await?;
        match (how.deed(wanted.when, there.is_some()), there) {
            (Deed::Keep, Some(digest)) => drop(known.insert(wanted.image.clone(), digest)),
            (Deed::Refuse, _) => return Err(absent(wanted)),
            (Deed::Fetch, _) => match fetched(context, wanted, how.no_build).await? {
                Some(digest) => drop(known.insert(wanted.image.clone(), digest)),
                None => to_build.push(wanted),
            },
            (Deed::Keep | Deed::Build, _) => to_build.push(wanted),
        }
    }
    let made = run::all(read, &to_build, how.by.chosen()).await?;
    known.extend(made.into_iter().map(|made| (made.image, made.digest)));
    for (image, digest) in &known {
        named_by_digest(context, image, digest).await?;
    }
    name(read, &known);
    Ok(())
}

/// The same as far as nothing is changed by it. Returns what would be built.
pub(super) async fn look(read: &mut Read, before: &[AppView]) -> Result<Vec<String>, Problem> {
    let (mut known, mut to_build) = (BTreeMap::new(), Vec::new());
    for wanted in read.made.builds.values() {
        let there = there(&read.context, wanted, before).await?;
        match Building::default().deed(wanted.when, there.is_some()) {
            Deed::Fetch => to_build.push(format!("image {} would be fetched, or built", wanted.image)),
            Deed::Build if there.is_some() => {
                to_build.push(format!("image {} would be built anew: it may come out as another one", wanted.image));
            }
            Deed::Build | Deed::Refuse => to_build.push(format!("image {} would be built", wanted.image)),
            Deed::Keep => {}
        }
        known.extend(there.map(|digest| (wanted.image.clone(), digest)));
    }
    name(read, &known);
    Ok(to_build)
}

/// The image of a name that is this one and no other.
fn pinned(image: &str, digest: &str) -> String {
    format!("{image}@{digest}")
}

/// Has the apps name by its digest what is known.
fn name(read: &mut Read, known: &BTreeMap<String, String>) {
    for wanted in read.made.builds.values() {
        let Some(digest) = known.get(&wanted.image) else { continue };
        let apps = wanted.services.iter().filter_map(|service| read.made.names.get(service));
        for app in apps {
            if let Some(spec) = read.made.apps.get_mut(app) {
                spec.image = pinned(&wanted.image, digest);
            }
        }
    }
}

/// The digest of an image on the node: what its name stands for, or, if that name was removed, what an app of the
/// project runs of it.
async fn there(context: &Context, wanted: &Wanted, before: &[AppView]) -> Result<Option<String>, Problem> {
    if let Some(digest) = digest_of(context, &wanted.image).await? {
        return Ok(Some(digest));
    }
    let ours = before.iter().find(|app| {
        let name = app.spec.image.split_once('@').map_or("", |(name, _)| name);
        name == wanted.image
    });
    match ours {
        Some(app) => digest_of(context, &app.spec.image).await,
        None => Ok(None),
    }
}

/// What a name stands for on the node; `None` if there is no such image, or parts of it are missing.
async fn digest_of(context: &Context, name: &str) -> Result<Option<String>, Problem> {
    match context.client.get_image(name).await {
        Ok(found) => Ok(found.image.platform.is_some().then_some(found.image.digest)),
        Err(problem) if problem.code == ErrorCode::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// The digest of an image that a registry has; `None` if none does, so that it is to be built.
async fn fetched(context: &Context, wanted: &Wanted, no_build: bool) -> Result<Option<String>, Problem> {
    match image::fetched(context, &wanted.image).await {
        Ok(image) => Ok(Some(image.digest)),
        Err(problem) if no_build => Err(problem.detail("it is not built: --no-build").hint("hivemind up --build")),
        Err(problem)
            if matches!(problem.code, ErrorCode::ImageNotFound | ErrorCode::RegistryDown | ErrorCode::RegistryAuth) =>
        {
            context.output.say(&format!("image {} is not to be had, and is built: {}", wanted.image, problem.title));
            Ok(None)
        }
        Err(problem) => Err(problem),
    }
}

fn absent(wanted: &Wanted) -> Problem {
    let title = format!("image {} is not on the node, and is not built: --no-build", wanted.image);
    Problem::new(ErrorCode::ImageNotFound, title).hint("hivemind up --build")
}

/// Gives the image the name with its digest, by which the apps name it, unless it has it.
async fn named_by_digest(context: &Context, image: &str, digest: &str) -> Result<(), Problem> {
    let exact = pinned(image, digest);
    if digest_of(context, &exact).await?.is_some() {
        return Ok(());
    }
    context.client.tag_image(image, &exact, &DryRunArgs::default()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_built_when_it_is_missing_or_when_it_is_said() {
        let plain = Building::default();
        let build = Building { build: true, ..Building::default() };
        let none = Building { no_build: true, ..Building::default() };
        for (how, when, there, deed) in [
            (&plain, When::Missing, true, Deed::Keep),
            (&plain, When::Missing, false, Deed::Build),
            (&plain, When::NowhereElse, true, Deed::Keep),
            (&plain, When::NowhereElse, false, Deed::Fetch),
            (&plain, When::Always, true, Deed::Build),
            (&build, When::Missing, true, Deed::Build),
            (&build, When::NowhereElse, false, Deed::Build),
            (&none, When::Missing, true, Deed::Keep),
            (&none, When::Always, true, Deed::Keep),
            (&none, When::Missing, false, Deed::Refuse),
            (&none, When::Always, false, Deed::Refuse),
            (&none, When::NowhereElse, false, Deed::Fetch),
        ] {
            assert_eq!(how.deed(when, there), deed, "{how:?} {when:?} {there}");
        }
    }
}
