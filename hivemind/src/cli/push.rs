//! `hivemind image push`.

use std::{
    collections::BTreeSet,
    io::{IsTerminal as _, Seek as _},
    path::Path,
};

use futures::StreamExt as _;

use super::{
    Context,
    image::{bar, told, unusable},
    output::{Format, bytes, line},
};
use crate::{
    api::images::{ImagesChanged, Layers, PushView, PushedView},
    client::{ImportImagesArgs, PushImageArgs},
    model::{ErrorCode, Problem},
    runtime::Offer,
};

/// Layers that are asked about at once.
const ASKED: usize = 10_000;

/// From the node to a registry.
pub(super) async fn to_registry(context: &Context, image: &str, to: Option<&str>) -> Result<(), Problem> {
    let bar = bar(context);
    let mut lines = context.client.push_image(image, &PushImageArgs { to: to.map(str::to_owned) }).await?;
    while let Some(now) = lines.next().await {
        let PushView { step, done, total, pushed, problem } = now?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if let Some(bar) = &bar {
            bar.set_message(step);
            bar.set_length(total);
            bar.set_position(done);
        }
        if let Some(pushed) = pushed {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            return said(context, &pushed);
        }
    }
    Err(Problem::new(ErrorCode::Unreachable, "the daemon ended the connection before the image was sent")
        .hint("repeat it; layers that the registry has are not sent again"))
}

fn said(context: &Context, pushed: &PushedView) -> Result<(), Problem> {
    if context.output.wants_document() {
        return context.output.document(pushed);
    }
    let PushedView { name, digest, sent, mounted, there, left_out } = pushed;
    let (sent, known) = (bytes(*sent), bytes(mounted + there));
    context.output.say(&format!("image {name} is in its registry: {digest}; {sent} sent, {known} were there"));
    if !left_out.is_empty() {
        let left_out = left_out.join(", ");
        context.output.say(&format!("it is the variant for this node alone: {left_out} is not on it"));
    }
    if context.output.format == Format::Name {
        line(name);
    }
    Ok(())
}

/// From here to the node: the layers that it lacks.
pub(super) async fn to_node(context: &Context, from: &Path, name: Option<&str>) -> Result<(), Problem> {
    let offer = looked_through(from, name).await?;
    let taken = deliver(context, &offer).await?;
    told(context, &taken, |name| format!("image {name} is there"))
}

/// Sends what the node lacks of an image, and says how much that was.
pub(super) async fn deliver(context: &Context, offer: &Offer) -> Result<ImagesChanged, Problem> {
    let layers = offer.layers();
    let mut missing = BTreeSet::new();
    for asked in layers.chunks(ASKED) {
        let asked = Layers { layers: asked.to_vec() };
        let answer: Layers = context.client.missing_layers(&asked).await?;
        missing.extend(answer.layers);
    }
    let taken = match send(context, offer, &missing).await {
        // One that was there has gone meanwhile. All of them are an archive by themselves.
        Err(problem) if problem.code == ErrorCode::BadArchive && missing.len() < layers.len() => {
            send(context, offer, &layers.into_iter().collect()).await?
        }
        taken => taken?,
    };
    context.output.say(&match (missing.len(), offer.layers().len()) {
        (0, all) => format!("nothing to send: the node has all {all} layers"),
        (sent, all) => format!("{sent} of {all} layers sent, {}", bytes(offer.size(&missing))),
    });
    Ok(taken)
}

async fn send(context: &Context, offer: &Offer, layers: &BTreeSet<String>) -> Result<ImagesChanged, Problem> {
    let bar = bar(context);
    if let Some(bar) = &bar {
        bar.set_message("sending");
        bar.set_length(offer.size(layers));
    }
    let shown = bar.clone();
    let archive = offer.archive(layers).inspect(move |part| {
        if let (Some(bar), Ok(part)) = (&shown, part) {
            bar.inc(part.len() as u64);
            if bar.length().is_some_and(|all| bar.position() >= all) {
                bar.set_message("unpacking");
            }
        }
    });
    let taken = context.client.import_images(archive, &ImportImagesArgs::default()).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    taken
}

/// What is in an archive, or in a folder. An archive on standard input is kept meanwhile, in a file without a name: its
/// digests have to be known before anything is sent.
async fn looked_through(from: &Path, name: Option<&str>) -> Result<Offer, Problem> {
    if from.as_os_str() == "-" && std::io::stdin().is_terminal() {
        let title = "there is no archive on standard input: it is a terminal";
        return Err(Problem::new(ErrorCode::Invalid, title).hint("docker save own:1 | hivemind image push --from -"));
    }
    let (from, name) = (from.to_owned(), name.map(str::to_owned));
    let look = move || {
        let read = if from.as_os_str() == "-" {
            let dir = std::env::temp_dir();
            let kept = tempfile::tempfile_in(&dir).and_then(|mut file| {
                std::io::copy(&mut std::io::stdin().lock(), &mut file)?;
                file.rewind()?;
                Ok(file)
            });
            Offer::of_file(kept.map_err(|error| unusable(&dir, &error))?, name.as_deref())
        } else if from.is_dir() {
            Offer::of_folder(&from, name.as_deref())
        } else {
            let file = std::fs::File::open(&from).map_err(|error| unusable(&from, &error))?;
            Offer::of_file(file, name.as_deref())
        };
        read.map_err(|why| {
            Problem::new(ErrorCode::BadArchive, format!("{} cannot be sent: {why}", from.display()))
                .hint("hivemind image push --from PATH NAME   (the name for the image in it)")
        })
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?
}
