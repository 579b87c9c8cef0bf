//! What other tools' files say, brought to what the product knows.
//!
//! A floor of its own beneath the command line: it reads files and decides, and asks nobody. Deliberately absent: any
//! call of the API, and any container.

pub mod compose;

use compose::fault::Findings;
use hivemind_core::model::{ErrorCode, Problem};

/// All faults of a Compose file as users see them.
impl From<Findings> for Problem {
    fn from(found: Findings) -> Self {
        let count = found.faults.len();
        let title = match count {
            1 => "the Compose file is not valid".to_owned(),
            _ => format!("the Compose file is not valid: {count} faults"),
        };
        let problem = Self::new(ErrorCode::Invalid, title).hint("correct the files and run the command again");
        found.faults.iter().fold(problem, |problem, fault| problem.detail(fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        compose::{fault::Findings, value::Place},
        *,
    };

    #[test]
    fn faults_are_lines_of_a_problem() {
        let mut found = Findings::default();
        found.fault(&Place { file: "compose.yaml".into(), line: 3, column: 5 }, "services.web", "it is odd");
        assert_eq!(
            Problem::from(found).to_string(),
            "error[E-SPEC-001]: the Compose file is not valid\n  compose.yaml:3:5: services.web: it is odd\n\
             try: correct the files and run the command again"
        );
    }
}
