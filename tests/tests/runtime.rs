//! The runtime against a real containerd, a real registry and real containers. Needs root.

#[path = "runtime/containerd.rs"]
mod containerd;
#[path = "runtime/image.rs"]
mod image;
#[path = "runtime/sweep.rs"]
mod sweep;
#[path = "runtime/world.rs"]
mod world;

#[path = "runtime/containers.rs"]
mod containers;
#[path = "runtime/crash.rs"]
mod crash;
#[path = "runtime/exec.rs"]
mod exec;
#[path = "runtime/logs.rs"]
mod logs;
#[path = "runtime/pull.rs"]
mod pull;
