//! Documents as people have them, wrong ones with their messages, and documents that are broken by chance.

mod broken;
mod documents;
mod features;
mod wrong;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    Loaded,
    fault::Findings,
    files::{Files, Request},
    load,
    value::{Data, Node},
};

/// A folder `/p` in memory, with what a test says of its load.
///
/// The text is `compose.yaml`; a line `#file NAME` begins another file, `/NAME` one of elsewhere. `#env A=1` sets a
/// variable, `#profile`, `#service`, `#name`, `#use FILE`, `#env-file FILE` are flags.
pub(super) struct Bundle {
    files: BTreeMap<PathBuf, Vec<u8>>,
    request: Request,
}

impl Files for Bundle {
    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.files.get(path).ok_or(io::ErrorKind::NotFound)?.clone())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }
}

impl Bundle {
    pub(super) fn of(text: &str) -> Self {
        let mut request = Request { working_dir: "/p".into(), ..Request::default() };
        let mut files: Vec<(PathBuf, String)> = vec![("/p/compose.yaml".into(), String::new())];
        for line in text.split_inclusive('\n') {
            let (word, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
            match word {
                "#file" => files.push((Path::new("/p").join(rest), String::new())),
                "#env" => {
                    let (name, value) = rest.split_once('=').unwrap();
                    request.environment.insert(name.to_owned(), value.to_owned());
                }
                "#profile" => request.profiles.push(rest.to_owned()),
                "#service" => request.services.push(rest.to_owned()),
                "#name" => request.project_name = Some(rest.to_owned()),
                "#use" => request.files.push(rest.into()),
                "#env-file" => request.env_files.push(rest.into()),
                _ => files.last_mut().unwrap().1.push_str(line),
            }
        }
        files.retain(|(_, text)| !text.is_empty());
        Self { files: files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect(), request }
    }

    pub(super) fn load(&self) -> Result<Loaded, Findings> {
        load(&self.request, self)
    }
}

/// Loads what must be good.
fn good(text: &str) -> Loaded {
    match Bundle::of(text).load() {
        Ok(loaded) => loaded,
        Err(found) => {
            let faults: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
            panic!("{text}\nis refused:\n{}", faults.join("\n"));
        }
    }
}

/// The faults of what must be refused.
fn faults(text: &str) -> Vec<String> {
    match Bundle::of(text).load() {
        Ok(_) => panic!("{text}\nis taken"),
        Err(found) => found.faults.iter().map(ToString::to_string).collect(),
    }
}

/// What stands at `services/web/ports/0`, in one line.
fn at(document: &Node, path: &str) -> String {
    let mut node = document;
    for step in path.split('/') {
        let below = match &node.data {
            Data::Map(map) => map.get(step).map(|entry| &entry.value),
            Data::List(list) => step.parse().ok().and_then(|at: usize| list.get(at)),
            _ => None,
        };
        match below {
            Some(below) => node = below,
            None => return "(absent)".to_owned(),
        }
    }
    node.scalar().unwrap_or_else(|| node.to_json().to_string())
}
