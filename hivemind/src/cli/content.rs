//! `hivemind secret|config …`

use std::{collections::BTreeMap, io::Read as _, path::PathBuf};

use clap::{Args, CommandFactory as _, Subcommand};

use super::{
    Context, complete,
    dry::Dry,
    list::ListArgs,
    output::{Format, Listed, age, bytes, line},
    parse::label,
    settings::{self, ConfigFile},
    tenant::done,
};
use crate::{
    api::{contents::ContentView, tenants::ChangedView},
    client::{self, Client, ContentArgs, ListAllArgs},
    model::{AppName, ContentKind, ContentName, ErrorCode, Hidden, Problem, Scope},
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
    Ls(ListArgs),
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
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Subcommand, Debug)]
#[command(after_help = CONFIG_EXAMPLES)]
pub(super) enum ConfigCommand {
    /// Create a config of a file, or of what is typed
    Create(CreateArgs),
    /// List the configs
    #[command(visible_alias = "list")]
    Ls(ListArgs),
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
        #[command(flatten)]
        dry: Dry,
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
    #[command(flatten)]
    dry: Dry,
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
        SecretCommand::Ls(args) => list(context, kind, &args).await,
        SecretCommand::Info { name } => {
            let secret: ContentView = context.client.get_secret(&context.scope, name.as_str()).await?;
            match context.output.format {
                Format::Json | Format::Yaml => context.output.document(&secret)?,
                Format::Name => line(&secret.name),
                Format::Table | Format::Wide => describe(&secret).iter().for_each(|text| line(text)),
            }
            Ok(())
        }
        SecretCommand::Rm { name, dry } => remove(context, kind, &name, dry).await,
    }
}

pub(super) async fn config(context: &Context, command: ConfigCommand) -> Result<(), Problem> {
    let kind = ContentKind::Config;
    match command {
        ConfigCommand::Create(args) => create(context, kind, args).await,
        ConfigCommand::Ls(args) => list(context, kind, &args).await,
        ConfigCommand::Check(file) => settings::check(context.output, super::Args::command, &file),
        ConfigCommand::Show { name: None, file } => settings::show(context.output, super::Args::command, &file),
        ConfigCommand::Show { name: Some(name), .. } => {
            let config: ContentView = context.client.get_config(&context.scope, name.as_str()).await?;
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
        ConfigCommand::Rm { name, dry } => remove(context, kind, &name, dry).await,
    }
}

async fn create(context: &Context, kind: ContentKind, args: CreateArgs) -> Result<(), Problem> {
    let CreateArgs { name, source, label, replace, dry } = args;
    let body = ContentSpec { data: source.read()?, labels: label.into_iter().collect() };
    let how = ContentArgs { replace, dry_run: dry.dry_run, if_match: None };
    let changed: ChangedView = match kind {
        ContentKind::Secret => context.client.put_secret(&context.scope, name.as_str(), &body, &how).await?,
        ContentKind::Config => context.client.put_config(&context.scope, name.as_str(), &body, &how).await?,
    };
    let text = match (changed.created, changed.changed) {
        (true, _) => format!("{kind} {name} {} created", dry.word("is", "would be")),
        (false, true) => changed_text(kind, &name, &changed.renewed, dry),
        (false, false) => format!("{kind} {name} is already as asked for"),
    };
    done(context, name.as_str(), &text, changed)
}

fn changed_text(kind: ContentKind, name: &ContentName, renewed: &[AppName], dry: Dry) -> String {
    let apps: Vec<_> = renewed.iter().map(AppName::as_str).collect();
    let changed = format!("{kind} {name} {} changed", dry.word("is", "would be"));
    match apps.as_slice() {
        [] => changed,
        [app] => format!("{changed}; {app} {} new instances", dry.word("gets", "would get")),
        several => format!("{changed}; {} {} new instances", several.join(", "), dry.word("get", "would get")),
    }
}

async fn list(context: &Context, kind: ContentKind, args: &ListArgs) -> Result<(), Problem> {
    let list = format!("{kind}s");
    let here = async |client: &Client, scope: &Scope, asked: &client::ListArgs| match kind {
        ContentKind::Secret => client.list_secrets(scope, asked).await,
        ContentKind::Config => client.list_configs(scope, asked).await,
    };
    let everywhere = async |client: &Client, asked: &ListAllArgs| match kind {
        ContentKind::Secret => client.list_all_secrets(asked).await,
        ContentKind::Config => client.list_all_configs(asked).await,
    };
    let all: Vec<ContentView> = context.list(args, here, everywhere).await?;
    context.show_list(args, &list, everywhere, &all, &format!("no {list}")).await
}

async fn remove(context: &Context, kind: ContentKind, name: &ContentName, dry: Dry) -> Result<(), Problem> {
    let changed: ChangedView = match kind {
        ContentKind::Secret => context.client.delete_secret(&context.scope, name.as_str(), &dry.change()).await?,
        ContentKind::Config => context.client.delete_config(&context.scope, name.as_str(), &dry.change()).await?,
    };
    done(context, name.as_str(), &format!("{kind} {name} {} removed", dry.word("is", "would be")), changed)
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
