//! The documents of the folder `documents`: each is loaded, and what its lines `#= PATH = VALUE` say must hold of what
//! comes out; its warnings are its lines `#warn`.

use std::{fs, path::Path};

use super::{at, good};

#[test]
fn real_documents_are_loaded_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compose/tests/documents");
    let mut faults = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let loaded = good(&text);
        let said: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#= ")).collect();
        if said.len() < 3 {
            faults.push(format!("{name}: says less than three things"));
        }
        for line in said {
            let (path, wanted) = line.split_once(" = ").unwrap();
            let found = at(&loaded.project.document, path);
            if found != wanted {
                faults.push(format!("{name}: {path} is {found}, not {wanted}"));
            }
        }
        let warned: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let wanted: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#warn ")).collect();
        if warned != wanted {
            faults.push(format!("{name}: warns\n  {}\nnot\n  {}", warned.join("\n  "), wanted.join("\n  ")));
        }
        count += 1;
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= 40, "{count}");
}
