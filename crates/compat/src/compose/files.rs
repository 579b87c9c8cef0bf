//! Where files come from, and which ones a load begins with.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    dotenv,
    fault::Findings,
    parse::{Budget, MOST_BYTES},
    scalar, short,
    value::Place,
};

/// The names that a project's file has where none is named; the first that is there is taken.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// The names of the file that is merged into it.
const OVERRIDES: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// The reading of files; everything else of a load is pure.
pub trait Files {
    /// The content of a file.
    ///
    /// # Errors
    /// What the system says; `FileTooLarge` if it has more than 2 MiB.
    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The text of a file.
    ///
    /// # Errors
    /// As [`Self::bytes`]; `InvalidData` if it is no UTF-8.
    fn read(&self, path: &Path) -> io::Result<String> {
        String::from_utf8(self.bytes(path)?).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Whether there is a file (no folder) of that name.
    fn is_file(&self, path: &Path) -> bool;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One more than is taken tells that it is too long, also of a device that never ends.
        fs::File::open(path)?.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MOST_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn is_file(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| !found.is_dir())
    }
}

/// What a user asks for: flags, the folder, the environment.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Request {
    /// The folder that the command was typed in; absolute.
    pub working_dir: PathBuf,
    /// `--file`, in order; empty: by `COMPOSE_FILE`, or by the usual names.
    pub files: Vec<PathBuf>,
    /// `--project-directory`.
    pub project_dir: Option<PathBuf>,
    /// `--project-name`.
    pub project_name: Option<String>,
    /// `--env-file`, in order.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; `*` is all of them.
    pub profiles: Vec<String>,
    /// Services that are named; empty: all that are enabled.
    pub services: Vec<String>,
    /// The environment of the process.
    pub environment: Environment,
}

/// What a load begins with.
#[derive(Debug)]
pub(super) struct Start {
    /// The files, absolute, in the order in which they are merged.
    pub(super) files: Vec<PathBuf>,
    /// The project's folder: absolute.
    pub(super) dir: PathBuf,
    /// The environment with what the files of variables add.
    pub(super) environment: Environment,
}

/// A path as messages name it: as short as it can be from the working folder.
pub(super) fn shown(path: &Path, working_dir: &Path) -> String {
    path.strip_prefix(working_dir).unwrap_or(path).display().to_string()
}

/// An absolute path without `.` and `..`.
pub(super) fn join(dir: &Path, path: &Path) -> PathBuf {
    PathBuf::from(short::clean(&dir.join(path).to_string_lossy()))
}

/// Reads a file, or says why not.
pub(super) fn read(files: &dyn Files, path: &Path) -> Result<String, String> {
    let checked = |text: String| match text.len() {
        0..=MOST_BYTES => Ok(text),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    };
    files.read(path).and_then(checked).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::FileTooLarge => {
            format!("the file has more than {} MiB, which is the most that is read", MOST_BYTES >> 20)
        }
        io::ErrorKind::InvalidData => "the file is not text (UTF-8)".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    })
}

/// Finds the files and the environment of a load; `None` with a fault if there is nothing to load.
pub(super) fn start(request: &Request, files: &dyn Files, budget: &mut Budget, found: &mut Findings) -> Option<Start> {
    let working = &request.working_dir;
    let absolute = |path: &PathBuf| join(working, path);
    let project_dir = request.project_dir.as_ref().map(absolute);
    let named: Vec<PathBuf> = request.files.iter().map(absolute).collect();
    let usual = || usual(files, project_dir.as_deref().unwrap_or(working));
    let listed = |environment: &Environment| -> Vec<PathBuf> {
        let separator = environment.get("COMPOSE_PATH_SEPARATOR").filter(|text| !text.is_empty());
        let list = environment.get("COMPOSE_FILE").map_or("", String::as_str);
        let parts = list.split(separator.map_or(":", String::as_str)).filter(|part| !part.is_empty());
        parts.map(|part| join(working, Path::new(part))).collect()
    };
    let parent = |files: &[PathBuf]| files.first()?.parent().map(Path::to_owned);
    let first_dir = project_dir
        .clone()
        .or_else(|| parent(&named))
        .or_else(|| parent(&listed(&request.environment)))
        .or_else(|| parent(&[usual()?]))
        .unwrap_or_else(|| working.clone());
    let mut environment = request.environment.clone();
    variables(request, files, &first_dir, &mut environment, budget, found);
    let mut chosen = if named.is_empty() { listed(&environment) } else { named };
    if chosen.is_empty() {
        let Some(file) = usual() else {
            let message = format!(
                "there is no {} in {} or a folder above it: go to the project's folder, or name the file with --file",
                NAMES.join(", "),
                working.display()
            );
            found.fault(&Place::whole("compose.yaml"), "", message);
            return None;
        };
        let dir = file.parent().unwrap_or(working);
        let there =
            |names: &[&str]| names.iter().map(|name| dir.join(name)).filter(|path| files.is_file(path)).collect();
        let (mains, overrides): (Vec<PathBuf>, Vec<PathBuf>) = (there(&NAMES), there(&OVERRIDES));
        for list in [&mains, &overrides] {
            if let [taken, others @ ..] = &list[..]
                && !others.is_empty()
            {
                let others: Vec<String> = others.iter().map(|path| shown(path, working)).collect();
                let message = format!("this file is taken and {} is not: name the file with --file", others.join(", "));
                found.warn(&Place::whole(&shown(taken, working)), "", message);
            }
        }
        chosen.push(file.clone());
        chosen.extend(overrides.into_iter().next());
    }
    let dir = project_dir.or_else(|| parent(&chosen)).unwrap_or(first_dir);
    Some(Start { files: chosen, dir, environment })
}

/// The file of the usual names, in a folder or the nearest one above it.
fn usual(files: &dyn Files, dir: &Path) -> Option<PathBuf> {
    dir.ancestors().flat_map(|dir| NAMES.map(|name| dir.join(name))).find(|path| files.is_file(path))
}

/// Adds the variables of `--env-file`, `COMPOSE_ENV_FILES` or `.env`; what the environment has stays.
fn variables(
    request: &Request,
    files: &dyn Files,
    dir: &Path,
    environment: &mut Environment,
    budget: &mut Budget,
    found: &mut Findings,
) {
    let working = &request.working_dir;
    let mut paths: Vec<PathBuf> = request.env_files.iter().map(|path| join(working, path)).collect();
    if paths.is_empty() {
        let listed = environment.get("COMPOSE_ENV_FILES").map_or("", String::as_str);
        paths = listed.split(',').filter(|part| !part.is_empty()).map(|part| join(working, Path::new(part))).collect();
    }
    if paths.is_empty() {
        let disabled =
            environment.get("COMPOSE_DISABLE_ENV_FILE").is_some_and(|text| scalar::flag(text).unwrap_or(text == "1"));
        let usual = dir.join(".env");
        if !disabled && files.is_file(&usual) {
            paths.push(usual);
        }
    }
    let added = env_files(files, &paths, environment, working, budget, found);
    for (name, value) in added {
        environment.entry(name).or_insert(value);
    }
}

/// The variables of files, of which the later win; they see those of the environment first.
pub(super) fn env_files(
    files: &dyn Files,
    paths: &[PathBuf],
    environment: &Environment,
    working_dir: &Path,
    budget: &mut Budget,
    found: &mut Findings,
) -> Environment {
    let mut values = Environment::new();
    for path in paths {
        let name = shown(path, working_dir);
        match read(files, path) {
            Ok(text) => {
                let look = |name: &str| environment.get(name).cloned();
                dotenv::read(&name, &text, &look, &mut values, budget, found);
            }
            Err(why) => found.fault(&Place::whole(&name), "", format!("{why}; it was named as a file of variables")),
        }
    }
    values
}
