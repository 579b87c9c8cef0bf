//! The files of a release in their places, and the Debian package of them.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};

use crate::shell;

/// Where things go, beneath the root.
const PROGRAM: &str = "usr/bin/hivemind";
const UNIT: &str = "usr/lib/systemd/system/hivemind.service";
const MANUAL: &str = "usr/share/man/man1";
const DOCUMENTS: &str = "usr/share/doc/hivemind";
/// The shells and where each looks for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/hivemind"),
    ("zsh", "usr/share/zsh/vendor-completions/_hivemind"),
    ("fish", "usr/share/fish/vendor_completions.d/hivemind.fish"),
];
/// zsh reads the file when it is first asked to complete, and as the answer: without this the first question has none.
const ZSH_FIRST: &str = "[ \"$funcstack[1]\" = _hivemind ] && _clap_dynamic_completer_hivemind \"$@\"\n";
/// What dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// How a package is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// As small as can be: what is shipped.
    Small,
    /// Not at all: what a test installs at once.
    Not,
}

/// Puts the files of a release into a folder, as they lie beneath `/`.
pub fn stage(binary: &Path, into: &Path) -> Result<()> {
    let root = shell::root();
    put(&into.join(PROGRAM), &fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?, 0o755)?;
    put(&into.join(UNIT), &fs::read(root.join("packaging/hivemind.service"))?, 0o644)?;
    for (name, path) in COMPLETIONS {
        let mut script = shell::output(Command::new(binary).args(["completion", name]))?;
        if name == "zsh" {
            script += ZSH_FIRST;
        }
        put(&into.join(path), script.as_bytes(), 0o644)?;
    }
    let pages = into.join("pages");
    shell::output(Command::new(binary).arg("--quiet").arg("manual").arg(&pages))?;
    for page in sorted(&pages)? {
        let name = page.file_name().context("a page has no name")?.to_string_lossy();
        put(&into.join(MANUAL).join(format!("{name}.gz")), &zipped(&fs::read(&page)?)?, 0o644)?;
    }
    fs::remove_dir_all(&pages)?;
    put(&into.join(DOCUMENTS).join("README.md"), &fs::read(root.join("README.md"))?, 0o644)?;
    let documents = sorted(&root.join("docs"))?;
    for document in documents.iter().filter(|file| file.extension().is_some_and(|end| end == "md")) {
        let name = document.file_name().context("a document has no name")?;
        put(&into.join(DOCUMENTS).join("docs").join(name), &fs::read(document)?, 0o644)?;
    }
    put(&into.join(DOCUMENTS).join("copyright"), &fs::read(root.join("packaging/debian/copyright"))?, 0o644)
}

/// Makes the Debian package of a release in `folder`; returns its path.
pub fn deb(binary: &Path, version: &str, folder: &Path, pressed: Pressed) -> Result<PathBuf> {
    let tree = folder.join(format!(".hivemind_{version}"));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    stage(binary, &tree)?;
    let architecture = architecture()?;
    let files = files(&tree)?;
    let mut size = 0;
    // What dpkg --verify compares with.
    let mut sums = Command::new("md5sum");
    sums.current_dir(&tree);
    for file in &files {
        size += usize::try_from(fs::metadata(file)?.len())?;
        sums.arg(file.strip_prefix(&tree)?);
    }
    let sums = shell::output(&mut sums)?;
    let control = tree.join("DEBIAN");
    let text = control_file(version, architecture, &libc(&fs::read(binary)?)?, size);
    put(&control.join("control"), text.as_bytes(), 0o644)?;
    put(&control.join("md5sums"), sums.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        put(&control.join(script), &fs::read(shell::root().join("packaging/debian").join(script))?, 0o755)?;
    }
    let package = folder.join(format!("hivemind_{version}_{architecture}.deb"));
    let how = if pressed == Pressed::Small { "-Zxz" } else { "-Znone" };
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", how, "--build"]).arg(&tree).arg(&package);
    // The same files make the same package: times are those of the sources.
    if let Ok(time) = shell::output(Command::new("git").current_dir(shell::root()).args(["log", "-1", "--format=%ct"]))
    {
        build.env("SOURCE_DATE_EPOCH", time.trim());
    }
    shell::output(&mut build)?;
    fs::remove_dir_all(&tree)?;
    Ok(package)
}

/// `DEBIAN/control`.
fn control_file(version: &str, architecture: &str, libc: &str, size: usize) -> String {
    format!(
        "Package: hivemind\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: The Hivemind authors <hivemind@localhost>\n\
         Installed-Size: {}\nDepends: libc6 (>= {libc}), libgcc-s1, containerd | containerd.io, nftables, e2fsprogs, mount\n\
         Suggests: bash-completion\nSection: admin\nPriority: optional\n\
         Description: container orchestrator with an eBPF data plane of its own\n \
         Runs containers for several tenants on Linux machines, from Compose files or\n \
         its own commands, with services, policies, volumes and rolling updates. One\n \
         binary is daemon and command line; containerd runs the containers.\n",
        size.div_ceil(1024)
    )
}

/// The oldest libc that has every symbol of a program: the highest of its versions that the program names.
fn libc(program: &[u8]) -> Result<String> {
    const NAME: &[u8] = b"GLIBC_2.";
    let number = |at: usize| -> Option<u32> {
        let digits = program[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        String::from_utf8(digits.copied().collect()).ok()?.parse().ok()
    };
    let places = memchr(program, NAME).filter_map(number);
    places.max().map(|minor| format!("2.{minor}")).context("the program names no version of libc")
}

/// Where `needle` begins in `all`.
fn memchr<'a>(all: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    all.windows(needle.len()).enumerate().filter(move |(_, window)| *window == needle).map(|(at, _)| at)
}

/// Debian's name of the machine's architecture.
pub fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("there is no package for {other}"),
    }
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// The same bytes for the same text: without name and time.
fn zipped(text: &[u8]) -> Result<Vec<u8>> {
    let mut gz = GzBuilder::new().write(Vec::new(), Compression::best());
    gz.write_all(text)?;
    Ok(gz.finish()?)
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    found.sort_unstable();
    Ok(found)
}

/// All files beneath a folder, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in sorted(dir)? {
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// What the service's unit says of a key, e.g. `ExecStart`; it must say it once.
pub fn unit(key: &str) -> Result<String> {
    let text = fs::read_to_string(shell::root().join("packaging/hivemind.service"))?;
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().with_context(|| format!("the unit has no {key}"))?;
    ensure!(values.next().is_none(), "the unit has {key} twice");
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_highest_version_of_libc_counts() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0";
        assert_eq!(super::libc(program).unwrap(), "2.34");
        assert!(super::libc(b"static").is_err());
    }
}
