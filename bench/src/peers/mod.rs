//! What others run containers with, on machines of their own beside hivemind's.

mod docker;

pub(crate) use docker::Docker;
