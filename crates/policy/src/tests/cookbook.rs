//! The recipes of `docs/policies.md`: every one is read, is valid, and does what stands beneath it.

use super::world::*;
use crate::{Asked, Document, End, Expectation, Failsafe, FailsafePort, explain, read, read_expectations};
use hivemind_core::{
    model::{InstanceId, Scope},
    spec::v1::{validate_policy, validate_tier},
};

/// The ports that are published in the recipes.
const PUBLISHED: [u16; 2] = [8080, 8443];

const FILE: &str = include_str!("../../../../docs/policies.md");

/// The blocks of the file that are marked so, with the heading they are under.
fn blocks(mark: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let (mut heading, mut block): (&str, Option<String>) = ("", None);
    for line in FILE.lines() {
        match &mut block {
            Some(text) if line != "```" => {
                text.push_str(line);
                text.push('\n');
            }
            Some(_) => found.extend(block.take().map(|text| (heading, text))),
            None if line == format!("```{mark}") => block = Some(String::new()),
            None => heading = line.strip_prefix("### ").unwrap_or(heading),
        }
    }
    found
}

/// The cluster that the recipes are about.
fn cluster() -> (World, Vec<(&'static str, InstanceId)>) {
    let mut world = World::default();
    world.namespace("shop", "");
    world.namespace("ops", "team=ops");
    let instances = [
        ("web", "shop", "app=web"),
        ("api", "shop", "app=api"),
        ("db", "shop", "app=db"),
        ("prometheus", "ops", "app=prometheus"),
        ("acme/default/cart", "acme/default", "app=cart"),
    ];
    let made = instances.map(|(word, scope, labels)| (word, world.instance(scope, labels))).to_vec();
    let ports = |text: &str| {
        let port = |text: &str| text.parse::<FailsafePort>().expect("a port").0;
        text.split(',').map(port).collect()
    };
    world.known.insert("registry.example.com".into(), [name("203.0.113.8")].into());
    world.failsafe = Failsafe { inbound: ports(Failsafe::INBOUND), outbound: ports(Failsafe::OUTBOUND) };
    (world, made)
}

fn end(instances: &[(&str, InstanceId)], word: &str) -> End {
    match instances.iter().find(|(known, _)| *known == word) {
        Some((_, id)) => End::Instance(id.clone()),
        None if word == "host" => End::Node,
        None if word == "world" => End::Outside(name("192.0.2.1")),
        None => End::Outside(name(word)),
    }
}

#[test]
fn every_recipe_does_what_it_says() {
    let (recipes, expected) = (blocks("yaml"), blocks("expect"));
    assert_eq!(recipes.len(), 21);
    let headings = |blocks: &[(&'static str, String)]| blocks.iter().map(|(heading, _)| *heading).collect::<Vec<_>>();
    assert_eq!(headings(&recipes), headings(&expected), "each has what is expected of it");
    for ((heading, recipe), (_, expected)) in recipes.iter().zip(&expected) {
        let (mut world, instances) = cluster();
        for document in read(recipe, &Scope::default()).unwrap_or_else(|faults| panic!("{heading}: {faults:#?}")) {
            match document {
                Document::Policy(key, spec) => {
                    assert_eq!(validate_policy(&spec), Vec::<String>::new(), "{heading}");
                    world.policy(&key.scope.to_string(), key.name.as_str(), spec);
                }
                Document::Tier(key, spec) => {
                    assert_eq!(validate_tier(&spec), Vec::<String>::new(), "{heading}");
                    world.tier(&key.to_string(), spec);
                }
            }
        }
        let expected = read_expectations(expected).unwrap_or_else(|faults| panic!("{heading}: {faults:#?}"));
        assert!(!expected.is_empty(), "{heading}");
        for Expectation { from, to, protocol, port, passes } in expected {
            let asked = Asked {
                desired: &world.desired,
                node: &node(),
                known: &world.known,
                failsafe: &world.failsafe,
                held: None,
            };
            let mut target = end(&instances, &to);
            if target == End::Node && PUBLISHED.contains(&port) {
                target = End::Published;
            }
            let legs = explain(asked, &end(&instances, &from), &target, protocol, port);
            let says: Vec<String> = legs.iter().map(super::super::Leg::says).collect();
            assert!(!legs.is_empty(), "{heading}: {from} to {to}: nobody is asked");
            let got = legs.iter().all(|leg| leg.verdict.passes());
            assert_eq!(got, passes, "{heading}: {from} to {to}, {port}: {says:?}");
        }
    }
}
