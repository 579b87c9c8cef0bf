//! Containers beside an app's own, in each of its instances.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AppSpec, ContainerSpec, FileSpec, HealthSpec, LogSpec, MountSpec, ProbesSpec, Resources, RestartPolicy, StopSpec,
    validate_app,
};
use crate::model::SidecarName;

/// The most sidecars that an app may have.
pub const MAX_SIDECARS: usize = 16;

/// A container that runs beside the app's in each of its instances, in the same network namespace: with the instance's
/// addresses, host name, `/etc/hosts` and name servers. It is started before the app's and ended after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SidecarSpec {
    /// Its name: a DNS label, unique in the app.
    #[schema(value_type = String)]
    pub name: SidecarName,
    /// Its image.
    pub image: String,
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's default arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment variables, added to the image's. Those of the app are not its.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; the image's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory, absolute; the image's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Limits of this container alone.
    #[serde(default, skip_serializing_if = "Resources::is_default")]
    pub resources: Resources,
    /// How it is made: rights, file systems in memory, devices, hooks. What is of the whole instance (`hostname`,
    /// `domainname`, `dns`, `extra_hosts`, kernel parameters of the network, `hooks.pre_start`) is said of the app.
    #[serde(default, skip_serializing_if = "ContainerSpec::is_default")]
    pub container: ContainerSpec,
    /// Volumes, and folders of the node. A volume without a name at the same path as one of the app or of another sidecar is the
    /// same one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountSpec>,
    /// Secrets of the namespace as files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<FileSpec>,
    /// Configs of the namespace as files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<FileSpec>,
    /// How to see whether it is well. The instance is not Ready unless it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// The same by up to three checks with a purpose each, instead of [`SidecarSpec::health`]. What comes after it waits for
    /// its startup probe.
    #[serde(default, skip_serializing_if = "ProbesSpec::is_empty")]
    pub probes: ProbesSpec,
    /// How much of its log is kept.
    #[serde(default, skip_serializing_if = "LogSpec::is_default")]
    pub logging: LogSpec,
    /// What to do when its process ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How to stop it.
    #[serde(default)]
    pub stop: StopSpec,
}

impl SidecarSpec {
    /// A sidecar of that name and image with all defaults.
    pub fn new(name: SidecarName, image: impl Into<String>) -> Self {
        Self {
            name,
            image: image.into(),
            command: None,
            args: None,
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            resources: Resources::default(),
            container: ContainerSpec::default(),
            mounts: Vec::new(),
            secrets: Vec::new(),
            configs: Vec::new(),
            health: None,
            probes: ProbesSpec::default(),
            logging: LogSpec::default(),
            restart: RestartPolicy::default(),
            stop: StopSpec::default(),
        }
    }

    /// It as the specification of an instance of `app`: what is the instance's comes from there.
    pub fn as_app(&self, app: &AppSpec) -> AppSpec {
        let mut container = self.container.clone();
        container.hostname.clone_from(&app.container.hostname);
        container.domainname.clone_from(&app.container.domainname);
        container.dns.clone_from(&app.container.dns);
        container.extra_hosts.clone_from(&app.container.extra_hosts);
        AppSpec { pull: app.pull, labels: app.labels.clone(), container, ..self.alone() }
    }

    /// It as the specification of an app.
    fn alone(&self) -> AppSpec {
        AppSpec {
            command: self.command.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            resources: self.resources.clone(),
            container: self.container.clone(),
            mounts: self.mounts.clone(),
            secrets: self.secrets.clone(),
            configs: self.configs.clone(),
            health: self.health.clone(),
            probes: self.probes.clone(),
            logging: self.logging.clone(),
            restart: self.restart,
            stop: self.stop.clone(),
            ..AppSpec::new(&*self.image)
        }
    }

    /// Its fields that give rights on the machine itself, as [`AppSpec::operator_only`].
    pub fn operator_only(&self) -> Vec<String> {
        self.alone().operator_only().into_iter().map(|field| format!("sidecars.{}.{field}", self.name)).collect()
    }
}

/// Every fault of an app's sidecars.
pub(super) fn check(spec: &AppSpec, fault: &mut impl FnMut(&str, String)) {
    if spec.sidecars.len() > MAX_SIDECARS {
        fault("sidecars", format!("{} are more than {MAX_SIDECARS}, the most an app may have", spec.sidecars.len()));
    }
    let mut names = BTreeSet::new();
    for sidecar in &spec.sidecars {
        if !names.insert(&sidecar.name) {
            fault("sidecars", format!("{} is there twice", sidecar.name));
        }
        for text in validate_app(&sidecar.alone()) {
            let (field, why) = text.split_once(": ").unwrap_or(("", &text));
            fault(&format!("sidecars.{}.{field}", sidecar.name), why.to_owned());
        }
        let container = &sidecar.container;
        let of_network = |name: &String| name.starts_with("net.");
        let of_instance = [
            ("hostname", container.hostname.is_some()),
            ("domainname", container.domainname.is_some()),
            ("dns", !container.dns.is_default()),
            ("extra_hosts", !container.extra_hosts.is_empty()),
            ("sysctls", container.sysctls.keys().any(of_network)),
            ("hooks.pre_start", !container.hooks.pre_start.is_empty()),
        ];
        for (field, _) in of_instance.iter().filter(|(_, said)| *said) {
            let what = if *field == "sysctls" { "net.* is" } else { "is" };
            let why = format!("{what} the whole instance's; say it of the app, in container.{field}");
            fault(&format!("sidecars.{}.container.{field}", sidecar.name), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::v1::ExtraHost;

    fn sidecar(name: &str) -> SidecarSpec {
        SidecarSpec::new(name.parse().expect("a name"), "proxy")
    }

    fn faults(sidecars: Vec<SidecarSpec>) -> Vec<String> {
        validate_app(&AppSpec { sidecars, ..AppSpec::new("web") })
    }

    #[test]
    fn every_fault_is_named_with_the_sidecar_it_is_of() {
        assert_eq!(faults(vec![sidecar("a"), sidecar("b")]), Vec::<String>::new());
        let mut wrong = sidecar("a");
        wrong.image.clear();
        wrong.workdir = Some("x".into());
        wrong.container.hostname = Some("other".into());
        wrong.container.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
        wrong.mounts = vec!["data:/".parse().expect("understood")];
        assert_eq!(
            faults(vec![wrong, sidecar("a")]),
            [
                "sidecars.a.image: is empty; name one, e.g. nginx:latest",
                "sidecars.a.workdir: \"x\" is not absolute; begin with '/'",
                "sidecars.a.mounts: data:/: the path \"/\" in the instance is the root of its file system",
                "sidecars.a.container.hostname: is the whole instance's; say it of the app, in container.hostname",
                "sidecars.a.container.sysctls: net.* is the whole instance's; say it of the app, in container.sysctls",
                "sidecars: a is there twice",
            ]
        );
        let many = (0..17).map(|n| sidecar(&format!("s{n}"))).collect();
        assert_eq!(faults(many), ["sidecars: 17 are more than 16, the most an app may have"]);
    }

    #[test]
    fn it_has_what_is_the_instances_and_nothing_else_of_the_app() {
        let mut app = AppSpec::new("web");
        app.env.insert("SECRET".into(), "x".into());
        app.container.hostname = Some("shop".into());
        app.container.privileged = true;
        app.container.extra_hosts = vec![ExtraHost { name: "db".into(), address: "192.0.2.1".into() }];
        let mut proxy = sidecar("proxy");
        proxy.container.read_only = true;
        let made = proxy.as_app(&app);
        assert_eq!((made.image.as_str(), made.container.hostname.as_deref()), ("proxy", Some("shop")));
        assert!(made.env.is_empty() && !made.container.privileged && made.container.read_only);
        assert_eq!(made.container.extra_hosts, app.container.extra_hosts);
    }

    #[test]
    fn rights_on_the_machine_are_named() {
        let mut proxy = sidecar("proxy");
        proxy.container.cap_add = vec!["NET_ADMIN".into()];
        proxy.mounts = vec!["/srv:/srv".parse().expect("understood")];
        let app = AppSpec { sidecars: vec![proxy], ..AppSpec::new("web") };
        assert_eq!(app.operator_only(), ["sidecars.proxy.container.cap_add", "sidecars.proxy.mounts[0].source"]);
    }

    #[test]
    fn a_row_from_before_there_were_any_is_read() {
        let app: AppSpec = serde_json::from_str(r#"{"image":"web"}"#).expect("reads");
        assert_eq!(app.sidecars, Vec::new());
        assert!(!serde_json::to_string(&app).expect("JSON").contains("sidecars"), "older versions read what has none");
        assert!(app.needs_new_instances(&AppSpec { sidecars: vec![sidecar("a")], ..app.clone() }));
    }
}
