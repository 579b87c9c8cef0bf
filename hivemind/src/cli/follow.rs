//! Streams that go on when the connection breaks, or the daemon is started again.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::Context;
use crate::model::{ErrorCode, Problem};

/// How long the daemon may be away until that is an error: longer than a restart takes.
const AWAY: Duration = Duration::from_secs(60);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether the daemon is away: stopped, being started, or killed.
pub(super) fn is_away(problem: &Problem) -> bool {
    matches!(problem.code, ErrorCode::Unreachable | ErrorCode::Unavailable)
}

/// Asks, and while the daemon is away asks again; that it waits is said once. Only for who has had an answer before: that
/// there is no daemon at all is an error at once.
pub(super) async fn patiently<T, F: Future<Output = Result<T, Problem>>>(
    context: &Context,
    ask: impl Fn() -> F,
) -> Result<T, Problem> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        match ask().await {
            Err(problem) if is_away(&problem) && begun.elapsed() < AWAY => {
                if !said {
                    context.output.say("the daemon does not answer; waiting for it");
                }
                said = true;
                tokio::time::sleep(PAUSE).await;
            }
            answer => {
                if said && answer.is_ok() {
                    context.output.say("the daemon answers again");
                }
                return answer;
            }
        }
    }
}

/// The pause before a stream that has ended is asked for again.
pub(super) async fn pause() {
    tokio::time::sleep(PAUSE).await;
}
