//! The loader of Compose files, and what makes apps of them: whatever the files say, there is an answer, soon, with bounded
//! memory, and the same each time.
//!
//! An input has the form of the documents of the loader's own tests: the first file, then `#file NAME` and another one.

#![no_main]

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use hivemind_compat::compose::{
    self,
    files::{Files, Request},
    translate::{Options, translate},
};
use libfuzzer_sys::fuzz_target;

/// The folder that everything is in.
const DIR: &str = "/project";

/// Files in memory.
struct Given<'a>(BTreeMap<PathBuf, &'a [u8]>);

impl<'a> Given<'a> {
    fn of(mut input: &'a [u8]) -> Self {
        let (mut given, mut name) = (BTreeMap::new(), "compose.yaml".to_owned());
        let mark = b"\n#file ";
        loop {
            let end = input.windows(mark.len()).position(|window| window == mark);
            let (content, rest) = end.map_or((input, None), |end| (&input[..end + 1], Some(&input[end + mark.len()..])));
            given.insert(Path::new(DIR).join(&name), content);
            let Some(rest) = rest else { return Self(given) };
            let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            name = String::from_utf8_lossy(&rest[..line]).trim().to_owned();
            input = &rest[(line + 1).min(rest.len())..];
        }
    }
}

impl Files for Given<'_> {
    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).map(|bytes| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }
}

fuzz_target!(|input: &[u8]| {
    let files = Given::of(input);
    let request = Request { working_dir: DIR.into(), ..Request::default() };
    let loaded = compose::load(&request, &files);
    assert_eq!(loaded, compose::load(&request, &files), "the same files were read in two ways");
    match loaded {
        Ok(loaded) => {
            if let Err(findings) = translate(&loaded, &Options::default()) {
                assert!(!findings.faults.is_empty(), "refused without a word");
            }
        }
        Err(findings) => assert!(!findings.faults.is_empty(), "refused without a word"),
    }
});
