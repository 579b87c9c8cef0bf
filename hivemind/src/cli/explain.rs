//! `hivemind explain`

use serde::Serialize;

use super::output::{Listed, Output, line};
use crate::model::{ErrorCode, Problem};

/// A code and what it means.
#[derive(Serialize)]
struct Explained {
    code: ErrorCode,
    meaning: &'static str,
    exit_code: u8,
    http_status: u16,
}

impl From<ErrorCode> for Explained {
    fn from(code: ErrorCode) -> Self {
        Self { code, meaning: code.explain(), exit_code: code.exit_code(), http_status: code.status() }
    }
}

impl Listed for Explained {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["CODE", "EXIT", "MEANING"], &["HTTP"]);

    fn name(&self) -> String {
        self.code.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let first = self.meaning.split_inclusive(['.', ':']).next().unwrap_or_default();
        let first = first.trim_end_matches(['.', ':']);
        vec![self.code.to_string(), self.exit_code.to_string(), first.into(), self.http_status.to_string()]
    }
}

pub(super) fn run(output: Output, code: Option<&str>) -> Result<(), Problem> {
    let Some(text) = code else {
        let all: Vec<Explained> = ErrorCode::ALL.iter().map(|code| (*code).into()).collect();
        return output.list(&all, "");
    };
    let wanted = text.trim_matches(['[', ']', ':']).to_ascii_uppercase();
    let Some(code) = ErrorCode::ALL.iter().find(|code| code.as_str() == wanted) else {
        return Err(Problem::new(ErrorCode::NotFound, format!("there is no error code {text}"))
            .hint("hivemind explain   (lists them all)"));
    };
    let explained = Explained::from(*code);
    if output.wants_document() {
        return output.document(&explained);
    }
    line(&format!("{code}\n{}\n\nexit code {}, HTTP status {}", code.explain(), code.exit_code(), code.status()));
    Ok(())
}
