//! What each builder is told, key by key.

use super::{super::tests::Bundle, super::translate, *};

/// What is to be built of a project's service `web`, with these lines in its `build`.
fn wanted(lines: &str) -> Wanted {
    let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!(
        "name: shop\nservices:\n  web:\n    build:\n{lines}secrets: {{token: {{environment: TOKEN}}, key: {{file: k.pem}}}}\n#env TOKEN=hidden\n#file k.pem\nKEY\n"
    );
    let loaded = Bundle::of(&text).load().expect("a good document");
    let made = translate::translate(&loaded, &translate::Options::default()).expect("is taken");
    assert!(made.secrets.is_empty(), "what builds see goes nowhere");
    made.builds.into_values().next().expect("a build")
}

/// The words of the commands, a line each.
fn told(builder: Builder, lines: &str) -> String {
    let recipe = recipe(builder, &wanted(lines)).expect("it can");
    let shown = |command: &Command| format!("{} {}", command.program, command.args.join(" "));
    recipe.commands.iter().map(shown).collect::<Vec<_>>().join("\n")
}

fn refused(builder: Builder, lines: &str) -> Vec<Refusal> {
    recipe(builder, &wanted(lines)).expect_err("it cannot")
}

#[test]
fn the_least_is_a_folder_with_a_dockerfile() {
    assert_eq!(
        told(Builder::BuildKit, "context: app"),
        "buildctl build --frontend dockerfile.v0 --local context=/p/app --local dockerfile=/p/app \
         --opt filename=Dockerfile --output type=oci,dest=image.tar"
    );
    assert_eq!(
        told(Builder::Docker, "context: app"),
        "docker buildx build --load --tag shop-web --file /p/app/Dockerfile /p/app\n\
         docker image save --output image.tar shop-web"
    );
    assert_eq!(
        told(Builder::Buildah, "context: app"),
        "buildah build --layers --format docker --tag shop-web --file /p/app/Dockerfile /p/app\n\
         buildah push --disable-compression shop-web docker-archive:image.tar"
    );
}

/// A key's lines, and what each of the three is told because of it.
const KEYS: &[(&str, [&str; 3])] = &[
    ("dockerfile: sub/Own", ["--local dockerfile=/p/sub --opt filename=Own", "--file /p/sub/Own", "--file /p/sub/Own"]),
    (
        "dockerfile: /else/Own",
        [
            "--local context=/p --local dockerfile=/else --opt filename=Own",
            "--file /else/Own /p",
            "--file /else/Own /p",
        ],
    ),
    (
        "context: 'https://h/a.git#main'",
        [
            "--opt context=https://h/a.git#main --opt filename=Dockerfile",
            "--file Dockerfile https://h/a.git#main",
            "--file Dockerfile https://h/a.git#main",
        ],
    ),
    ("args: {A: 1, NONE: }", ["--opt build-arg:A=1 --output", "--build-arg A=1 /p", "--build-arg A=1 /p"]),
    ("labels: {a: b c}", ["--opt label:a=b c", "--label a=b c", "--label a=b c"]),
    ("target: prod", ["--opt target=prod", "--target prod", "--target prod"]),
    ("platforms: [linux/arm64]", ["--opt platform=linux/arm64", "--platform linux/arm64", "--platform linux/arm64"]),
    (
        "extra_hosts: ['a=1.2.3.4', 'b=::1']",
        [
            "--opt add-hosts=a=1.2.3.4,b=::1",
            "--add-host a:1.2.3.4 --add-host b:::1",
            "--add-host a:1.2.3.4 --add-host b:::1",
        ],
    ),
    (
        "network: host",
        ["--opt force-network-mode=host --allow network.host", "--network host --allow network.host", "--network host"],
    ),
    ("network: none", ["--opt force-network-mode=none", "--network none", "--network none"]),
    ("no_cache: true", ["--no-cache", "--no-cache", "--no-cache"]),
    ("pull: true", ["--opt image-resolve-mode=pull", "--pull", "--pull=always"]),
    ("shm_size: 1m", ["--opt shm-size=1048576", "--shm-size 1048576", "--shm-size 1048576"]),
    (
        "ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}",
        [
            "--opt ulimit=nofile=1:2,nproc=3:3",
            "--ulimit nofile=1:2 --ulimit nproc=3:3",
            "--ulimit nofile=1:2 --ulimit nproc=3:3",
        ],
    ),
    ("cache_from: [r/c]", ["--import-cache type=registry,ref=r/c", "--cache-from r/c", "--cache-from r/c"]),
    (
        "cache_to: ['type=registry,ref=r/c']",
        ["--export-cache type=registry,ref=r/c", "--cache-to type=registry,ref=r/c", "--cache-to r/c"],
    ),
    (
        "additional_contexts: {lib: ../lib, base: 'docker-image://alpine'}",
        [
            "--opt context:base=docker-image://alpine --local extra-lib=/lib --opt context:lib=local:extra-lib",
            "--build-context base=docker-image://alpine --build-context lib=/lib",
            "--build-context base=docker-image://alpine --build-context lib=/lib",
        ],
    ),
    (
        "ssh: [default, 'own=./key']",
        ["--ssh default --ssh own=/p/key", "--ssh default --ssh own=/p/key", "--ssh default --ssh own=/p/key"],
    ),
    (
        "secrets: [key, {source: token, target: npm}]",
        [
            "--secret id=key,src=/p/k.pem --secret id=npm,env=HIVEMIND_BUILD_SECRET_0",
            "--secret id=key,src=/p/k.pem --secret id=npm,env=HIVEMIND_BUILD_SECRET_0",
            "--secret id=key,src=/p/k.pem --secret id=npm,env=HIVEMIND_BUILD_SECRET_0",
        ],
    ),
];

#[test]
fn each_key_comes_to_each_builder() {
    for (lines, expected) in KEYS {
        let lines = if lines.starts_with("context") { (*lines).to_owned() } else { format!("context: .\n{lines}") };
        for (builder, expected) in Builder::ALL.into_iter().zip(expected) {
            let told = told(builder, &lines);
            assert!(told.contains(expected), "{lines}\n{told}\nlacks {expected}");
        }
    }
}

#[test]
fn a_dockerfile_in_the_file_is_given_to_the_builder() {
    let inline = |context: &str| format!("context: {context}\ndockerfile_inline: FROM scratch");
    let recipe_of = |builder, context: &str| recipe(builder, &wanted(&inline(context))).expect("it can");
    for builder in [Builder::Docker, Builder::Buildah] {
        let first = &recipe_of(builder, ".").commands[0];
        assert_eq!(first.input.as_deref(), Some("FROM scratch"));
        assert!(first.args.join(" ").ends_with("--file - /p"), "{first:?}");
    }
    let kit = recipe_of(Builder::BuildKit, "https://h/a.git");
    assert_eq!(kit.files, [("inline/Dockerfile".to_owned(), "FROM scratch".to_owned())]);
    let words = kit.commands[0].args.join(" ");
    let expected = "--opt context=https://h/a.git --local dockerfile=inline --opt filename=Dockerfile --opt dockerfilekey=dockerfile";
    assert!(words.contains(expected), "{words}");
}

#[test]
fn a_secret_is_no_word_of_a_command() {
    for builder in Builder::ALL {
        let recipe = recipe(builder, &wanted("context: .\nsecrets: [token]")).expect("it can");
        let first = &recipe.commands[0];
        assert!(!first.args.iter().any(|word| word.contains("hidden")), "{first:?}");
        let held = first.env.iter().find(|(name, _)| name == "HIVEMIND_BUILD_SECRET_0").map(|(_, text)| &text.0[..]);
        assert_eq!(held, Some(&b"hidden"[..]));
        assert!(!format!("{first:?}").contains("hidden"));
    }
}

#[test]
fn several_platforms_are_for_buildkit() {
    let lines = "context: .\nplatforms: [linux/amd64, linux/arm64]";
    assert!(told(Builder::BuildKit, lines).contains("--opt platform=linux/amd64,linux/arm64"));
    for builder in [Builder::Docker, Builder::Buildah] {
        assert_eq!(refused(builder, lines)[0].key, "platforms");
    }
}

#[test]
fn what_a_builder_cannot_do_is_refused_by_its_key() {
    use Builder::{BuildKit, Buildah, Docker};
    for (builder, lines, keys) in [
        (BuildKit, "extra_hosts: ['h=host-gateway']\nnetwork: own", &["extra_hosts", "network"][..]),
        (Docker, "network: own", &["network"]),
        (Buildah, "network: own", &["network"]),
        (BuildKit, "additional_contexts: {a: 'oci-layout:///x'}", &["additional_contexts"]),
        (Buildah, "additional_contexts: {a: 'oci-layout:///x'}", &["additional_contexts"]),
        (Buildah, "cache_from: [a, b]", &["cache_from", "cache_from"]),
        (Buildah, "cache_to: ['type=local,dest=/x']", &["cache_to"]),
        (Buildah, "cache_to: ['type=registry,ref=a,mode=max']", &["cache_to"]),
        (Docker, "secrets: [{source: token, target: 'a,b'}]", &["secrets"]),
    ] {
        let found = refused(builder, &format!("context: .\n{lines}"));
        assert_eq!(found.iter().map(|one| one.key).collect::<Vec<_>>(), keys, "{builder:?} {lines}");
    }
}
