//! `hivemind ps`

use clap::Args;

use super::{
    Context,
    output::{Listed, addresses, age},
};
use crate::{api::view::InstanceView, model::Problem};

#[derive(Args, Debug)]
pub(super) struct PsArgs {
    /// Only instances of these apps
    apps: Vec<String>,
}

impl Listed for InstanceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["INSTANCE", "APP", "PHASE", "RESTARTS", "AGE", "ADDRESSES", "MESSAGE"], &["NODE", "IMAGE", "ID"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.app.clone(),
            self.phase.to_string(),
            self.restarts.to_string(),
            age(self.created_at),
            addresses(&self.addresses),
            self.message.clone(),
            self.node.to_string(),
            self.image.clone(),
            self.id.to_string(),
        ]
    }
}

pub(super) async fn ps(context: &Context, args: &PsArgs) -> Result<(), Problem> {
    let all: Vec<InstanceView> = context.client.get(&context.path("instances")).await?;
    let wanted = |instance: &InstanceView| args.apps.is_empty() || args.apps.contains(&instance.app);
    let shown: Vec<_> = all.into_iter().filter(wanted).collect();
    context.output.list(&shown, "no instances; try: hivemind app deploy --image nginx:latest --name web --port 8080:80")
}

/// The instances that a word on the command line means: those of the app, or the one of that name or id.
pub(super) async fn resolve(context: &Context, word: &str) -> Result<Vec<InstanceView>, Problem> {
    let all: Vec<InstanceView> = context.client.get(&context.path("instances")).await?;
    let of_app: Vec<_> = all.into_iter().filter(|instance| instance.app == word).collect();
    if !of_app.is_empty() {
        return Ok(of_app);
    }
    let path = context.path(&format!("instances/{}", escape(word)));
    Ok(vec![context.client.get(&path).await?])
}

/// Text in a URL: everything but letters, digits and `-_.~` as `%XX` (RFC 3986).
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_escaped_for_urls() {
        assert_eq!(super::escape("a b/ü[\"x\"]"), "a%20b%2F%C3%BC%5B%22x%22%5D");
    }
}
