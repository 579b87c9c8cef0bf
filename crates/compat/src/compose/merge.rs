//! Several documents become one, by the specification's rules. Both sides are in long forms already.

use super::{
    fault::Findings,
    value::{Data, Map, Mark, Node},
};

/// What happens to the marks of the later document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Marks {
    /// They are done: `!reset` removes.
    Apply,
    /// They are done, and stay for the document that this one is merged into: a service that extends another.
    Keep,
}

/// What two values of a key make.
enum Rule {
    /// Mappings by key, lists one after the other, of others the later.
    Usual,
    /// The later one, also if it is nothing.
    Later,
    /// The later one if it names another driver.
    ByDriver,
    /// Lists of mappings that are one if they have the same value of a key.
    By(&'static str),
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => Rule::Later,
        ["services", _, "logging"] => Rule::ByDriver,
        ["networks", _, "ipam", "config"] => Rule::By("subnet"),
        _ => Rule::Usual,
    }
}

/// One document of two; the later wins.
pub(super) fn documents(base: Node, later: Node, marks: Marks, found: &mut Findings) -> Node {
    let empty = Node::new(Data::Null, base.place.clone());
    merge(base, later, &[], marks, found).unwrap_or(empty)
}

/// One service of two: `extends`.
pub(super) fn services(base: Node, later: Node, found: &mut Findings) -> Node {
    let empty = Node::new(Data::Null, base.place.clone());
    merge(base, later, &["services", "*"], Marks::Keep, found).unwrap_or(empty)
}

fn merge(base: Node, mut later: Node, path: &[&str], marks: Marks, found: &mut Findings) -> Option<Node> {
    match (later.mark, marks) {
        (Mark::Reset, Marks::Apply) => return None,
        (Mark::Reset | Mark::Override, Marks::Keep) => return Some(later),
        (Mark::Override, Marks::Apply) => {
            later.mark = Mark::None;
            return Some(later);
        }
        (Mark::None, _) => {}
    }
    let rule = rule(path);
    if matches!(rule, Rule::Later) {
        return Some(later);
    }
    let Node { data, place, .. } = base;
    Some(match (data, later.data) {
        (data, Data::Null) => Node::new(data, place),
        (Data::Map(base), Data::Map(later_map)) => {
            let driver = |map: &Map| map.get("driver").and_then(|entry| entry.value.text().map(str::to_owned));
            let (old, new) = (driver(&base), driver(&later_map));
            if matches!(rule, Rule::ByDriver) && old.is_some() && new.is_some() && old != new {
                return Some(Node::new(Data::Map(later_map), later.place));
            }
            Node::new(Data::Map(merge_maps(base, later_map, path, marks, found)), place)
        }
        (Data::List(mut base), Data::List(list)) => {
            for node in list {
                let same = |a: &Node| match rule {
                    Rule::By(key) => {
                        a.get(key).is_some() && a.get(key).map(|n| &n.data) == node.get(key).map(|n| &n.data)
                    }
                    _ => false,
                };
                match base.iter().position(same) {
                    Some(at) => {
                        let old = base.remove(at);
                        base.extend(merge(old, node, &["*"], marks, found));
                    }
                    None => base.push(node),
                }
            }
            Node::new(Data::List(base), place)
        }
        (data @ (Data::Map(_) | Data::List(_)), new) => {
            let old = Node::new(data, place);
            let later = Node { data: new, ..later };
            let message = format!(
                "{} cannot be merged into {}, which stands at {}: use the same form, or !override",
                later.describe(),
                old.describe(),
                old.place
            );
            found.fault(&later.place, path.join("."), message);
            later
        }
        (_, new) => Node { data: new, ..later },
    })
}

fn merge_maps(mut base: Map, later: Map, path: &[&str], marks: Marks, found: &mut Findings) -> Map {
    for (key, entry) in later {
        let below: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
        // What the earlier document reset is not there; what it replaced is there as usual.
        let Some(mut old) = base.remove(&key).filter(|old| old.value.mark != Mark::Reset) else {
            base.insert(key, entry);
            continue;
        };
        old.value.mark = Mark::None;
        let (place, scalar) = (old.key, !matches!(entry.value.data, Data::Map(_) | Data::List(_)));
        if let Some(value) = merge(old.value, entry.value, &below, marks, found) {
            let place = if scalar && value.map().is_none() { entry.key } else { place };
            base.insert(key, super::value::Entry { key: place, value });
        }
    }
    base
}

/// Removes what is still to be reset, forgets all marks, and keeps of a list's items that are the same thing the last.
pub(super) fn finish(node: &mut Node) {
    tidy(node, &mut Vec::new());
}

fn tidy(node: &mut Node, path: &mut Vec<String>) {
    node.mark = Mark::None;
    match &mut node.data {
        Data::Map(map) => {
            map.retain(|_, entry| entry.value.mark != Mark::Reset);
            for (key, entry) in map {
                path.push(key.clone());
                tidy(&mut entry.value, path);
                path.pop();
            }
        }
        Data::List(list) => {
            list.retain(|node| node.mark != Mark::Reset);
            list.iter_mut().for_each(|node| tidy(node, path));
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            if let Some(identity) = identity(&path) {
                unique(list, identity);
            }
        }
        _ => {}
    }
}

/// What makes two items of a list the same thing.
type Identity = fn(&Node) -> Option<String>;

fn identity(path: &[&str]) -> Option<Identity> {
    match path {
        ["services", _, rest @ ..] => match rest {
            ["ports"] => Some(port),
            ["volumes" | "devices"] => Some(|node| key(node, "target")),
            ["secrets" | "configs"] | ["build", "secrets"] => {
                Some(|node| key(node, "target").or_else(|| key(node, "source")))
            }
            ["env_file"] => Some(|node| key(node, "path")),
            [
                "cap_add" | "cap_drop" | "dns" | "dns_opt" | "dns_search" | "expose" | "links" | "profiles" | "tmpfs"
                | "label_file",
            ]
            | ["build", "tags"]
            | ["extra_hosts", _]
            | ["build", "extra_hosts", _]
            | ["networks", _, "aliases" | "link_local_ips"] => Some(Node::scalar),
            _ => None,
        },
        _ => None,
    }
}

fn key(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.scalar()
}

fn port(node: &Node) -> Option<String> {
    let target = key(node, "target")?;
    let part = |name, default: &str| key(node, name).unwrap_or_else(|| default.to_owned());
    Some(format!("{} {} {target} {}", part("host_ip", "0.0.0.0"), part("published", ""), part("protocol", "tcp")))
}

/// Of items that are the same thing the last, at the place of the first.
fn unique(list: &mut Vec<Node>, identity: Identity) {
    let mut first = std::collections::HashMap::new();
    let mut kept: Vec<Node> = Vec::with_capacity(list.len());
    for node in list.drain(..) {
        match identity(&node) {
            Some(name) => match first.get(&name) {
                Some(at) => kept[*at] = node,
                None => {
                    first.insert(name, kept.len());
                    kept.push(node);
                }
            },
            None => kept.push(node),
        }
    }
    *list = kept;
}
