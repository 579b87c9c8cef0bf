//! `--volume` and `--mount` of `hivemind app deploy`.

use std::path::{Component, Path, PathBuf};

use clap::Args;

use super::complete;
use crate::spec::v1::{FileSpec, MountSpec, without_effect};

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Files")]
pub(super) struct MountArgs {
    /// Volume NAME:/path[:ro], folder of the node /on/the/node:/path[:ro], or /path alone for one of its own; may be repeated
    #[arg(long, short, value_name = "[SOURCE:]PATH[:ro]", add = complete::volumes())]
    volume: Vec<String>,
    /// The same in Docker's long form: type=volume|bind,source=…,target=…,readonly; may be repeated
    #[arg(long, value_name = "KEY=VALUE,…")]
    mount: Vec<String>,
    /// Secret as a file, /run/secrets/NAME if nothing else is said; also source=,target=,uid=,gid=,mode=; may be repeated
    #[arg(long, value_name = "NAME[:PATH]", add = complete::secrets())]
    secret: Vec<FileSpec>,
    /// Config as a file, /NAME if nothing else is said; also source=,target=,uid=,gid=,mode=; may be repeated
    #[arg(long, value_name = "NAME[:PATH]", add = complete::configs())]
    config: Vec<FileSpec>,
}

impl MountArgs {
    /// Secrets and configs.
    pub(super) fn files(&self) -> (Vec<FileSpec>, Vec<FileSpec>) {
        (self.secret.clone(), self.config.clone())
    }

    /// The mounts; faults are added, and what of them has no effect is said to `say`.
    pub(super) fn spec(&self, faults: &mut Vec<String>, mut say: impl FnMut(String)) -> Vec<MountSpec> {
        let mut mounts = Vec::new();
        for text in &self.volume {
            for option in without_effect(text) {
                say(format!("--volume {text}: {option} has no effect here"));
            }
            match from_here(text).parse() {
                Ok(mount) => mounts.push(mount),
                Err(why) => faults.push(format!("--volume: {why}")),
            }
        }
        for text in &self.mount {
            match MountSpec::from_pairs(text) {
                Ok(mount) => mounts.push(mount),
                Err(why) => faults.push(format!("--mount: {why}")),
            }
        }
        mounts
    }
}

/// `./site:/www` with the path of the folder that the command is given in.
fn from_here(text: &str) -> String {
    let Some((source, rest)) = text.split_once(':').filter(|(source, _)| source.starts_with('.')) else {
        return text.to_owned();
    };
    match std::env::current_dir() {
        Ok(here) => format!("{}:{rest}", lexical(&here.join(source)).display()),
        Err(_) => text.to_owned(),
    }
}

/// Without `.` and `..`, as the shell shows a path.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_from_here_become_absolute() {
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(from_here("./site:/www:ro"), format!("{}/site:/www:ro", here.display()));
        let above = here.parent().expect("not the root");
        assert_eq!(from_here("../site:/www"), format!("{}:/www", above.join("site").display()));
        assert_eq!(from_here("data:/www"), "data:/www");
        assert_eq!(from_here("/srv:/www"), "/srv:/www");
    }

    #[test]
    fn what_has_no_effect_is_said_and_every_fault_named() {
        let args = MountArgs {
            volume: vec!["data:/d:ro,Z".into(), "data".into()],
            mount: vec!["type=nfs,target=/x".into(), "src=a,dst=/y".into()],
            ..MountArgs::default()
        };
        let (mut faults, mut said) = (Vec::new(), Vec::new());
        let mounts = args.spec(&mut faults, |text| said.push(text));
        assert_eq!(mounts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["data:/d:ro", "a:/y"]);
        assert_eq!(said, ["--volume data:/d:ro,Z: Z has no effect here"]);
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
