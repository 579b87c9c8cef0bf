//! `hivemind image …`

use std::{io::IsTerminal as _, path::PathBuf};

use clap::Subcommand;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::{
    Context, complete,
    dry::Dry,
    list::Only,
    output::{Format, Listed, Tone, age, bytes, line},
    push,
};
use crate::{
    api::images::{ImageDetails, ImageView, ImagesChanged, PullView},
    client::{DeleteImageArgs, DryRunArgs, ImportImagesArgs},
    model::{ErrorCode, Problem},
};

/// Shown beneath `hivemind image --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind image ls
  hivemind image pull nginx:latest                      newer, if the registry has a newer one
  docker save own:1 | hivemind image push --from -      an image of your own, without a registry
  hivemind image push own:1 --to registry.local:5000/team/own:1
  hivemind image export own:1 -f own.tar                and out again, for docker load or ctr images import
  hivemind image rm own:1
  hivemind image prune                                  all that no app uses
Images are those of the node that answers. Names are completed as Docker does: nginx is docker.io/library/nginx:latest.";

#[derive(Subcommand, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) enum ImageCommand {
    /// List the images
    #[command(visible_alias = "list")]
    Ls(Only),
    /// Show an image: layers, command, environment, who uses it
    #[command(visible_aliases = ["show", "inspect"])]
    Info {
        /// The image
        #[arg(add = complete::images())]
        image: String,
    },
    /// Fetch an image, also one that is there
    Pull {
        /// The image
        image: String,
    },
    /// Send an image to a registry, or with --from to this node: what is missing there
    Push {
        /// The image; with --from the name that it gets, its own by default
        #[arg(add = complete::images(), required_unless_present = "from")]
        image: Option<String>,
        /// The name that it is sent under, whose registry gets it; its own by default
        #[arg(long, value_name = "IMAGE", conflicts_with = "from")]
        to: Option<String>,
        /// To this node, without a registry: an archive, a folder with an OCI layout, '-' for an archive on standard input
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
    },
    /// Remove an image; no app may use it
    #[command(visible_alias = "remove")]
    Rm {
        /// The images
        #[arg(required = true, value_name = "IMAGE", add = complete::images())]
        images: Vec<String>,
        /// Also if an app uses it: instances run on, and it is fetched again for the next one
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Give an image another name besides
    Tag {
        /// The image
        #[arg(add = complete::images())]
        image: String,
        /// The other name
        other: String,
    },
    /// Remove all images that no app uses
    Prune {
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the images of an archive: an OCI layout, or what `docker save` writes
    #[command(visible_alias = "load")]
    Import {
        /// The archive; '-' is standard input
        file: PathBuf,
        /// The name for the image in it; the archive's own by default
        #[arg(long, value_name = "IMAGE")]
        name: Option<String>,
    },
    /// Write images into an archive that Docker, Podman and containerd read
    #[command(visible_alias = "save")]
    Export {
        /// The images
        #[arg(required = true, value_name = "IMAGE", add = complete::images())]
        images: Vec<String>,
        /// The archive; standard output by default
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

impl Listed for ImageView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["IMAGE", "SIZE", "USED BY", "AGE"], &["PLATFORM", "DIGEST"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            if self.platform.is_some() { bytes(self.size) } else { "incomplete".into() },
            self.used_by.join(" "),
            age(self.created_at),
            self.platform.clone().unwrap_or_default(),
            self.digest.clone(),
        ]
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        self.platform.is_none().then_some((1, Tone::Busy))
    }
}

pub(super) async fn run(context: &Context, command: ImageCommand) -> Result<(), Problem> {
    match command {
        ImageCommand::Ls(only) => {
            let images: Vec<ImageView> = context.client.list_images(&only.asked()).await?;
            let empty = "no images; an app brings its own, or: hivemind image pull nginx:latest";
            context.show_all(&only, &images, empty)
        }
        ImageCommand::Info { image } => info(context, &image).await,
        ImageCommand::Pull { image } => pull(context, &image).await,
        ImageCommand::Push { image, from: Some(from), .. } => push::to_node(context, &from, image.as_deref()).await,
        ImageCommand::Push { image, to, from: None } => {
            push::to_registry(context, image.as_deref().unwrap_or_default(), to.as_deref()).await
        }
        ImageCommand::Rm { images, force, dry } => {
            for image in images {
                let how = DeleteImageArgs { force, dry_run: dry.dry_run };
                let gone: ImagesChanged = context.client.delete_image(&image, &how).await?;
                told(context, &gone, |name| format!("image {name} {} removed", dry.word("is", "would be")))?;
            }
            Ok(())
        }
        ImageCommand::Tag { image, other } => {
            let tagged: ImagesChanged = context.client.tag_image(&image, &other, &DryRunArgs::default()).await?;
            told(context, &tagged, |name| format!("{name} is another name of it now"))
        }
        ImageCommand::Prune { dry_run } => {
            let gone: ImagesChanged = context.client.prune_images(&DryRunArgs { dry_run }).await?;
            let what = if dry_run { "would be removed" } else { "is removed" };
            told(context, &gone, |name| format!("image {name} {what}"))?;
            context.output.say(&match gone.names.len() {
                0 => "nothing to remove: every image is used".to_owned(),
                _ => format!("{} of layers, but for what other images have as well", bytes(gone.size)),
            });
            Ok(())
        }
        ImageCommand::Import { file, name } => import(context, &file, name.as_deref()).await,
        ImageCommand::Export { images, file } => export(context, &images, file.as_deref()).await,
    }
}

/// Says what came or went.
pub(super) fn told(context: &Context, changed: &ImagesChanged, text: impl Fn(&str) -> String) -> Result<(), Problem> {
    match context.output.format {
        Format::Json | Format::Yaml => return context.output.document(changed),
        Format::Name => changed.names.iter().for_each(|name| line(name)),
        Format::Table | Format::Wide => changed.names.iter().for_each(|name| context.output.say(&text(name))),
    }
    Ok(())
}

async fn info(context: &Context, image: &str) -> Result<(), Problem> {
    let details: ImageDetails = context.client.get_image(image).await?;
    if context.output.wants_document() {
        return context.output.document(&details);
    }
    let fact = |title: &str, text: &str| {
        if !text.is_empty() {
            line(&format!("{title:<12}{text}"));
        }
    };
    let words = |key: &str| {
        let list = details.config["config"][key].as_array().into_iter().flatten();
        list.filter_map(|word| word.as_str()).collect::<Vec<_>>().join(" ")
    };
    let word = |key: &str| details.config["config"][key].as_str().unwrap_or_default().to_owned();
    let ports = details.config["config"]["ExposedPorts"].as_object();
    let ports = ports.map(|ports| ports.keys().cloned().collect::<Vec<_>>().join(" "));
    fact("Image", &details.image.name);
    fact("Digest", &details.image.digest);
    fact("Platform", details.image.platform.as_deref().unwrap_or("parts of it are missing: hivemind image pull"));
    fact("Size", &bytes(details.image.size));
    fact("Entrypoint", &words("Entrypoint"));
    fact("Command", &words("Cmd"));
    fact("User", &word("User"));
    fact("Directory", &word("WorkingDir"));
    fact("Ports", &ports.unwrap_or_default());
    fact("Stop signal", &word("StopSignal"));
    fact("Used by", &details.image.used_by.join(" "));
    fact("Age", &age(details.image.created_at));
    for layer in &details.layers {
        fact("Layer", &format!("{}  {}", layer.digest, bytes(layer.size)));
    }
    Ok(())
}

/// A bar for who looks; none otherwise.
pub(super) fn bar(context: &Context) -> Option<ProgressBar> {
    (std::io::stderr().is_terminal() && !context.output.quiet).then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    })
}

async fn pull(context: &Context, image: &str) -> Result<(), Problem> {
    let image = fetched(context, image).await?;
    if context.output.wants_document() {
        return context.output.document(&image);
    }
    context.output.say(&format!("image {} is there: {}", image.name, image.digest));
    if context.output.format == Format::Name {
        line(&image.name);
    }
    Ok(())
}

/// Has the node fetch an image, and shows how far it is.
pub(super) async fn fetched(context: &Context, image: &str) -> Result<ImageView, Problem> {
    let bar = bar(context);
    let mut lines = context.client.pull_image(image).await?;
    while let Some(now) = lines.next().await {
        let PullView { step, done, total, image, problem } = now?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if let Some(bar) = &bar {
            bar.set_message(step);
            bar.set_length(total);
            bar.set_position(done);
        }
        if let Some(image) = image {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            return Ok(image);
        }
    }
    Err(Problem::new(ErrorCode::Unreachable, "the daemon ended the connection before the image was there")
        .hint("repeat it; what has come is kept for a day"))
}

pub(super) fn unusable(file: &std::path::Path, error: &std::io::Error) -> Problem {
    Problem::new(ErrorCode::Invalid, format!("{}: {error}", file.display()))
}

async fn import(context: &Context, file: &std::path::Path, name: Option<&str>) -> Result<(), Problem> {
    let how = ImportImagesArgs { name: name.map(str::to_owned) };
    let taken: ImagesChanged = if file.as_os_str() == "-" {
        if std::io::stdin().is_terminal() {
            let title = "there is no archive on standard input: it is a terminal";
            return Err(Problem::new(ErrorCode::Invalid, title).hint("docker save own:1 | hivemind image import -"));
        }
        context.client.import_images(ReaderStream::with_capacity(tokio::io::stdin(), 1 << 18), &how).await?
    } else {
        let open = tokio::fs::File::open(file).await.map_err(|error| unusable(file, &error))?;
        context.client.import_images(ReaderStream::with_capacity(open, 1 << 18), &how).await?
    };
    told(context, &taken, |name| format!("image {name} is there"))
}

async fn export(context: &Context, images: &[String], file: Option<&std::path::Path>) -> Result<(), Problem> {
    if file.is_none() && std::io::stdout().is_terminal() {
        let title = "an archive is nothing for a terminal";
        return Err(Problem::new(ErrorCode::Invalid, title).hint("hivemind image export IMAGE -f FILE"));
    }
    let mut parts = context.client.export_images(&images.join(",")).await?;
    match file {
        None => {
            let mut out = tokio::io::stdout();
            while let Some(part) = parts.next().await {
                let written = out.write_all(&part?).await;
                written.map_err(|error| unusable(std::path::Path::new("standard output"), &error))?;
            }
            out.flush().await.map_err(|error| unusable(std::path::Path::new("standard output"), &error))
        }
        Some(file) => {
            // Beside its place until it is whole.
            let part = file.with_added_extension("part");
            let written = async {
                let mut out = tokio::fs::File::create(&part).await.map_err(|error| unusable(&part, &error))?;
                while let Some(bytes) = parts.next().await {
                    out.write_all(&bytes?).await.map_err(|error| unusable(&part, &error))?;
                }
                out.sync_all().await.map_err(|error| unusable(&part, &error))
            };
            if let Err(problem) = written.await {
                let _ = tokio::fs::remove_file(&part).await;
                return Err(problem);
            }
            tokio::fs::rename(&part, file).await.map_err(|error| unusable(file, &error))?;
            context.output.say(&format!("written to {}", file.display()));
            Ok(())
        }
    }
}
