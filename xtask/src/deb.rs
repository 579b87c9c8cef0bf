//! Files out of Debian packages, without installing them: nothing is started, nothing of the machine is changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::shell;

/// Whether [`unpacked`] has it already.
pub fn is_unpacked(package: &str) -> bool {
    shell::cache("debs").join(package).is_dir()
}

/// The unpacked files of a package of the machine's own archive; fetched once, kept under `target/`.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    Archive::own().unpacked(package)
}

/// The keys of Debian's archive, of the package debian-archive-keyring, which every Debian has.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Options for apt's programs.
    options: Vec<String>,
}

impl Archive {
    /// The machine's own.
    pub const fn own() -> Self {
        Self { options: Vec::new() }
    }

    /// Another suite of the same mirror. Its lists are kept under `target/`: the machine's own do not change.
    ///
    /// # Errors
    /// If the machine has no mirror, or that does not have the suite.
    pub fn of(suite: &str) -> Result<Self> {
        let root = shell::cache("apt").join(suite);
        for dir in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(root.join(dir)).with_context(|| format!("cannot make {}", root.display()))?;
        }
        let targets = ["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"];
        let listed = shell::output(Command::new("apt-get").args(targets))?;
        let own = listed.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut own = own.filter(|line| line.len() > 1 && line[0].ends_with("/debian/") && !line[1].contains('-'));
        let mirror = own.next().context("apt-get knows no mirror of Debian (hint: apt-get update)")?;
        let source =
            format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n", mirror[0]);
        fs::write(root.join("sources/one.sources"), source)?;
        let options = [
            ("Dir::State::lists", root.join("lists")),
            ("Dir::Cache", root.join("cache")),
            ("Dir::Etc::sourcelist", PathBuf::from("/dev/null")),
            ("Dir::Etc::sourceparts", root.join("sources")),
        ];
        let options = options.map(|(key, path)| format!("-o={key}={}", path.display()));
        let archive = Self { options: options.to_vec() };
        shell::output(archive.command("apt-get").args(["update", "-q"]))?;
        Ok(archive)
    }

    /// One of apt's programs, with this archive.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The unpacked files of a package; fetched once, kept under `target/`.
    ///
    /// # Errors
    /// If it cannot be fetched or unpacked.
    pub fn unpacked(&self, package: &str) -> Result<PathBuf> {
        self.unpacked_as(package, package)
    }

    /// The same, kept under another name: where several suites have a package of one name.
    ///
    /// # Errors
    /// If it cannot be fetched or unpacked.
    pub fn unpacked_as(&self, package: &str, name: &str) -> Result<PathBuf> {
        let dir = shell::cache("debs").join(name);
        if dir.is_dir() {
            return Ok(dir);
        }
        // Made beside it and moved, so that a half-done one is never taken for a whole one.
        let half = shell::cache("debs").join(format!(".{name}-{}", std::process::id()));
        let result = self.fetch(package, &half);
        if result.is_ok() && fs::rename(half.join("files"), &dir).is_err() && !dir.is_dir() {
            bail!("cannot move {} to {}", half.display(), dir.display());
        }
        // What is left is a copy; it is in the way of nobody.
        let _ = fs::remove_dir_all(&half);
        result.map(|()| dir)
    }

    fn fetch(&self, package: &str, into: &Path) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
        let mut download = self.command("apt-get");
        download.args(["download", "-q", package]).current_dir(into);
        shell::output(&mut download).context("cannot fetch a Debian package (hint: apt-get update, or no network)")?;
        let archive = fs::read_dir(into)?.next().context("apt-get download fetched nothing")??.path();
        shell::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(into.join("files"))).map(drop)
    }
}

/// The libraries a package needs by itself, and its configuration: direct dependencies of these kinds.
pub fn libraries(package: &str) -> Result<Vec<String>> {
    let depends = shell::output(Command::new("apt-cache").args(["depends", package]))?;
    let named = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let needed = |name: &&str| name.starts_with("lib") || *name == "zlib1g" || name.ends_with("-common");
    let mut found: Vec<String> = named.filter(needed).map(str::to_owned).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The folders of the libraries that a package's programs need and the machine does not have, for `LD_LIBRARY_PATH`.
/// Their packages are unpacked, with those that they need themselves.
pub fn library_folders(package: &str) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let mut seen = Vec::new();
    let mut next = libraries(package)?;
    while let Some(library) = next.pop() {
        if seen.contains(&library) || is_installed(&library) {
            continue;
        }
        let dir = unpacked(&library)?;
        // `usr/lib/x86_64-linux-gnu`, or without the `usr`.
        for lib in ["usr/lib", "lib"].map(|lib| dir.join(lib)) {
            let within = fs::read_dir(&lib).into_iter().flatten().flatten().map(|entry| entry.path());
            folders.extend(within.filter(|path| path.is_dir() && path.to_string_lossy().contains("-linux-")));
        }
        next.extend(libraries(&library)?);
        seen.push(library);
    }
    Ok(folders)
}

/// Whether the machine has a package by itself.
fn is_installed(package: &str) -> bool {
    let status = shell::output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]));
    status.is_ok_and(|status| status.ends_with("ok installed"))
}

/// A program of a package: the machine's own if it is installed, otherwise out of the package.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(installed) = shell::find(name) {
        return Ok(installed);
    }
    let dir = unpacked(package)?;
    let places = ["usr/bin", "usr/sbin", "bin", "sbin"];
    let found = places.iter().map(|place| dir.join(place).join(name)).find(|file| file.is_file());
    found.with_context(|| format!("the package {package} has no {name}"))
}
