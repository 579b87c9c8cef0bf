//! Wrong inputs with what is said of them: `wrong.txt`, documents parted by `====`, each with its faults behind `> `.

use super::faults;

#[test]
fn every_fault_is_said_in_its_words() {
    let rows: Vec<&str> = include_str!("wrong.txt").split("====\n").collect();
    assert!(rows.len() >= 120, "{}", rows.len());
    let mut wrong = String::new();
    for row in rows {
        let (said, lines): (Vec<&str>, Vec<&str>) = row.split_inclusive('\n').partition(|line| line.starts_with("> "));
        let wanted: Vec<&str> = said.iter().map(|line| line.trim_end().trim_start_matches("> ")).collect();
        let found = faults(&lines.concat());
        if found != wanted {
            wrong.push_str(&format!("{}is told\n  {}\n", lines.concat(), found.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
