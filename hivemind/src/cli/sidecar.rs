//! Sidecars: their files, and how they are shown.

use std::path::PathBuf;

use super::output::age;
use crate::{
    api::view::{InstanceView, SidecarView},
    spec::v1::{AppSpec, SidecarSpec},
};

/// Reads the documents of sidecars.
pub(super) fn read(paths: &[PathBuf], faults: &mut Vec<String>) -> Vec<SidecarSpec> {
    let mut all = Vec::new();
    for path in paths {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                faults.push(format!("--sidecar {shown}: {error}"));
                continue;
            }
        };
        let json = path.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"));
        let read = if json {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        } else {
            toml::from_str(&text).map_err(|error| error.to_string())
        };
        match read {
            Ok(sidecar) => all.push(sidecar),
            Err(why) => faults.push(format!("--sidecar {shown}: {}", why.trim_end())),
        }
    }
    all
}

/// The sidecars of an app, in words.
pub(super) fn shown(spec: &AppSpec) -> String {
    let one = |it: &SidecarSpec| format!("{} ({})", it.name, it.image);
    spec.sidecars.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// How the sidecars of an instance are, a line for each.
pub(super) fn states(instance: &InstanceView) -> impl Iterator<Item = String> {
    instance.sidecars.iter().map(|it| format!("{}/{} is {}", instance.name, it.name, state(it)))
}

fn state(SidecarView { status, .. }: &SidecarView) -> String {
    let mut text = status.phase.to_string();
    if status.restarts > 0 {
        text += &format!(", started again {} times", status.restarts);
    }
    if !status.message.is_empty() {
        text += &format!(": {}", status.message);
    } else if let Some(exit) = &status.last_exit {
        let how = match &exit.because {
            Some(because) => because.clone(),
            None if exit.oom => "out of memory".into(),
            None => format!("exit code {}", exit.code),
        };
        text += &format!("; ended {} ago: {how}", age(exit.at));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_sidecars_are_read_and_all_faults_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let paths = [
            file("a.toml", "name = \"a\"\nimage = \"x\"\n[env]\nA = \"1\"\n[resources]\nmemory = \"64Mi\"\n"),
            file("b.json", r#"{"name":"b","image":"y","restart":"on-failure"}"#),
            file("c.toml", "name = \"C\"\nimage = \"x\"\n"),
            file("d.json", r#"{"name":"d","image":"x","colour":"red"}"#),
            dir.path().join("none"),
        ];
        let mut faults = Vec::new();
        let names: Vec<_> = read(&paths, &mut faults).into_iter().map(|it| it.name.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
        for (fault, part) in faults.iter().zip(["use lower-case letters", "colour", "No such file"]) {
            assert!(fault.contains(part), "{fault}");
        }
        assert_eq!(faults.len(), 3);
    }
}
