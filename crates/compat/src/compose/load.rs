//! From files to one document: read, variables put in, short forms made long, `include` and `extends` done, merged.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    canonical::{self, Base},
    fault::{Findings, child, item},
    files::{Environment, Files, env_files, join, read, shown},
    interpolate,
    merge::{self, Marks},
    parse::{self, Budget},
    value::{Data, Entry, Map, Node, Place},
};

/// How many services may extend each other in a chain, and how many files include each other.
const MOST_CHAINED: usize = 32;

/// A load under way.
pub(super) struct Loader<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) working_dir: &'a Path,
    pub(super) budget: &'a mut Budget,
    pub(super) found: &'a mut Findings,
    /// What was read, before variables are put in.
    read: HashMap<PathBuf, Rc<Vec<Node>>>,
    /// Variables that the files of `include` add; the first wins.
    pub(super) included: Environment,
    /// Circles of `extends` that were told of: each is found from every service in it.
    circles: HashSet<Vec<Link>>,
}

/// What a file's variables and relative paths mean.
struct Scope<'a> {
    dir: &'a Path,
    environment: &'a Environment,
}

/// A service and the file it is in, as a chain of `extends` has them.
type Link = (String, String);

impl<'a> Loader<'a> {
    pub(super) fn new(
        files: &'a dyn Files,
        working_dir: &'a Path,
        budget: &'a mut Budget,
        found: &'a mut Findings,
    ) -> Self {
        Self {
            files,
            working_dir,
            budget,
            found,
            read: HashMap::new(),
            included: Environment::new(),
            circles: HashSet::new(),
        }
    }

    /// A file's documents as they stand.
    pub(super) fn raw(&mut self, path: &Path, from: Option<(&Place, &str)>) -> Rc<Vec<Node>> {
        if let Some(documents) = self.read.get(path) {
            return Rc::clone(documents);
        }
        let name = shown(path, self.working_dir);
        let documents = match read(self.files, path) {
            Ok(text) => parse::parse(&name, &text, self.budget, self.found),
            Err(why) => {
                match from {
                    Some((place, path)) => self.found.fault(place, path, format!("{name}: {why}")),
                    None => self.found.fault(&Place::whole(&name), "", why),
                }
                Vec::new()
            }
        };
        let documents = Rc::new(documents);
        self.read.insert(path.to_owned(), Rc::clone(&documents));
        documents
    }

    /// A file's documents with variables put in and in long forms.
    fn documents(&mut self, path: &Path, scope: &Scope<'_>, from: Option<(&Place, &str)>) -> Vec<Node> {
        let mut documents = Vec::new();
        for raw in self.raw(path, from).iter() {
            if raw.data == Data::Null {
                continue;
            }
            if raw.map().is_none() {
                let message = format!("expected a mapping of services, volumes and so on, found {}", raw.describe());
                self.found.fault(&raw.place, "", message);
                continue;
            }
            let Some(mut document) = self.copy(raw) else { continue };
            let look = |name: &str| scope.environment.get(name).cloned();
            interpolate::document(&mut document, &look, self.budget, self.found);
            let home = scope.environment.get("HOME").map(String::as_str);
            canonical::document(&mut document, &Base { dir: scope.dir, home, look: &look }, self.found);
            documents.push(document);
        }
        documents
    }

    /// A copy, if there is room for it.
    fn copy(&mut self, node: &Node) -> Option<Node> {
        match self.budget.nodes(node.extent().0) {
            Ok(()) => Some(node.clone()),
            Err(why) => {
                self.found.fault(&node.place, "", why);
                None
            }
        }
    }

    /// Files merged into one model; `chain` has the files that include these.
    pub(super) fn model(
        &mut self,
        paths: &[PathBuf],
        dir: &Path,
        environment: &Environment,
        chain: &[PathBuf],
        from: Option<(&Place, &str)>,
    ) -> Option<Node> {
        let mut model: Option<Node> = None;
        let scope = Scope { dir, environment };
        for path in paths {
            for mut document in self.documents(path, &scope, from) {
                let chain: Vec<PathBuf> = chain.iter().cloned().chain([path.clone()]).collect();
                self.include(&mut document, &scope, &chain);
                self.extend(&mut document, path, &scope);
                model = Some(match model {
                    Some(model) => merge::documents(model, document, Marks::Apply, self.found),
                    None => document,
                });
            }
        }
        let mut model = model?;
        merge::finish(&mut model);
        Some(model)
    }

    /// Does `include`. What is not well formed stays for the schema.
    fn include(&mut self, document: &mut Node, scope: &Scope<'_>, chain: &[PathBuf]) {
        let Some(list) = document.get("include").and_then(Node::list) else { return };
        let texts = |node: Option<&Node>| -> Option<Vec<String>> {
            node.map_or(Some(&[][..]), Node::list)?.iter().map(|node| node.text().map(str::to_owned)).collect()
        };
        let mut entries = Vec::new();
        for (index, node) in list.iter().enumerate() {
            let sound = node.map().is_some_and(|map| {
                map.keys().all(|key| matches!(key.as_str(), "path" | "env_file" | "project_directory"))
            });
            let parts = (texts(node.get("path")), texts(node.get("env_file")));
            let (true, (Some(paths), Some(env_files))) = (sound, parts) else { return };
            let dir = node.get("project_directory").map(|node| node.text().map(str::to_owned));
            if paths.is_empty() || dir == Some(None) {
                return;
            }
            entries.push((node.place.clone(), item("include", index), paths, env_files, dir.flatten()));
        }
        if let Some(map) = document.map_mut() {
            map.remove("include");
        }
        for (place, at, paths, env_files, dir) in entries {
            let paths: Vec<PathBuf> = paths.iter().map(|path| join(scope.dir, Path::new(path))).collect();
            let dir = match dir {
                Some(dir) => join(scope.dir, Path::new(&dir)),
                None => paths[0].parent().unwrap_or(scope.dir).to_owned(),
            };
            if let Some(start) = chain.iter().position(|file| paths.contains(file)) {
                let files = chain[start..].iter().chain([&chain[start]]);
                let files: Vec<String> = files.map(|file| shown(file, self.working_dir)).collect();
                self.found.fault(&place, at, format!("files include each other in a circle: {}", files.join(" -> ")));
                continue;
            }
            if chain.len() > MOST_CHAINED {
                self.found.fault(&place, at, format!("more than {MOST_CHAINED} files include each other in a chain"));
                continue;
            }
            let environment = self.environment_of(&dir, &env_files, scope);
            if let Some(model) = self.model(&paths, &dir, &environment, chain, Some((&place, &at))) {
                self.import(model, document);
            }
        }
    }

    /// The environment of included files: that of the including ones, then their own files of variables.
    fn environment_of(&mut self, dir: &Path, named: &[String], scope: &Scope<'_>) -> Environment {
        let mut paths: Vec<PathBuf> =
            named.iter().filter(|path| *path != "/dev/null").map(|path| join(scope.dir, Path::new(path))).collect();
        if named.is_empty() && self.files.is_file(&dir.join(".env")) {
            paths.push(dir.join(".env"));
        }
        let mut environment = scope.environment.clone();
        let added = env_files(self.files, &paths, &environment, self.working_dir, self.budget, self.found);
        for (name, value) in added {
            self.included.entry(name.clone()).or_insert_with(|| value.clone());
            environment.entry(name).or_insert(value);
        }
        environment
    }

    /// Takes an included model's resources over. Two of one name are refused, unless they are the same.
    fn import(&mut self, mut model: Node, document: &mut Node) {
        for kind in ["services", "networks", "volumes", "secrets", "configs", "models"] {
            let Some(taken) = model.get_mut(kind) else { continue };
            let place = taken.place.clone();
            let Data::Map(taken) = taken.take() else { continue };
            if document.get(kind).is_none() {
                document.set(kind, Node::new(Data::Map(Map::new()), place));
            }
            let Some(own) = document.get_mut(kind).and_then(Node::map_mut) else { continue };
            for (name, entry) in taken {
                let Some(old) = own.get(&name) else {
                    own.insert(name, entry);
                    continue;
                };
                if old.value.to_json() != entry.value.to_json() {
                    let message = format!(
                        "{} already has this, differently: rename one of them, or change it in a further file with --file",
                        old.key
                    );
                    self.found.fault(&entry.key, child(kind, &name), message);
                }
            }
        }
    }

    /// Does `extends` of all services of a document.
    fn extend(&mut self, document: &mut Node, file: &Path, scope: &Scope<'_>) {
        let Some(map) = document.get("services").and_then(Node::map) else { return };
        let extending = |entry: &Entry| entry.value.get("extends").is_some();
        let names: Vec<String> =
            map.iter().filter(|(_, entry)| extending(entry)).map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let before = document.clone();
        for name in names {
            let service = self.extended(&before, &name, file, scope, &mut Vec::new());
            let slot = document.get_mut("services").and_then(|services| services.get_mut(&name));
            if let (Some(service), Some(slot)) = (service, slot) {
                *slot = service;
            }
        }
    }

    /// A service with everything that it extends.
    fn extended(
        &mut self,
        document: &Node,
        name: &str,
        file: &Path,
        scope: &Scope<'_>,
        chain: &mut Vec<Link>,
    ) -> Option<Node> {
        let mut service = self.copy(document.get("services")?.get(name)?)?;
        let Some(extends) = service.get("extends").cloned() else { return Some(service) };
        let at = format!("services.{name}.extends");
        let sound = extends.map().is_some_and(|map| {
            map.iter().all(|(key, entry)| matches!(key.as_str(), "service" | "file") && entry.value.text().is_some())
        });
        let (true, Some(base)) = (sound, extends.get("service").and_then(Node::text)) else { return Some(service) };
        if let Some(map) = service.map_mut() {
            map.remove("extends");
        }
        let place = extends.get("service").map_or(&extends.place, |node| &node.place).clone();
        chain.push((name.to_owned(), shown(file, self.working_dir)));
        let other = extends.get("file").and_then(Node::text).map(|path| join(scope.dir, Path::new(path)));
        let target = other.as_deref().unwrap_or(file);
        let link = (base.to_owned(), shown(target, self.working_dir));
        if let Some(start) = chain.iter().position(|one| *one == link) {
            let links: Vec<String> =
                chain[start..].iter().chain([&link]).map(|(name, file)| format!("{name} ({file})")).collect();
            let mut circle = chain[start..].to_vec();
            circle.sort();
            if self.circles.insert(circle) {
                self.found.fault(&place, at, format!("services extend each other in a circle: {}", links.join(" -> ")));
            }
            return Some(service);
        }
        if chain.len() > MOST_CHAINED {
            self.found.fault(&place, at, format!("more than {MOST_CHAINED} services extend each other in a chain"));
            return Some(service);
        }
        let base_service = match &other {
            None if document.get("services").and_then(|services| services.get(base)).is_some() => {
                self.extended(document, base, file, scope, chain)
            }
            Some(path) if path != file => {
                let dir = path.parent().unwrap_or(scope.dir).to_owned();
                let inner = Scope { dir: &dir, environment: scope.environment };
                let faults = self.found.faults.len();
                let documents = self.documents(path, &inner, Some((&extends.place, &at)));
                let merged = documents
                    .into_iter()
                    .reduce(|model, later| merge::documents(model, later, Marks::Apply, self.found));
                let known = merged
                    .as_ref()
                    .is_some_and(|merged| merged.get("services").is_some_and(|services| services.get(base).is_some()));
                if !known && self.found.faults.len() == faults {
                    self.found.fault(&place, at.as_str(), format!("{} has no service {base}", link.1));
                }
                merged.filter(|_| known).and_then(|merged| self.extended(&merged, base, path, &inner, chain))
            }
            _ => {
                self.found.fault(&place, at.as_str(), format!("{} has no service {base}", link.1));
                None
            }
        };
        chain.pop();
        Some(match base_service {
            Some(mut base) => {
                merge::finish(&mut base);
                merge::services(base, service, self.found)
            }
            None => service,
        })
    }
}
