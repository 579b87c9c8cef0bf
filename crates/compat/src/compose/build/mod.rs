//! What is to be built of a project, and how each builder is told so. Pure: what comes out are words of commands.
//!
//! A builder runs in a folder of its own, begins with what [`Recipe::files`] says is in it, and leaves an archive there,
//! [`ARCHIVE`]. What a builder cannot do is refused by its name and the key's; nothing is left out without a word.

mod buildah;
mod buildkit;
mod docker;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::model::deploy::Build;
use hivemind_core::model::Hidden;

/// The archive that a recipe leaves in its folder: an OCI layout, or what `docker save` writes.
pub const ARCHIVE: &str = "image.tar";
/// Where a Dockerfile that stands in the Compose file is put, for builders that do not take it from standard input.
const INLINE: &str = "inline";
/// The Dockerfile's name where nothing else is said.
const DOCKERFILE: &str = "Dockerfile";

/// What builds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Builder {
    /// BuildKit's own daemon, through `buildctl`.
    BuildKit,
    /// Docker's daemon, through `docker buildx`.
    Docker,
    /// buildah, which needs no daemon.
    Buildah,
}

impl Builder {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 3] = [Self::BuildKit, Self::Docker, Self::Buildah];

    /// The name that it is chosen by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BuildKit => "buildkit",
            Self::Docker => "docker",
            Self::Buildah => "buildah",
        }
    }

    /// Its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::BuildKit => "buildctl",
            Self::Docker => "docker",
            Self::Buildah => "buildah",
        }
    }
}

/// An image that is to be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its name, as it stands in the file: `shop-web`.
    pub image: String,
    /// The services that it is for; never empty. The faults of a build are at the first one.
    pub services: Vec<String>,
    /// When it is built.
    pub when: When,
    /// The folder, absolute, or the address.
    pub context: String,
    /// What it is built for; empty: for the machine that builds.
    pub platforms: Vec<String>,
    /// What commands of the build see.
    pub secrets: Vec<Secret>,
    /// The section itself. Its context and its platforms are above, its secrets by names only.
    pub build: Build,
}

/// When an image is built, if nothing is said about it where `up` is typed. The last one is the strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum When {
    /// If the node does not have it.
    Missing,
    /// If the node does not have it, and no registry either.
    NowhereElse,
    /// Each time.
    Always,
}

/// What commands of a build see as `/run/secrets/ID`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secret {
    /// The name that the Dockerfile mounts it by.
    pub id: String,
    /// Where it comes from.
    pub from: From,
}

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum From {
    /// A file, absolute.
    File(String),
    /// This text. Builders get it by a variable, never as a word.
    Text(Hidden),
}

/// How an image is built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    /// Files of the folder, by their paths in it.
    pub files: Vec<(String, String)>,
    /// What is run, one after the other; the first one that fails is the last.
    pub commands: Vec<Command>,
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The program.
    pub program: &'static str,
    /// Its words.
    pub args: Vec<String>,
    /// Variables beside those of who types.
    pub env: Vec<(String, Hidden)>,
    /// What it reads; `None`: nothing.
    pub input: Option<String>,
}

/// What a builder cannot do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The key of `build`.
    pub key: &'static str,
    /// Why, and what to do instead.
    pub why: String,
}

/// How a builder makes an image.
///
/// # Errors
/// Everything that it cannot do.
pub fn recipe(builder: Builder, wanted: &Wanted) -> Result<Recipe, Vec<Refusal>> {
    let mut refused = Vec::new();
    commas(wanted, &mut refused);
    let recipe = match builder {
        Builder::BuildKit => buildkit::recipe(wanted, &mut refused),
        Builder::Docker => docker::recipe(wanted, &mut refused),
        Builder::Buildah => buildah::recipe(wanted, &mut refused),
    };
    if refused.is_empty() { Ok(recipe) } else { Err(refused) }
}

/// Whether a context is of elsewhere: the builder fetches it.
pub(super) fn is_remote(context: &str) -> bool {
    let kinds = ["git@", "github.com/", "service:", "docker-image:", "oci-layout:", "target:"];
    context.contains("://") || kinds.iter().any(|kind| context.starts_with(kind))
}

/// Words of a command line, one after the other.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn of(words: &[&str]) -> Self {
        Self(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn word(&mut self, word: impl Into<String>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) -> &mut Self {
        self.word(flag).word(value)
    }

    /// A flag for each of these.
    fn each(&mut self, flag: &str, values: impl IntoIterator<Item = String>) -> &mut Self {
        for value in values {
            self.pair(flag, value);
        }
        self
    }
}

impl Wanted {
    /// The Dockerfile in a folder of this machine, absolute; as it is said if the context is of elsewhere.
    fn dockerfile(&self) -> String {
        let name = self.build.dockerfile.as_deref().unwrap_or(DOCKERFILE);
        if is_remote(&self.context) {
            return name.to_owned();
        }
        Path::new(&self.context).join(name).to_string_lossy().into_owned()
    }

    /// `NAME=VALUE` of each argument that has a value.
    fn args(&self) -> impl Iterator<Item = String> {
        self.build.args.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
    }

    fn labels(&self) -> impl Iterator<Item = String> {
        self.build.labels.iter().map(|(name, value)| format!("{name}={value}"))
    }

    /// Names of hosts, each with one address.
    fn hosts(&self) -> impl Iterator<Item = (&str, &str)> {
        let hosts = self.build.extra_hosts.iter();
        hosts.flat_map(|(name, addresses)| addresses.iter().map(move |address| (name.as_str(), address.as_str())))
    }

    /// `nofile=1024:2048`
    fn ulimits(&self) -> impl Iterator<Item = String> {
        self.build.ulimits.iter().filter_map(|(name, limit)| {
            let soft = limit.soft.or(limit.hard)?;
            Some(format!("{name}={soft}:{}", limit.hard.unwrap_or(soft)))
        })
    }

    /// Bytes of `/dev/shm`.
    fn shm_size(&self) -> Option<String> {
        self.build.shm_size.map(|size| size.0.to_string())
    }

    /// `default`, or `NAME=SOCKET`.
    fn agents(&self) -> impl Iterator<Item = String> {
        let agents = self.build.ssh.iter();
        agents.map(|(name, value)| if value.is_empty() { name.clone() } else { format!("{name}={value}") })
    }

    /// The secrets as all three builders take them, and the variables that hold some of them.
    fn secrets(&self) -> (Vec<String>, Vec<(String, Hidden)>) {
        let (mut words, mut env) = (Vec::new(), Vec::new());
        for Secret { id, from } in &self.secrets {
            match from {
                From::File(path) => words.push(format!("id={id},src={path}")),
                From::Text(text) => {
                    let variable = format!("HIVEMIND_BUILD_SECRET_{}", env.len());
                    words.push(format!("id={id},env={variable}"));
                    env.push((variable, text.clone()));
                }
            }
        }
        (words, env)
    }
}

/// Builders take some values as one word with commas between its parts.
fn commas(wanted: &Wanted, refused: &mut Vec<Refusal>) {
    let parted = |text: &str| text.contains([',', '"', '\n']);
    for Secret { id, from } in &wanted.secrets {
        let path = if let From::File(path) = from { path } else { "" };
        if let Some(text) = [id.as_str(), path].into_iter().find(|text| parted(text)) {
            let why = format!("{text:?} has a comma, a quote or a line's end, which builders cannot be given");
            refused.push(Refusal { key: "secrets", why });
        }
    }
}

fn refuse(refused: &mut Vec<Refusal>, key: &'static str, why: impl Into<String>) {
    refused.push(Refusal { key, why: why.into() });
}
