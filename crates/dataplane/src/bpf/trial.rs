//! One packet through one program, without sending anything.

use aya::{TestRun as _, TestRunOptions, programs::Program};

use super::{BpfDataplane, chain};
use crate::DataplaneError;

/// What a program did with a packet that it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return code.
    pub verdict: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// When it is to leave the machine, in nanoseconds of the monotonic clock; 0: at once.
    pub departs: u64,
    /// How long one run took.
    pub mean: std::time::Duration,
}

impl BpfDataplane {
    /// Runs the uplinks' program in the driver of another device, in the calling thread's namespace, until this is
    /// dropped. A veth sends out again what its program wants to only if its peer runs a program as well.
    #[cfg(feature = "testkit")]
    pub fn run_in_driver(&mut self, device: &str) -> Result<(), DataplaneError> {
        let fail = |why| DataplaneError::Kernel { what: "a program in a driver", why };
        match self.ebpf.program_mut(hivemind_ebpf::program::UPLINK_DRIVER) {
            Some(Program::Xdp(program)) => program.attach(device, aya::programs::XdpMode::Driver),
            _ => return Err(fail("it is not loaded".into())),
        }
        .map(drop)
        .map_err(|error| fail(chain(&error)))
    }

    /// Runs a device's program on one packet that seems to have come by the interface `ifindex`, without sending
    /// anything; `repeat` times on the same bytes.
    pub fn test_run(&self, name: &str, packet: &[u8], ifindex: u32, repeat: u32) -> Result<TestRun, DataplaneError> {
        self.try_out(name, packet, ifindex, [repeat, 0])
    }

    /// The same once with a packet that the kernel will make so many of.
    #[cfg(feature = "testkit")]
    pub fn test_run_cut(
        &self,
        name: &str,
        packet: &[u8],
        ifindex: u32,
        pieces: u32,
    ) -> Result<TestRun, DataplaneError> {
        self.try_out(name, packet, ifindex, [1, pieces])
    }

    fn try_out(
        &self,
        name: &str,
        packet: &[u8],
        ifindex: u32,
        [repeat, pieces]: [u32; 2],
    ) -> Result<TestRun, DataplaneError> {
        let fail = |why| DataplaneError::Kernel { what: "a test run of a program", why };
        let mut context = [0u8; 192];
        let context = match self.ebpf.program(name) {
            // `struct __sk_buff`: the interface index is its eleventh word, and the pieces are in `gso_segs`.
            Some(Program::SchedClassifier(_)) => {
                context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
                context[164..168].copy_from_slice(&pieces.to_ne_bytes());
                &context[..]
            }
            // `struct xdp_md`: the second word is where the packet ends, the fourth the interface index.
            Some(Program::Xdp(_)) => {
                let end = u32::try_from(packet.len()).map_err(|error| fail(error.to_string()))?;
                context[4..8].copy_from_slice(&end.to_ne_bytes());
                context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
                &context[..24]
            }
            _ => return Err(fail(format!("{name} is not a device's program"))),
        };
        let mut out = vec![0; packet.len() + 256];
        let mut after = [0u8; 192];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(context),
            ctx_out: Some(&mut after[..context.len()]),
            repeat,
            ..TestRunOptions::default()
        };
        let result = match self.ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            Some(Program::Xdp(program)) => program.test_run(options),
            _ => return Err(fail(format!("{name} is not loaded"))),
        };
        let result = result.map_err(|error| fail(chain(&error)))?;
        out.truncate(result.data_size_out as usize);
        // `tstamp` of `struct __sk_buff`, behind which `struct xdp_md` has nothing.
        let departs = u64::from_ne_bytes(after[152..160].try_into().unwrap_or_default());
        Ok(TestRun { verdict: result.return_value.cast_signed(), packet: out, departs, mean: result.duration })
    }
}
