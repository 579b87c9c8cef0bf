//! Limits of CPU time, memory and processes.

use super::{super::model::Service, Work};
use hivemind_core::{
    model::{Bytes, MilliCpu},
    spec::v1::AppSpec,
};

impl Work<'_> {
    pub(super) fn resources(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let limits = &service.deploy.resources.limits;
        if let Some(cpus) = limits.cpus.or(service.cpus).filter(|cpus| *cpus > 0.0) {
            let milli = (cpus * 1000.0).ceil();
            if milli > f64::from(u32::MAX) {
                self.fault(&["services", name], format!("cpus: {cpus} are more than any machine has"));
            } else {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked, and above 0")]
                let milli = milli as u32;
                spec.resources.cpu = Some(MilliCpu(milli));
            }
        }
        // 0 and -1 are without a limit.
        let size = limits.memory.or(service.mem_limit).and_then(|size| u64::try_from(size.0).ok());
        spec.resources.memory = size.filter(|size| *size > 0).map(Bytes);
        let pids = limits.pids.or(service.pids_limit).and_then(|pids| u32::try_from(pids).ok());
        spec.resources.pids = pids.filter(|pids| *pids > 0);
    }
}
