//! What builds images on this machine.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

use crate::{
    compat::compose::build::Builder,
    model::{ErrorCode, Problem},
};

/// How long a builder's daemon may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The builder that was chosen, or the first that is there. `what` is what is to be built.
///
/// # Errors
/// [`ErrorCode::NoBuilder`], with what is missing of each.
pub(super) async fn builder(chosen: Option<Builder>, what: &str) -> Result<Builder, Problem> {
    let wanted = chosen.map_or(Builder::ALL.to_vec(), |one| vec![one]);
    let mut missing = Vec::new();
    for builder in wanted {
        match present(builder).await {
            Ok(()) => return Ok(builder),
            Err(why) => missing.push(format!("{}: {why}", builder.name())),
        }
    }
    let title = match chosen {
        Some(builder) => format!("{} cannot build {what} on this machine", builder.name()),
        None => format!("{what} is to be built, and nothing on this machine builds images"),
    };
    let problem = missing.into_iter().fold(Problem::new(ErrorCode::NoBuilder, title), Problem::detail);
    Err(problem.hint("apt-get install buildah containernetworking-plugins   (or docker.io with docker-buildx, or BuildKit with its daemon)"))
}

/// Whether a builder is there, and answers.
async fn present(builder: Builder) -> Result<(), String> {
    match builder {
        Builder::BuildKit => {
            let answer = said("buildctl", &["debug", "workers"]).await?;
            answer.map_err(|why| format!("no buildkitd answers: {why}"))
        }
        Builder::Docker => {
            let answer = said("docker", &["version", "--format", "{{.Server.Version}}"]).await?;
            answer.map_err(|why| format!("no daemon answers: {why}"))?;
            let answer = said("docker", &["buildx", "version"]).await?;
            answer.map_err(|_| {
                "docker has no buildx; Debian's package is docker-buildx, Docker's docker-buildx-plugin".into()
            })
        }
        Builder::Buildah => {
            let answer = said("buildah", &["--version"]).await?;
            answer.map_err(|why| format!("it does not run: {why}"))
        }
    }
}

/// Whether a command ends well; else the last line that it has said.
///
/// # Errors
/// If there is no such program, or it does not end.
async fn said(program: &str, words: &[&str]) -> Result<Result<(), String>, String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    let ended =
        ended.map_err(|_| format!("{program} {} has said nothing for {} s", words.join(" "), PATIENCE.as_secs()))?;
    let output = ended.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no {program} in PATH"),
        _ => format!("{program} cannot be run: {error}"),
    })?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Ok(Err(last.map_or_else(|| output.status.to_string(), str::to_owned)))
}
