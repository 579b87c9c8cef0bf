//! How containers are made: names, rights, limits of processes, file systems in memory, devices, hooks.

use std::collections::BTreeMap;

use super::{
    super::{
        forms,
        model::{
            Service,
            deploy::{DeviceRequest, Hook},
        },
    },
    Work,
};
use hivemind_core::{
    model::Bytes,
    spec::v1::{
        AppSpec, ContainerSpec, DeviceName, DeviceSpec, DnsSpec, ExtraHost, HookSpec, InitSpec, TmpfsSpec, UNLIMITED,
        Ulimit, device_name, security_option, tmpfs,
    },
};

impl Work<'_> {
    pub(super) fn container(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let mut made = ContainerSpec {
            hostname: service.hostname.clone(),
            domainname: service.domainname.clone(),
            read_only: service.read_only == Some(true),
            privileged: service.privileged == Some(true),
            cap_add: service.cap_add.clone(),
            cap_drop: service.cap_drop.clone(),
            sysctls: service.sysctls.clone(),
            init: service.init == Some(true),
            tty: service.tty == Some(true),
            stdin_open: service.stdin_open == Some(true),
            group_add: service.group_add.clone(),
            shm_size: service.shm_size.and_then(|size| u64::try_from(size.0).ok()).filter(|size| *size > 0).map(Bytes),
            oom_score_adj: service.oom_score_adj.and_then(|score| i32::try_from(score).ok()),
            ..ContainerSpec::default()
        };
        for (limit, both) in &service.ulimits {
            let (soft, hard) = (both.soft.or(both.hard), both.hard.or(both.soft));
            let ulimit = Ulimit { soft: soft.unwrap_or(UNLIMITED), hard: hard.unwrap_or(UNLIMITED) };
            made.ulimits.insert(limit.clone(), ulimit);
        }
        for (host, addresses) in &service.extra_hosts {
            made.extra_hosts
                .extend(addresses.iter().map(|address| ExtraHost { name: host.clone(), address: address.clone() }));
        }
        self.security(name, service, &mut made);
        self.memory(name, service, &mut made);
        self.devices(name, service, &mut made);
        self.dns(name, service, &mut made);
        let before = service.pre_start.iter().map(|hook| InitSpec {
            image: hook.image.clone(),
            command: None,
            args: hook.command.clone(),
            env: set(hook),
            user: hook.user.clone(),
            workdir: hook.working_dir.clone(),
        });
        made.hooks.pre_start = before.collect();
        made.hooks.post_start = self.hooks(name, "post_start", &service.post_start);
        made.hooks.pre_stop = self.hooks(name, "pre_stop", &service.pre_stop);
        spec.container = made;
    }

    fn security(&mut self, name: &str, service: &Service, made: &mut ContainerSpec) {
        for (at, text) in service.security_opt.iter().enumerate() {
            let steps = ["services", name, "security_opt", &at.to_string()];
            if text.starts_with("label") {
                self.warn(&steps, "nothing is labelled: it is ignored");
                continue;
            }
            let read = |file: &str| {
                service.seccomp_profiles.get(file).cloned().ok_or_else(|| format!("{file}: it was not read"))
            };
            if let Err(why) = security_option(&mut made.security, text, read) {
                self.fault(&steps, why);
            }
        }
    }

    fn memory(&mut self, name: &str, service: &Service, made: &mut ContainerSpec) {
        for (at, text) in service.tmpfs.iter().enumerate() {
            match tmpfs(text) {
                Ok(one) => made.tmpfs.push(one),
                Err(why) => self.fault(&["services", name, "tmpfs", &at.to_string()], why),
            }
        }
        for mount in service.volumes.iter().filter(|mount| mount.kind == "tmpfs") {
            let options = mount.tmpfs.clone().unwrap_or_default();
            let size = options.size.and_then(|size| u64::try_from(size.0).ok()).filter(|size| *size > 0);
            made.tmpfs.push(TmpfsSpec {
                size: size.map(Bytes),
                mode: options.mode.map(|mode| format!("{:o}", mode.0)),
                ..TmpfsSpec::new(&mount.target)
            });
        }
    }

    fn devices(&mut self, name: &str, service: &Service, made: &mut ContainerSpec) {
        for (at, device) in service.devices.iter().enumerate() {
            match device_name(&device.source) {
                Ok(DeviceName::Cdi(name)) => made.cdi.push(name),
                Ok(DeviceName::Host(host)) => made.devices.push(DeviceSpec {
                    container: device.target.clone().or(host.container),
                    permissions: device.permissions.clone().unwrap_or(host.permissions),
                    host: host.host,
                }),
                Err(why) => self.fault(&["services", name, "devices", &at.to_string()], why),
            }
        }
        let reserved = &service.deploy.resources.reservations.devices;
        let of = [(&service.gpus, vec!["gpus"]), (reserved, vec!["deploy", "resources", "reservations", "devices"])];
        for (requests, steps) in of {
            for (at, request) in requests.iter().enumerate() {
                let index = at.to_string();
                let mut path = vec!["services", name];
                path.extend(steps.iter().copied().chain([&*index]));
                match gpus(request) {
                    Ok(names) => made.cdi.extend(names),
                    Err(why) => self.fault(&path, why),
                }
            }
        }
    }

    fn dns(&mut self, name: &str, service: &Service, made: &mut ContainerSpec) {
        let mut servers = Vec::new();
        for (at, text) in service.dns.iter().enumerate() {
            match forms::address(text) {
                Ok(address) => servers.push(address),
                Err(why) => self.fault(&["services", name, "dns", &at.to_string()], why),
            }
        }
        made.dns = DnsSpec { servers, search: service.dns_search.clone(), options: service.dns_opt.clone() };
    }

    fn hooks(&mut self, name: &str, key: &str, hooks: &[Hook]) -> Vec<HookSpec> {
        let mut made = Vec::new();
        for (at, hook) in hooks.iter().enumerate() {
            let Some(command) = hook.command.clone().filter(|words| !words.is_empty()) else {
                self.fault(&["services", name, key, &at.to_string()], "the hook has no command");
                continue;
            };
            made.push(HookSpec {
                user: hook.user.clone(),
                workdir: hook.working_dir.clone(),
                env: set(hook),
                ..HookSpec::new(command)
            });
        }
        made
    }
}

/// The variables of a hook that have a value.
fn set(hook: &Hook) -> BTreeMap<String, String> {
    hook.environment.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect()
}

/// The names by which the container device interface knows what is asked for.
fn gpus(request: &DeviceRequest) -> Result<Vec<String>, String> {
    let driver = request.driver.as_deref().unwrap_or("nvidia");
    let kind = match driver {
        "nvidia" => "nvidia.com/gpu",
        "amd" => "amd.com/gpu",
        "cdi" => return Ok(request.device_ids.clone()),
        other => return Err(format!("{other} is no driver that is known here: write nvidia, amd or cdi")),
    };
    if !request.device_ids.is_empty() {
        return Ok(request.device_ids.iter().map(|id| format!("{kind}={id}")).collect());
    }
    match request.count.as_deref() {
        None | Some("all" | "-1") => Ok(vec![format!("{kind}=all")]),
        Some(count) => match count.parse::<u32>() {
            Ok(count) => Ok((0..count).map(|number| format!("{kind}={number}")).collect()),
            Err(_) => Err(format!("{count} is no number of devices: write a number, or all")),
        },
    }
}
