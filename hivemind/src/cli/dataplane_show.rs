//! `hivemind dataplane dump` and `check`.

use std::collections::BTreeMap;

use super::{
    Context,
    output::{Format, line},
};
use crate::{
    api::dataplane::{DifferenceView, RowsView, RunsView, TableView},
    client::MeasureDataplaneArgs,
    model::{ErrorCode, Problem},
};

/// Shows the rows of a table, or which tables there are.
pub(super) async fn dump(context: &Context, table: Option<&str>) -> Result<(), Problem> {
    let Some(table) = table else {
        let all: Vec<TableView> = context.client.list_tables().await?;
        if context.output.wants_document() {
            return context.output.document(&all);
        }
        if context.output.format == Format::Name {
            all.iter().for_each(|table| line(&table.name));
            return Ok(());
        }
        let columns = ["TABLE", "ROWS", "HOLDS"].map(str::to_owned);
        let rows: Vec<_> = all.into_iter().map(|table| vec![table.name, table.rows.to_string(), table.about]).collect();
        line(&context.output.grid(&columns, &rows));
        return Ok(());
    };
    let view: RowsView = context.client.get_table(table).await?;
    if context.output.wants_document() {
        let titles = || view.columns.iter().map(|title| title.to_lowercase());
        let rows: Vec<BTreeMap<_, _>> = view.rows.iter().map(|row| titles().zip(row).collect()).collect();
        return context.output.document(&rows);
    }
    match context.output.format {
        Format::Name => view.rows.iter().filter_map(|row| row.first()).for_each(|cell| line(cell)),
        _ if view.rows.is_empty() => context.output.say(&format!("the table {table} is empty")),
        _ => line(&context.output.grid(&view.columns, &view.rows)),
    }
    Ok(())
}

/// Shows how long programs take.
pub(super) async fn stats(context: &Context, seconds: u64) -> Result<(), Problem> {
    context
        .output
        .say(&format!("measuring for {seconds} s; every program of the machine takes a little longer meanwhile"));
    let asked = MeasureDataplaneArgs { seconds: Some(seconds) };
    let all: Vec<RunsView> = context.client.measure_dataplane(&asked).await?;
    if context.output.wants_document() {
        return context.output.document(&all);
    }
    let columns = ["PROGRAM", "RUNS", "EACH", "OF A PROCESSOR"].map(str::to_owned);
    let row = |view: &RunsView| {
        let each = if view.runs == 0 { String::new() } else { format!("{} ns", view.mean_ns) };
        vec![view.program.clone(), view.runs.to_string(), each, format!("{:.3} %", view.share * 100.0)]
    };
    line(&context.output.grid(&columns, &all.iter().map(row).collect::<Vec<_>>()));
    Ok(())
}

/// Tells what is not as it should be; that there is anything is an error.
pub(super) async fn check(context: &Context) -> Result<(), Problem> {
    let all: Vec<DifferenceView> = context.client.check_dataplane().await?;
    if context.output.wants_document() {
        context.output.document(&all)?;
    }
    if all.is_empty() {
        context.output.say("the data plane is what it should be: tables, attachments and pins");
        return Ok(());
    }
    let title = format!("the data plane is not what it should be: {} differences", all.len());
    let problem = Problem::new(ErrorCode::Drift, title).hint(
        "hivemind dataplane check   (again in a minute: the daemon puts it right, and counts it in hivemind_dataplane_repairs)",
    );
    Err(all.iter().map(words).fold(problem, Problem::detail))
}

/// A difference in a line.
fn words(difference: &DifferenceView) -> String {
    let DifferenceView { fault, place, what, wanted, found } = difference;
    match fault.as_str() {
        "missing" if found.is_empty() => format!("{place}: {what} is missing; it should be {wanted}"),
        "missing" => format!("{place}: {what} is missing: {found}"),
        "extra" => format!("{place}: {what} should not be there; it is {found}"),
        _ => format!("{place}: {what} is {found}; it should be {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_a_sentence() {
        let view = |fault: &str, wanted: &str, found: &str| DifferenceView {
            fault: fault.into(),
            place: "peers".into(),
            what: "10.88.0.2".into(),
            wanted: wanted.into(),
            found: found.into(),
        };
        assert_eq!(words(&view("missing", "a", "")), "peers: 10.88.0.2 is missing; it should be a");
        assert_eq!(words(&view("extra", "", "b")), "peers: 10.88.0.2 should not be there; it is b");
        assert_eq!(words(&view("different", "a", "b")), "peers: 10.88.0.2 is b; it should be a");
    }
}
