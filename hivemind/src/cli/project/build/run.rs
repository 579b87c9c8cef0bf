//! Building: the commands of each image, one after the other, and what comes of them to the node.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Seek as _},
    os::{fd::AsFd as _, unix::ffi::OsStringExt as _},
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{io::AsyncWriteExt as _, process::Child};

use super::{
    super::{super::push, Context, Read, compose::fault::Findings},
    find, pinned,
};
use crate::{
    compat::compose::{
        build::{self, ARCHIVE, Builder, Command, Recipe, Wanted},
        model::Project,
    },
    model::{ErrorCode, Problem},
    runtime::{Offer, check_reference},
};

/// An image that was built, and is on the node.
#[derive(Debug)]
pub(super) struct Made {
    /// Its name in the file.
    pub(super) image: String,
    /// The services that it is for.
    pub(super) services: Vec<String>,
    /// Its digest.
    pub(super) digest: String,
}

/// Builds all of these, then sends them to the node.
///
/// # Errors
/// If nothing builds, if the builder cannot do what is said, or if a build fails: then nothing was sent.
pub(super) async fn all(read: &Read, wanted: &[&Wanted], chosen: Option<Builder>) -> Result<Vec<Made>, Problem> {
    let Some(first) = wanted.first() else { return Ok(Vec::new()) };
    let context = &read.context;
    let builder = find::builder(chosen, &first.image).await?;
    let recipes = recipes(&read.loaded.project, wanted, builder)?;
    let mut offers = Vec::new();
    for (wanted, recipe) in wanted.iter().zip(&recipes) {
        context.output.say(&format!("building {} with {}", wanted.image, builder.name()));
        // It has secrets of nobody in it, and all the layers: it goes with the value.
        let dir = tempfile::Builder::new().prefix("hivemind-build-").tempdir().map_err(|error| folder(&error))?;
        build_one(context, wanted, recipe, dir.path()).await?;
        offers.push(offer(wanted, dir.path()).await?);
    }
    let mut made = Vec::new();
    for (wanted, (offer, digest)) in wanted.iter().zip(offers) {
        push::deliver(context, &offer).await?;
        context.output.say(&format!("image {} is there: {digest}", wanted.image));
        made.push(Made { image: wanted.image.clone(), services: wanted.services.clone(), digest });
    }
    Ok(made)
}

/// How each of them is built; what the builder cannot do is said of all at once, with its place in the file.
fn recipes(project: &Project, wanted: &[&Wanted], builder: Builder) -> Result<Vec<Recipe>, Problem> {
    let (mut recipes, mut found) = (Vec::new(), Findings::default());
    for wanted in wanted {
        names(project, wanted, &mut found);
        match build::recipe(builder, wanted) {
            Ok(recipe) => recipes.push(recipe),
            Err(refused) => {
                for refusal in refused {
                    let service = &wanted.services[0];
                    let path = format!("services.{service}.build.{}", refusal.key);
                    found.fault(project.place(&["services", service, "build", refusal.key]), path, refusal.why);
                }
            }
        }
    }
    if found.good() { Ok(recipes) } else { Err(Problem::from(found)) }
}

/// What it is to be called must be names of images; so far nobody has asked.
fn names(project: &Project, wanted: &Wanted, found: &mut Findings) {
    let service = wanted.services[0].as_str();
    let mut check = |steps: &[&str], path: String, name: &str| {
        if let Err(error) = check_reference(name) {
            found.fault(project.place(steps), path, error.to_string());
        }
    };
    check(&["services", service, "image"], format!("services.{service}.image"), &wanted.image);
    for (at, tag) in wanted.build.tags.iter().enumerate() {
        let path = format!("services.{service}.build.tags[{at}]");
        check(&["services", service, "build", "tags", &at.to_string()], path, tag);
    }
}

async fn build_one(context: &Context, wanted: &Wanted, recipe: &Recipe, dir: &Path) -> Result<(), Problem> {
    for (path, text) in &recipe.files {
        let path = dir.join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| folder(&error))?;
        std::fs::write(&path, text).map_err(|error| folder(&error))?;
    }
    for command in &recipe.commands {
        run(context, wanted, command, dir).await?;
    }
    Ok(())
}

/// Runs a command in a folder. What it says goes to standard error as it comes; with `--quiet` only if it fails.
async fn run(context: &Context, wanted: &Wanted, command: &Command, dir: &Path) -> Result<(), Problem> {
    let failed = |why: String| {
        let title = format!("image {} could not be built, and nothing is changed: {why}", wanted.image);
        Problem::new(ErrorCode::BuildFailed, title).detail(format!("for {}", wanted.services.join(", ")))
    };
    let unusable = |error: &io::Error| failed(format!("{} cannot be run: {error}", command.program));
    let mut kept =
        if context.output.quiet { Some(tempfile::tempfile().map_err(|error| folder(&error))?) } else { None };
    let stream = || match &kept {
        Some(file) => file.try_clone().map(Stdio::from),
        // Standard output is for what was asked for.
        None => io::stderr().as_fd().try_clone_to_owned().map(Stdio::from),
    };
    let mut child = tokio::process::Command::new(command.program);
    child.args(&command.args).current_dir(dir);
    child.envs(command.env.iter().map(|(name, value)| (name, OsString::from_vec(value.0.clone()))));
    child.stdin(if command.input.is_some() { Stdio::piped() } else { Stdio::null() });
    child.stdout(stream().map_err(|error| unusable(&error))?).stderr(stream().map_err(|error| unusable(&error))?);
    let mut child = Ended(child.spawn().map_err(|error| unusable(&error))?);
    if let (Some(input), Some(mut stdin)) = (&command.input, child.0.stdin.take()) {
        // If it ends before it has read all, its words say why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let status = child.0.wait().await.map_err(|error| unusable(&error))?;
    if status.success() {
        return Ok(());
    }
    if let Some(kept) = &mut kept {
        // What cannot be shown is not what has failed.
        let _ = kept.rewind().and_then(|()| io::copy(kept, &mut io::stderr()));
    }
    Err(failed(format!("{} {}", command.program, ended(status))))
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| format!("was killed ({status})"), |code| format!("ended with {code}"))
}

/// A builder's process. Whoever no longer waits for it asks it to end: it has things of its own to clear away.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok());
        if let (Some(pid), Ok(None)) = (pid, self.0.try_wait()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

/// What was built, under all its names; and its digest. The file has no name any more when its folder has gone.
async fn offer(wanted: &Wanted, dir: &Path) -> Result<(Offer, String), Problem> {
    let (path, image, tags) = (dir.join(ARCHIVE), wanted.image.clone(), wanted.build.tags.clone());
    let look = move || -> Result<(Offer, String), String> {
        let file = File::open(&path).map_err(|error| error.to_string())?;
        let offer = Offer::of_file(file, Some(&image))?;
        let digest = offer.digest().ok_or("it has several images")?;
        let exact = pinned(&image, &digest);
        Ok((offer.also(&[tags, vec![exact]].concat())?, digest))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    let looked = looked.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    looked.map_err(|why| {
        let title = format!("what was built of {} is no archive of one image: {why}", wanted.image);
        Problem::new(ErrorCode::BadArchive, title)
    })
}

fn folder(error: &io::Error) -> Problem {
    let dir = std::env::temp_dir();
    Problem::new(ErrorCode::BuildFailed, format!("{} cannot take what is built: {error}", dir.display()))
        .hint("TMPDIR=/var/tmp hivemind up   (a folder with room for the images)")
}
