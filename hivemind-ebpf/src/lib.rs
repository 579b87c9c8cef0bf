//! The kernel half of hivemind: the ABI, and pure code for both sides.
#![cfg_attr(target_arch = "bpf", no_std)]
