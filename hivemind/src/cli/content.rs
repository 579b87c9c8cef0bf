//! `hivemind secret|config …`

use std::{collections::BTreeMap, io::Read as _, path::PathBuf};

use clap::{Args, CommandFactory as _, Subcommand};
use http::Method;

use super::{
    Context, Reach, complete,
    output::{Format, Listed, age, bytes, line},
    parse::label,
    settings::{self, ConfigFile},
    tenant::done,
};
use crate::{
    api::{contents::ContentView, tenants::ChangedView},
    model::{AppName, ContentKind, ContentName, ErrorCode, Hidden, Problem},
    spec::v1::{ContentSpec, MAX_CONTENT},
};

/// Shown beneath `hivemind secret --help`.
const SECRET_EXAMPLES: &str = "\
Examples:
  hivemind secret create db_password --file password.txt
  pass show db | hivemind secret create db_password --stdin --replace
  hivemind app deploy --image postgres:16 --name db --secret db_password \\
    --env POSTGRES_PASSWORD_FILE=/run/secrets/db_password
A secret is a read-only file of the instance, in memory. Its content is never shown again. When it is changed, the apps
that have it get new instances, one after the other, unless they were deployed with --update-contents keep.";

/// Shown beneath `hivemind config --help`.
const CONFIG_EXAMPLES: &str = "\
Examples:
  hivemind config create site --file nginx.conf
  hivemind app deploy --image nginx:latest --name web --config site:/etc/nginx/nginx.conf
  hivemind config show site > nginx.conf
  hivemind config check                                 is /etc/hivemind/config.toml as it should be?
  hivemind config show                                  the daemon's settings, and where each comes from
A config is a read-only file of the instance. When it is changed, the apps that have it get new instances, one after the
other, unless they were deployed with --update-contents keep.";

#[derive(Subcommand, Debug)]
#[command(after_help = SECRET_EXAMPLES)]
pub(super) enum SecretCommand {
    /// Create a secret of a file, or of what is typed
    Create(CreateArgs),
    /// List the secrets
    #[command(visible_alias = "list")]
    Ls(Reach),
    /// Show who uses a secret, but not its content
    #[command(visible_alias = "inspect")]
    Info {
        /// Name of the secret
        #[arg(add = complete::secrets())]
        name: ContentName,
    },
    /// Remove a secret; nobody may use it
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Name of the secret
        #[arg(add = complete::secrets())]
        name: ContentName,
    },
}

#[derive(Subcommand, Debug)]
#[command(after_help = CONFIG_EXAMPLES)]
pub(super) enum ConfigCommand {
    /// Create a config of a file, or of what is typed
    Create(CreateArgs),
    /// List the configs
    #[command(visible_alias = "list")]
    Ls(Reach),
    /// Print a config, with -o json who uses it, too; without a name the daemon's settings and where each comes from
    #[command(visible_aliases = ["info", "inspect"])]
    Show {
        /// Name of the config
        #[arg(add = complete::configs())]
        name: Option<ContentName>,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check the daemon's configuration; needs no daemon
    Check(ConfigFile),
    /// Remove a config; nobody may use it
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Name of the config
        #[arg(add = complete::configs())]
        name: ContentName,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Its name: letters, digits, '_', '.' and '-'
    name: ContentName,
    #[command(flatten)]
    source: Source,
    /// Label; may be repeated
    #[arg(long, value_parser = label, value_name = "NAME=VALUE")]
    label: Vec<(String, String)>,
    /// Give one that is there this content
    #[arg(long)]
    replace: bool,
}

/// Never the command line itself: others of the machine can read it.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Source {
    /// File with the content; '-' is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The content comes on standard input
    #[arg(long)]
    stdin: bool,
}

impl Source {
    fn read(&self) -> Result<Hidden, Problem> {
        let (shown, read) = match self.file.as_deref().filter(|file| file.to_str() != Some("-")) {
            Some(file) => (file.display().to_string(), std::fs::read(file)),
            None => {
                let mut data = Vec::new();
                let read = std::io::stdin().take(MAX_CONTENT as u64 + 1).read_to_end(&mut data);
                ("standard input".into(), read.map(|_| data))
            }
        };
        let data =
            read.map_err(|error| Problem::new(ErrorCode::Invalid, format!("{shown} cannot be read: {error}")))?;
        if data.len() > MAX_CONTENT {
            let title = format!("{shown} has more than {MAX_CONTENT} bytes, the most there may be");
            return Err(Problem::new(ErrorCode::Invalid, title).hint("use a volume for larger files"));
        }
        Ok(Hidden(data))
    }
}

impl Listed for ContentView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "SIZE", "VERSION", "USED BY", "LABELS", "AGE", "CHANGED"], &["REVISION"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn place(&self) -> (String, String) {
        (self.tenant.to_string(), self.namespace.to_string())
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            bytes(self.bytes as u64),
            self.version.to_string(),
            self.used_by.iter().filter_map(|user| user.strip_prefix("app ")).collect::<Vec<_>>().join(" "),
            labels(&self.labels),
            age(self.created_at),
            age(self.changed_at),
            self.revision.to_string(),
        ]
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

pub(super) async fn secret(context: &Context, command: SecretCommand) -> Result<(), Problem> {
    let kind = ContentKind::Secret;
    match command {
        SecretCommand::Create(args) => create(context, kind, args).await,
        SecretCommand::Ls(reach) => list(context, kind, reach).await,
        SecretCommand::Info { name } => {
            let secret: ContentView = context.client.get(&path(context, kind, &name)).await?;
            match context.output.format {
                Format::Json | Format::Yaml => context.output.document(&secret)?,
                Format::Name => line(&secret.name),
                Format::Table | Format::Wide => describe(&secret).iter().for_each(|text| line(text)),
            }
            Ok(())
        }
        SecretCommand::Rm { name } => remove(context, kind, &name).await,
    }
}

pub(super) async fn config(context: &Context, command: ConfigCommand) -> Result<(), Problem> {
    let kind = ContentKind::Config;
    match command {
        ConfigCommand::Create(args) => create(context, kind, args).await,
        ConfigCommand::Ls(reach) => list(context, kind, reach).await,
        ConfigCommand::Check(file) => settings::check(context.output, super::Args::command, &file),
        ConfigCommand::Show { name: None, file } => settings::show(context.output, super::Args::command, &file),
        ConfigCommand::Show { name: Some(name), .. } => {
            let config: ContentView = context.client.get(&path(context, kind, &name)).await?;
            match context.output.format {
                Format::Json | Format::Yaml => context.output.document(&config)?,
                Format::Name => line(&config.name),
                Format::Table | Format::Wide => {
                    let data = config.data.unwrap_or_default();
                    let mut out = std::io::stdout().lock();
                    std::io::Write::write_all(&mut out, &data.0)
                        .and_then(|()| std::io::Write::flush(&mut out))
                        .map_err(|error| Problem::new(ErrorCode::Internal, format!("cannot write: {error}")))?;
                }
            }
            Ok(())
        }
        ConfigCommand::Rm { name } => remove(context, kind, &name).await,
    }
}

fn path(context: &Context, kind: ContentKind, name: &ContentName) -> String {
    context.path(&format!("{kind}s/{name}"))
}

async fn create(context: &Context, kind: ContentKind, args: CreateArgs) -> Result<(), Problem> {
    let CreateArgs { name, source, label, replace } = args;
    let body = ContentSpec { data: source.read()?, labels: label.into_iter().collect() };
    let path = format!("{}?replace={replace}", path(context, kind, &name));
    let changed: ChangedView = context.client.send(Method::PUT, &path, &body).await?;
    let text = match (changed.created, changed.changed) {
        (true, _) => format!("{kind} {name} is created"),
        (false, true) => changed_text(kind, &name, &changed.renewed),
        (false, false) => format!("{kind} {name} is already as asked for"),
    };
    done(context, name.as_str(), &text, changed)
}

fn changed_text(kind: ContentKind, name: &ContentName, renewed: &[AppName]) -> String {
    let apps: Vec<_> = renewed.iter().map(AppName::as_str).collect();
    match apps.as_slice() {
        [] => format!("{kind} {name} is changed"),
        [app] => format!("{kind} {name} is changed; {app} gets new instances"),
        several => format!("{kind} {name} is changed; {} get new instances", several.join(", ")),
    }
}

async fn list(context: &Context, kind: ContentKind, reach: Reach) -> Result<(), Problem> {
    let all: Vec<ContentView> = context.list(reach, &format!("{kind}s")).await?;
    context.output.list_with(reach.columns(), &all, &format!("no {kind}s"))
}

async fn remove(context: &Context, kind: ContentKind, name: &ContentName) -> Result<(), Problem> {
    let changed: ChangedView = context.client.call(Method::DELETE, &path(context, kind, name)).await?;
    done(context, name.as_str(), &format!("{kind} {name} is removed"), changed)
}

/// A secret for people.
fn describe(secret: &ContentView) -> Vec<String> {
    let used = if secret.used_by.is_empty() { "nobody".into() } else { secret.used_by.join(", ") };
    let mut lines = Vec::new();
    let mut say = |title: &str, text: String| lines.push(format!("{:<10} {text}", format!("{title}:")));
    say("Name", secret.name.clone());
    say("Namespace", format!("{}/{}", secret.tenant, secret.namespace));
    say("Size", bytes(secret.bytes as u64));
    say("Version", secret.version.to_string());
    say("Used by", used);
    if !secret.labels.is_empty() {
        say("Labels", labels(&secret.labels));
    }
    say("Age", age(secret.created_at));
    lines
}
