//! What the data plane holds, in words, and whether it is what it should be.

mod limits;
mod shown;

use std::time::Duration;

use axum::{
    Json as Body,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    extract::Args,
    flow_names::Who,
    problem::{ApiError, not_found},
    serve::Stop,
};
use hivemind_core::model::{ErrorCode, Problem};
use hivemind_dataplane::{
    ProgramRuns,
    drift::{Difference, Fault},
    tables::Part,
};
use shown::{Held, Shown, Source, TABLES, rows};

/// A table, and how many rows it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableView {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub about: String,
    /// How many rows there are.
    pub rows: usize,
}

/// The rows of a table, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowsView {
    /// Titles of the columns.
    pub columns: Vec<String>,
    /// A cell for each column, of each row.
    pub rows: Vec<Vec<String>>,
}

/// Something in the kernel that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    /// `missing`, `extra` or `different`.
    pub fault: String,
    /// A table, `attachment`, `pin` or `write`.
    pub place: String,
    /// Of what.
    pub what: String,
    /// What it should be; empty if it should not be.
    pub wanted: String,
    /// What it is; empty if it is not there.
    pub found: String,
}

impl From<Difference> for DifferenceView {
    fn from(difference: Difference) -> Self {
        let fault = match difference.fault {
            Fault::Missing => "missing",
            Fault::Extra => "extra",
            Fault::Different => "different",
        };
        let Difference { place, what, wanted, found, .. } = difference;
        Self { fault: fault.into(), place: place.into(), what, wanted, found }
    }
}

/// The tables of the data plane on this node.
#[utoipa::path(get, operation_id = "listTables", path = "/v1/dataplane/tables", tag = "dataplane",
    responses((status = 200, body = [TableView]), (status = "4XX", body = Problem)))]
pub(super) async fn tables(State(state): State<ApiState>) -> Result<Body<Vec<TableView>>, ApiError> {
    let all = [Source::Rows(Part::ALL), Source::Seen, Source::Counters, Source::Uses, Source::Info];
    let held = Held::read(&state, &all).await?;
    let view = |(name, about, _): &(&str, &str, Source)| TableView {
        name: (*name).into(),
        about: (*about).into(),
        rows: held.count(name).unwrap_or(0),
    };
    Ok(Body(TABLES.iter().map(view).collect()))
}

/// The rows of a table, as the kernel has them now, in words.
#[utoipa::path(get, operation_id = "getTable", path = "/v1/dataplane/tables/{name}", tag = "dataplane",
    params(("name" = String, Path)), responses((status = 200, body = RowsView), (status = "4XX", body = Problem)))]
pub(super) async fn table(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Body<RowsView>, ApiError> {
    let unknown = || not_found("table", &name, None, TABLES.iter().map(|(name, ..)| *name));
    let (_, _, source) = TABLES.iter().find(|(known, ..)| *known == name).ok_or_else(unknown)?;
    let shown = Shown { held: Held::read(&state, &[*source]).await?, who: Who::now(&state).await? };
    shown.table(&name).map(Body).ok_or_else(unknown)
}

#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsArgs {
    /// For how many seconds: 1 to 60; 5 without it.
    #[param(minimum = 1, maximum = 60)]
    seconds: Option<u64>,
}

/// How often a program has run, and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunsView {
    /// The program.
    pub program: String,
    /// How often it has run.
    pub runs: u64,
    /// How long one run took, in nanoseconds: the mean.
    pub mean_ns: u64,
    /// Which share of one processor it took.
    pub share: f64,
}

/// How long each of the data plane's programs takes: the kernel measures it for some seconds, which costs every program a
/// little, and then the answer comes.
#[utoipa::path(get, operation_id = "measureDataplane", path = "/v1/dataplane/stats", tag = "dataplane", params(StatsArgs),
    responses((status = 200, body = [RunsView]), (status = "4XX", body = Problem)))]
pub(super) async fn stats(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(args): Args<StatsArgs>,
) -> Result<Body<Vec<RunsView>>, ApiError> {
    let seconds = args.seconds.unwrap_or(5);
    if !(1..=60).contains(&seconds) {
        let title = format!("seconds {seconds}: programs are measured for 1 to 60 seconds");
        return Err(Problem::new(ErrorCode::Invalid, title).into());
    }
    let measuring = state.datapath.measure().await?;
    let before = state.datapath.runs().await?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        () = stop.stopped() => {}
    }
    let after = state.datapath.runs().await?;
    drop(measuring);
    Ok(Body(between(&before, &after, Duration::from_secs(seconds))))
}

/// What has run between two looks that far apart. A program that was replaced meanwhile begins anew.
#[expect(clippy::cast_precision_loss, reason = "a share, rounded")]
fn between(before: &[ProgramRuns], after: &[ProgramRuns], time: Duration) -> Vec<RunsView> {
    let view = |now: &ProgramRuns| {
        let first = before.iter().find(|then| then.name == now.name && then.runs <= now.runs);
        let runs = now.runs - first.map_or(0, |then| then.runs);
        let spent = now.time.saturating_sub(first.map_or(Duration::ZERO, |then| then.time));
        let mean_ns = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX).checked_div(runs).unwrap_or(0);
        RunsView { program: now.name.clone(), runs, mean_ns, share: spent.as_nanos() as f64 / time.as_nanos() as f64 }
    };
    after.iter().map(view).collect()
}

/// What in the kernel is not as the daemon has written and attached it. It is put right within a minute, and counted.
#[utoipa::path(get, operation_id = "checkDataplane", path = "/v1/dataplane/check", tag = "dataplane",
    responses((status = 200, body = [DifferenceView]), (status = "4XX", body = Problem)))]
pub(super) async fn check(State(state): State<ApiState>) -> Result<Body<Vec<DifferenceView>>, ApiError> {
    let found = state.datapath.check().await?;
    let mut views: Vec<DifferenceView> = found.into_iter().map(Into::into).collect();
    // The tables that should be there are not all written: then what is there is not what should be.
    let fault = state.datapath.state().borrow().fault.clone();
    if let Some(fault) = fault {
        let (what, wanted) = ("the last write of the tables".into(), "done".into());
        views.push(DifferenceView { fault: "missing".into(), place: "write".into(), what, wanted, found: fault });
    }
    Ok(Body(views))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_before_is_not_counted() {
        let runs = |name: &str, runs, nanos| ProgramRuns { name: name.into(), runs, time: Duration::from_nanos(nanos) };
        let before = [runs("a", 10, 1_000), runs("b", 5, 500), runs("c", 9, 9_000)];
        let after = [runs("a", 30, 5_000), runs("b", 5, 500), runs("c", 2, 100)];
        let views = between(&before, &after, Duration::from_micros(8));
        let told: Vec<_> = views.iter().map(|view| (view.program.as_str(), view.runs, view.mean_ns)).collect();
        assert_eq!(told, [("a", 20, 200), ("b", 0, 0), ("c", 2, 50)]);
        assert!((views[0].share - 0.5).abs() < 1e-9, "{}", views[0].share);
    }
}
