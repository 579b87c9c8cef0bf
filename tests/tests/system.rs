//! The whole system, through its command line: real containerd, real registry, real kernel, on a machine of its own.

#[path = "system/attach.rs"]
mod attach;
#[path = "system/balance.rs"]
mod balance;
#[path = "system/builds.rs"]
mod builds;
#[path = "system/closing.rs"]
mod closing;
#[path = "system/compose.rs"]
mod compose;
#[path = "system/configured.rs"]
mod configured;
#[path = "system/contents.rs"]
mod contents;
#[path = "system/copies.rs"]
mod copies;
#[path = "system/crash.rs"]
mod crash;
#[path = "system/disks.rs"]
mod disks;
#[path = "system/doctor.rs"]
mod doctor;
#[path = "system/exec.rs"]
mod exec;
#[path = "system/families.rs"]
mod families;
#[path = "system/flows.rs"]
mod flows;
#[path = "system/forward.rs"]
mod forward;
#[path = "system/health.rs"]
mod health;
#[path = "system/helpers.rs"]
mod helpers;
#[path = "system/host.rs"]
mod host;
#[path = "system/hosts.rs"]
mod hosts;
#[path = "system/images.rs"]
mod images;
#[path = "system/life.rs"]
mod life;
#[path = "system/limits.rs"]
mod limits;
#[path = "system/logs.rs"]
mod logs;
#[path = "system/lost.rs"]
mod lost;
#[path = "system/mirrors.rs"]
mod mirrors;
#[path = "system/names.rs"]
mod names;
#[path = "system/namespaces.rs"]
mod namespaces;
#[path = "system/options.rs"]
mod options;
#[path = "system/outside.rs"]
mod outside;
#[path = "system/packaged.rs"]
mod packaged;
#[path = "system/pause.rs"]
mod pause;
#[path = "system/policies.rs"]
mod policies;
#[path = "system/probes.rs"]
mod probes;
#[path = "system/pushes.rs"]
mod pushes;
#[path = "system/reboot.rs"]
mod reboot;
#[path = "system/registries.rs"]
mod registries;
#[path = "system/resumed.rs"]
mod resumed;
#[path = "system/seen.rs"]
mod seen;
#[path = "system/service.rs"]
mod service;
#[path = "system/shown.rs"]
mod shown;
#[path = "system/sidecars.rs"]
mod sidecars;
#[path = "system/stress.rs"]
mod stress;
#[path = "system/told.rs"]
mod told;
#[path = "system/unreliable.rs"]
mod unreliable;
#[path = "system/updates.rs"]
mod updates;
#[path = "system/verbs.rs"]
mod verbs;
#[path = "system/volumes.rs"]
mod volumes;
#[path = "system/wrong.rs"]
mod wrong;
