//! A whole machine: sandbox, containerd, registry and daemon, put together.

use anyhow::Result;

use crate::{
    containerd::Containerd,
    daemon::{Daemon, Said},
    image::Image,
    leaks,
    registry::{Access, Registry},
    sandbox::Sandbox,
};

/// The registry's port inside.
const REGISTRY: u16 = 5000;

/// A machine that runs hivemind.
#[derive(Debug)]
pub struct Machine {
    /// The daemon.
    pub daemon: Daemon,
    /// The registry.
    pub registry: Registry,
    /// containerd.
    pub containerd: Containerd,
    /// Where all this is. The last field: it goes last, and takes everything with it.
    pub sandbox: Sandbox,
}

impl Machine {
    /// Everything but the daemon's process.
    pub fn prepare(name: &str, flags: &[&str]) -> Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let containerd = Containerd::start(&sandbox)?;
        let registry = Registry::start(&sandbox, REGISTRY, Access::Open)?;
        let daemon = Daemon::new(&sandbox, &containerd.socket(), &[registry.host()], flags)?;
        Ok(Self { daemon, registry, containerd, sandbox })
    }

    /// Everything, ready.
    pub fn start(name: &str, flags: &[&str]) -> Result<Self> {
        let mut machine = Self::prepare(name, flags)?;
        machine.daemon.start(&machine.sandbox)?;
        Ok(machine)
    }

    /// Pushes an image to the machine's registry; returns its name.
    pub fn push(&self, image: &Image, name: &str, tag: &str) -> Result<String> {
        self.registry.push(&self.sandbox, image, name, tag)
    }

    /// Runs `hivemind <args>` to its end.
    pub fn hivemind(&self, args: &[&str]) -> Result<Said> {
        self.daemon.cli(&self.sandbox, args)
    }

    /// Ends everything. Fails if the daemon leaves anything of an instance behind, or the sandbox anything at all.
    pub fn close(self) -> Result<()> {
        leaks::check(&self)?;
        self.sandbox.close()
    }
}
