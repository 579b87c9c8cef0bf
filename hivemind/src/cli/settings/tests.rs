use clap::CommandFactory as _;

use super::{super::Args, *};

fn faults(text: &str) -> Vec<String> {
    file::parse(&Args::command(), text, "c.toml").1
}

#[test]
fn every_setting_can_be_written_as_it_is_shown() {
    let command = Args::command();
    let mut text = String::new();
    for arg in settings(&command) {
        let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let Some(first) = values.first() else { continue };
        text += &match form(arg) {
            file::Form::Number => format!("{} = {first}\n", key(arg)),
            file::Form::Text => format!("{} = \"{first}\"\n", key(arg)),
            file::Form::List => format!("{} = {:?}\n", key(arg), first.split(',').collect::<Vec<_>>()),
        };
    }
    assert!(text.contains("web-port = 3000\n") && text.contains("image-gc-rest = \"2m\"\n"), "{text}");
    assert_eq!(faults(&text), Vec::<String>::new());
}

#[test]
fn every_fault_is_told_with_its_line_and_key() {
    let text = "web-port = \"3000\"\nlisten = \"here\"\n\nweb_port = 1\nip-family = \"v5\"\nremove-unknown = true\n\
        dns-upstrem = []\nuplink = \"eth0\"\ndns-upstream = [\"9.9.9.9\", \"nine\", 9]\nimage-gc-high = 300\n\
        dns-egress-ttl = 0\n[more]\nx = 1\n";
    assert_eq!(
        faults(text),
        [
            "c.toml:1: web-port: write a number without quotes: web-port = 1",
            "c.toml:2: listen: \"here\": invalid IP address syntax",
            "c.toml:4: web_port: there is no such key; write web-port",
            "c.toml:5: ip-family: \"v5\": write one of dual, v4, v6",
            "c.toml:6: remove-unknown: is for one start, and a flag only: hivemind daemon --remove-unknown",
            "c.toml:7: dns-upstrem: there is no such key; is dns-upstream meant?",
            "c.toml:8: uplink: write a list of texts: uplink = [\"...\"]",
            "c.toml:9: dns-upstream: write a list of texts: dns-upstream = [\"...\"]",
            "c.toml:10: image-gc-high: 300 is not in 0..=255",
            "c.toml:11: dns-egress-ttl: 0 is not in 1..=86400",
            "c.toml:12: more: there is no such key",
        ]
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_what_is_beside_it_too() {
    let found = faults("web-port = 1\nweb-port = 2\nlisten = \nxyz = 1\n");
    let expected = [
        "c.toml:2: duplicate key",
        "c.toml:3: string values must be quoted, expected literal string",
        "c.toml:4: xyz: there is no such key",
    ];
    assert_eq!(found, expected);
}

/// What a command line comes to with a file of this text.
fn settings_of(text: &str, flags: &[&str]) -> Settings {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().to_str().expect("a path");
    let words = ["hivemind", "daemon", "--config", path].into_iter().chain(flags.iter().copied()).map(OsString::from);
    match read(Args::command, &words.collect::<Vec<_>>()) {
        Ok((_, settings)) => settings,
        Err(Refused::Usage(error)) => panic!("{error}"),
        Err(Refused::Problem(problem)) => panic!("{problem}"),
    }
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_what_is_built_in() {
    let text = "# ports\nweb-port = 0x1000\nlisten = \"::1\"\nfailsafe-inbound = []\nuplink = [\"a\", \"b\"]\n\
        socket = \"/run/s\"\n";
    let settings = settings_of(text, &["--listen", "127.0.0.2"]);
    let of = |key: &str| {
        let setting = settings.all.iter().find(|setting| setting.key == key).expect(key);
        let place = match &setting.source {
            Source::File(_, line) => format!("line {line}"),
            other => other.to_string(),
        };
        (setting.value.clone().unwrap_or_default(), place)
    };
    let expected = |value: &str, place: &str| (value.to_owned(), place.to_owned());
    assert_eq!(of("web-port"), expected("4096", "line 2"));
    assert_eq!(of("listen"), expected("127.0.0.2", "flag"));
    assert_eq!(of("failsafe-inbound"), expected("", "line 4"));
    assert_eq!(of("uplink"), expected("a,b", "line 5"));
    assert_eq!(of("socket"), expected("/run/s", "line 6"));
    assert_eq!(of("log-level"), expected("info", "default"));
    assert_eq!(of("cgroup-root"), expected("", "default"));
}

#[test]
fn a_fault_of_several_settings_names_where_they_are_set() {
    let settings = settings_of("instance-cidr4 = \"10.1.0.0/16\"\n", &["--service-cidr4", "10.1.0.0/24"]);
    let problem = Problem::new(ErrorCode::Invalid, "one fault")
        .detail("--instance-cidr4 10.1.0.0/16 and --service-cidr4 10.1.0.0/24 overlap")
        .detail("--instance-cidr44 is another");
    let said = settings.locate(problem).details;
    let file = settings.file.as_deref().expect("a file").display();
    assert!(said[0].ends_with(&format!("overlap (instance-cidr4 is set in {file}:1)")), "{said:?}");
    assert_eq!(said[1], "--instance-cidr44 is another");
}

#[test]
fn a_file_that_everybody_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().expect("a file");
    for (mode, faults) in [(0o664, 0), (0o646, 1)] {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("set");
        let read = File::read(&Args::command(), Some(file.path())).expect("read");
        assert_eq!(read.1.len(), faults, "{mode:o}");
    }
}
