//! A program that does nothing, and the kernel's clock around it.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

/// Commands of bpf(2), and the type of the programs of network devices (linux/bpf.h).
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// `r0 = 0; exit`
static INSTRUCTIONS: [u64; 2] = [0xb7, 0x95];

/// The program, loaded.
pub(super) struct Program(OwnedFd);

/// `union bpf_attr` of BPF_PROG_LOAD, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    rest: [u64; 14],
}

/// The same of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    nanos: u32,
    rest: [u64; 8],
}

impl Program {
    pub(super) fn load() -> Result<Self> {
        let mut load = Load {
            kind: BPF_PROG_TYPE_SCHED_CLS,
            instructions: 2,
            code: INSTRUCTIONS.as_ptr().addr() as u64,
            license: c"Apache-2.0".as_ptr().addr() as u64,
            ..Load::default()
        };
        let fd = bpf(BPF_PROG_LOAD, &mut load).context("cannot load a program that does nothing")?;
        // SAFETY: the kernel has just made it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) }))
    }

    /// Nanoseconds of one run, the mean of `repeat`.
    pub(super) fn run(&self, packet: &[u8], repeat: u32) -> Result<f64> {
        let mut run = TestRun {
            program: u32::try_from(self.0.as_raw_fd())?,
            size_in: u32::try_from(packet.len())?,
            data_in: packet.as_ptr().addr() as u64,
            repeat,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut run).context("cannot run a program that does nothing")?;
        Ok(run.nanos.into())
    }
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are those of the command, padded with zeroes, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
