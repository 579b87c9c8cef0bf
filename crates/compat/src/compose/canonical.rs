//! Short forms become long ones, relative paths absolute ones, so that what follows knows one form only.
//!
//! What cannot be read stays as it stands: the schema finds it, with all other faults, in the words of its form.

use std::{collections::BTreeMap, path::Path};

use super::{
    build::is_remote,
    fault::{Findings, child, item},
    forms,
    interpolate::Lookup,
    short,
    value::{Data, Entry, Map, Node},
};
use hivemind_core::spec::v1::seccomp_file;

/// What relative paths and names without values mean in a file.
pub(super) struct Base<'a> {
    /// Where relative paths begin.
    pub(super) dir: &'a Path,
    /// The home of `~`.
    pub(super) home: Option<&'a str>,
    /// The environment.
    pub(super) look: &'a Lookup<'a>,
}

/// Brings a file's document into long forms.
pub(super) fn document(node: &mut Node, base: &Base<'_>, found: &mut Findings) {
    let mut canon = Canon { base, found };
    each(node.get_mut("services"), "services", |service, path| canon.service(service, path));
    each(node.get_mut("networks"), "networks", |network, path| canon.resource(network, path));
    for kind in ["secrets", "configs"] {
        each(node.get_mut(kind), kind, |resource, path| {
            canon.resource(resource, path);
            canon.path(resource.get_mut("file"));
        });
    }
    each(node.get_mut("volumes"), "volumes", |volume, path| {
        canon.resource(volume, path);
        let Some(options) = volume.get_mut("driver_opts") else { return };
        // A volume that is a folder of the host under a name.
        let bind = options.get("o").and_then(Node::text).is_some_and(|o| o.split(',').any(|o| o == "bind"));
        if bind {
            canon.path(options.get_mut("device"));
        }
    });
    if let Some(Data::List(includes)) = node.get_mut("include").map(|node| &mut node.data) {
        for include in includes {
            wrap(include, "path");
            ["path", "env_file"].into_iter().for_each(|key| listed(include.get_mut(key)));
        }
    }
}

/// Calls with each value of a mapping.
fn each(node: Option<&mut Node>, path: &str, mut with: impl FnMut(&mut Node, &str)) {
    if let Some(Data::Map(map)) = node.map(|node| &mut node.data) {
        for (key, entry) in map {
            with(&mut entry.value, &child(path, key));
        }
    }
}

/// Calls with each item of a list.
fn items(node: Option<&mut Node>, path: &str, mut with: impl FnMut(&mut Node, &str)) {
    if let Some(Data::List(list)) = node.map(|node| &mut node.data) {
        for (index, value) in list.iter_mut().enumerate() {
            with(value, &item(path, index));
        }
    }
}

/// A mapping of these keys, at a node's place.
fn mapping(at: &Node, entries: impl IntoIterator<Item = (&'static str, Option<Data>)>) -> Data {
    let entry = |data| Entry { key: at.place.clone(), value: Node::new(data, at.place.clone()) };
    Data::Map(entries.into_iter().filter_map(|(key, data)| Some((key.to_owned(), entry(data?)))).collect())
}

/// A text becomes a mapping with it under a key.
fn wrap(node: &mut Node, key: &'static str) {
    if let Some(text) = node.text().map(str::to_owned) {
        node.data = mapping(node, [(key, Some(Data::Text(text)))]);
    }
}

/// A text becomes a list of it.
fn listed(node: Option<&mut Node>) {
    if let Some(node) = node
        && node.text().is_some()
    {
        let inner = Node::new(node.take(), node.place.clone());
        node.data = Data::List(vec![inner]);
    }
}

/// A list of names becomes a mapping of them.
fn named(node: Option<&mut Node>, value: impl Fn(&Node) -> Data) {
    let Some(node) = node else { return };
    let Data::List(list) = &node.data else { return };
    if !list.iter().all(|name| name.text().is_some()) {
        return;
    }
    let mut map = Map::new();
    for name in list {
        let entry = Entry { key: name.place.clone(), value: Node::new(value(name), name.place.clone()) };
        map.insert(name.text().unwrap_or_default().to_owned(), entry);
    }
    node.data = Data::Map(map);
}

struct Canon<'a> {
    base: &'a Base<'a>,
    found: &'a mut Findings,
}

impl Canon<'_> {
    fn service(&mut self, service: &mut Node, path: &str) {
        for key in ["annotations", "environment", "labels", "sysctls"] {
            self.pairs(service.get_mut(key), &child(path, key));
        }
        self.inherit(service.get_mut("environment"));
        for key in ["command", "entrypoint"] {
            self.command(service.get_mut(key), &child(path, key));
        }
        for key in ["dns", "dns_search", "tmpfs", "label_file", "env_file"] {
            listed(service.get_mut(key));
        }
        if let Some(extends) = service.get_mut("extends") {
            wrap(extends, "service");
        }
        named(service.get_mut("depends_on"), |name| {
            mapping(name, [("condition", Some(Data::Text("service_started".to_owned())))])
        });
        for key in ["networks", "models"] {
            named(service.get_mut(key), |_| Data::Null);
        }
        self.hosts(service.get_mut("extra_hosts"));
        for key in ["secrets", "configs"] {
            items(service.get_mut(key), "", |grant, _| wrap(grant, "source"));
        }
        items(service.get_mut("env_file"), "", |file, _| {
            wrap(file, "path");
            self.path(file.get_mut("path"));
        });
        items(service.get_mut("label_file"), "", |file, _| self.path(Some(file)));
        items(service.get_mut("security_opt"), "", |option, _| {
            if let Some(file) = option.text().and_then(seccomp_file) {
                option.data = Data::Text(format!("seccomp={}", absolute(file, self.base)));
            }
        });
        items(service.get_mut("ports"), "", |port, _| long_port(port));
        items(service.get_mut("devices"), "", |device, _| long_device(device));
        items(service.get_mut("volumes"), &child(path, "volumes"), |mount, path| self.mount(mount, path));
        ulimits(service.get_mut("ulimits"));
        self.gpus(service.get_mut("gpus"), path);
        for key in ["post_start", "pre_stop", "pre_start"] {
            items(service.get_mut(key), &child(path, key), |hook, path| self.hook(hook, path));
        }
        if let Some(test) = service.get_mut("healthcheck").and_then(|check| check.get_mut("test"))
            && let Some(text) = test.text().map(str::to_owned)
        {
            test.data = Data::List(vec![test.text_here("CMD-SHELL"), test.text_here(text)]);
        }
        if let Some(deploy) = service.get_mut("deploy") {
            self.pairs(deploy.get_mut("labels"), &child(path, "deploy.labels"));
        }
        if let Some(build) = service.get_mut("build") {
            self.build(build, &child(path, "build"));
        }
        if let Some(develop) = service.get_mut("develop") {
            items(develop.get_mut("watch"), &child(path, "develop.watch"), |watch, path| {
                self.path(watch.get_mut("path"));
                ["ignore", "include"].into_iter().for_each(|key| listed(watch.get_mut(key)));
                if let Some(exec) = watch.get_mut("exec") {
                    self.hook(exec, &child(path, "exec"));
                }
            });
        }
    }

    fn build(&mut self, build: &mut Node, path: &str) {
        wrap(build, "context");
        for key in ["args", "labels", "additional_contexts", "ssh"] {
            self.pairs(build.get_mut(key), &child(path, key));
        }
        self.inherit(build.get_mut("args"));
        self.hosts(build.get_mut("extra_hosts"));
        listed(build.get_mut("no_cache_filter"));
        items(build.get_mut("secrets"), "", |grant, _| wrap(grant, "source"));
        ulimits(build.get_mut("ulimits"));
        self.context(build.get_mut("context"));
        each(build.get_mut("additional_contexts"), "", |context, _| self.context(Some(context)));
        // Sockets and keys, where there is more than the agent of who types.
        each(build.get_mut("ssh"), "", |place, _| self.path(Some(place)));
    }

    fn hook(&mut self, hook: &mut Node, path: &str) {
        self.command(hook.get_mut("command"), &child(path, "command"));
        self.pairs(hook.get_mut("environment"), &child(path, "environment"));
        self.inherit(hook.get_mut("environment"));
    }

    /// A network, volume, secret or config: its labels, and the old form of `external`.
    fn resource(&mut self, resource: &mut Node, path: &str) {
        self.pairs(resource.get_mut("labels"), &child(path, "labels"));
        let Some(external) = resource.get_mut("external") else { return };
        if external.map().is_some() {
            let name = external.get("name").cloned();
            external.data = Data::Bool(true);
            if let Some(name) = name.filter(|_| resource.get("name").is_none()) {
                resource.set("name", name);
            }
        }
    }

    /// Names with values: a list becomes a mapping, and what it holds text.
    fn pairs(&mut self, node: Option<&mut Node>, path: &str) {
        let Some(node) = node else { return };
        if let Data::List(list) = &node.data
            && list.iter().all(|pair| pair.text().is_some())
        {
            let mut map = BTreeMap::new();
            for pair in list {
                let text = pair.text().unwrap_or_default();
                let (name, data) = match text.split_once('=') {
                    Some((name, value)) => (name, Data::Text(value.to_owned())),
                    None => (text, Data::Null),
                };
                let value = Node { mark: pair.mark, ..Node::new(data, pair.place.clone()) };
                map.insert(name.to_owned(), Entry { key: pair.place.clone(), value });
            }
            node.data = Data::Map(map);
        }
        each(Some(node), path, |value, path| {
            let Some(text) = value.scalar() else { return };
            if let Some(written) = value.written.take() {
                let message = format!("{written} without quotes reads as {text}: put it in quotes if it is text");
                self.found.warn(&value.place, path, message);
            }
            value.data = Data::Text(text);
        });
    }

    /// Names without a value take the one of the environment, if it has one.
    fn inherit(&self, node: Option<&mut Node>) {
        let Some(Data::Map(map)) = node.map(|node| &mut node.data) else { return };
        for (name, entry) in map.iter_mut().filter(|(_, entry)| entry.value.data == Data::Null) {
            if let Some(value) = (self.base.look)(name) {
                entry.value.data = Data::Text(value);
            }
        }
    }

    fn command(&mut self, node: Option<&mut Node>, path: &str) {
        let Some(node) = node else { return };
        let Some(Ok(words)) = node.text().map(forms::words) else { return };
        if let Some(word) = forms::shell_word(&words) {
            let message = format!(
                "no shell runs the command: {word} is given to the program as a word; write [\"sh\", \"-c\", \"…\"] if a shell is meant"
            );
            self.found.warn(&node.place, path, message);
        }
        node.data = Data::List(words.into_iter().map(|word| node.text_here(word)).collect());
    }

    /// Names with addresses: a mapping of lists.
    fn hosts(&self, node: Option<&mut Node>) {
        let Some(node) = node else { return };
        match &mut node.data {
            Data::Map(map) => map.values_mut().for_each(|entry| listed(Some(&mut entry.value))),
            Data::List(list) => {
                let read = |item: &Node| item.text().and_then(|text| short::host(text).ok());
                if !list.iter().all(|item| read(item).is_some()) {
                    return;
                }
                let mut map = Map::new();
                for host in list.iter() {
                    let Some((name, ip)) = read(host) else { continue };
                    let empty = || Entry {
                        key: host.place.clone(),
                        value: Node::new(Data::List(Vec::new()), host.place.clone()),
                    };
                    if let Data::List(ips) = &mut map.entry(name).or_insert_with(empty).value.data {
                        ips.push(host.text_here(ip));
                    }
                }
                node.data = Data::Map(map);
            }
            _ => {}
        }
    }

    fn gpus(&mut self, node: Option<&mut Node>, path: &str) {
        let Some(node) = node else { return };
        if node.text() == Some("all") {
            let all = Node::new(mapping(node, [("count", Some(Data::Text("all".to_owned())))]), node.place.clone());
            node.data = Data::List(vec![all]);
        }
        items(Some(node), path, |gpu, path| self.pairs(gpu.get_mut("options"), path));
    }

    fn mount(&mut self, mount: &mut Node, path: &str) {
        if let Some(Ok(short)) = mount.text().map(short::mount) {
            mount.data = long_mount(mount, short);
        }
        if let Some(target) = mount.get_mut("target")
            && let Some(text) = target.text().filter(|text| !text.is_empty())
        {
            target.data = Data::Text(short::clean(text));
        }
        if mount.get("type").and_then(Node::text) == Some("bind") {
            self.path(mount.get_mut("source"));
        }
        if let Some(volume) = mount.get_mut("volume") {
            self.pairs(volume.get_mut("labels"), &child(path, "volume.labels"));
        }
    }

    /// A folder that an image is built of; an address of elsewhere stays.
    fn context(&self, node: Option<&mut Node>) {
        if node.as_ref().and_then(|node| node.text()).is_some_and(|text| !is_remote(text)) {
            self.path(node);
        }
    }

    /// A path of the host: absolute, without `~`.
    fn path(&self, node: Option<&mut Node>) {
        let Some(node) = node else { return };
        if let Some(text) = node.text().filter(|text| !text.is_empty()) {
            node.data = Data::Text(absolute(text, self.base));
        }
    }
}

/// An absolute path.
pub(super) fn absolute(text: &str, base: &Base<'_>) -> String {
    let rest = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (rest, base.home) {
        (Some(rest), Some(home)) => short::clean(&format!("{home}{rest}")),
        _ => short::clean(&base.dir.join(text).to_string_lossy()),
    }
}

fn long_port(node: &mut Node) {
    let text = match &node.data {
        Data::Int(port) => port.to_string(),
        Data::Text(text) => text.clone(),
        _ => return,
    };
    let Ok(port) = short::port(&text) else { return };
    node.data = mapping(
        node,
        [
            ("target", Some(Data::Text(port.target.to_string()))),
            ("published", port.published.map(|ports| Data::Text(ports.to_string()))),
            ("host_ip", port.host_ip.map(Data::Text)),
            ("protocol", port.protocol.map(Data::Text)),
        ],
    );
}

fn long_device(node: &mut Node) {
    let Some(Ok((source, target, rights))) = node.text().map(short::device) else { return };
    let text = |text| Some(Data::Text(text));
    node.data = mapping(node, [("source", text(source)), ("target", text(target)), ("permissions", text(rights))]);
}

fn long_mount(at: &Node, mount: short::Mount) -> Data {
    let bind = mount.is_bind();
    let text = |text: &str| Some(Data::Text(text.to_owned()));
    let options = bind.then(|| {
        mapping(
            at,
            [
                // What the short form has always done: a folder that is not there is made.
                ("create_host_path", Some(Data::Bool(true))),
                ("propagation", mount.propagation.clone().map(Data::Text)),
                ("selinux", mount.selinux.clone().map(Data::Text)),
            ],
        )
    });
    let volume = (!bind && mount.nocopy).then(|| mapping(at, [("nocopy", Some(Data::Bool(true)))]));
    mapping(
        at,
        [
            ("type", text(if bind { "bind" } else { "volume" })),
            ("source", mount.source.map(Data::Text)),
            ("target", Some(Data::Text(mount.target))),
            ("read_only", mount.read_only.then_some(Data::Bool(true))),
            ("consistency", mount.consistency.map(Data::Text)),
            ("bind", options),
            ("volume", volume),
        ],
    )
}

/// One number is both limits.
fn ulimits(node: Option<&mut Node>) {
    each(node, "", |limit, _| {
        if matches!(limit.data, Data::Int(_)) || limit.text().is_some_and(|text| forms::whole(text).is_ok()) {
            let both = limit.data.clone();
            limit.data = mapping(limit, [("soft", Some(both.clone())), ("hard", Some(both))]);
        }
    });
}
