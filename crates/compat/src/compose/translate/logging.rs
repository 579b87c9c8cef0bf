//! How much of the log is kept.

use super::{super::model::Service, Work};
use hivemind_core::spec::v1::AppSpec;

/// Docker's drivers that keep files of lines, as is done here.
const FILES: &[&str] = &["json-file", "local"];

impl Work<'_> {
    pub(super) fn logging(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let Some(logging) = &service.logging else { return };
        let driver = logging.driver.as_deref().unwrap_or(FILES[0]);
        if !FILES.contains(&driver) {
            let message = format!("{driver} is not used: the log is kept on the node, and hivemind logs shows it");
            self.warn(&["services", name, "logging", "driver"], message);
            return;
        }
        for (option, value) in &logging.options {
            let steps = ["services", name, "logging", "options", option];
            match option.as_str() {
                // Docker's word for no limit.
                "max-size" if value == "-1" => self.warn(&steps, "a file is never larger than 10Mi by default"),
                "max-size" | "max-file" | "max-age" => {
                    if let Err(why) = spec.logging.set(option, value) {
                        self.fault(&steps, why);
                    }
                }
                _ => self.warn(&steps, "it is ignored: the log has max-size, max-file and max-age, in seconds"),
            }
        }
    }
}
