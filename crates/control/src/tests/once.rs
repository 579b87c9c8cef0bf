//! Requests with a key, over a loop that ends after any transaction.

use super::*;
use crate::project::ProjectChange;

fn once(key: &str, request: &str) -> Option<Once> {
    Some(Once { key: key.into(), request: request.into() })
}

/// A deploy and a restart, each with its key.
async fn changes(control: &Control) -> Result<(Written, Written), ControlError> {
    let made = control.once(once("a", "deploy")).deploy(key("web"), spec(1), None).await?;
    let restarted = control.once(once("b", "restart")).restart(&key("web"), None).await?;
    Ok((made, restarted))
}

#[tokio::test]
async fn what_carries_a_key_is_done_once_wherever_the_loop_ends() {
    let mut points = 0;
    for left in 0.. {
        let dir = tempfile::tempdir().expect("a folder");
        let running = Running::start(dir.path(), left).await;
        let first = timeout(PATIENCE, changes(&running.control)).await.expect("in time");
        running.stop().await;
        let running = Running::start(dir.path(), u64::MAX).await;
        let again = timeout(PATIENCE, changes(&running.control)).await.expect("in time").expect("done");
        assert!(again.0.created && !again.1.created, "after {left} transactions");
        assert_eq!((again.0.generation, again.1.generation), (1, 2), "after {left} transactions");
        assert_eq!(running.control.snapshot().apps[&key("web")].object.generation, 2, "after {left} transactions");
        points += 1;
        if let Ok(first) = first {
            assert_eq!(again, first);
            break;
        }
    }
    assert!(points > 2, "only {points} points were passed");
}

#[tokio::test]
async fn what_changes_nothing_is_remembered_too_and_a_key_is_for_one_request() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::start(dir.path(), u64::MAX).await;
    let control = &running.control;
    control.deploy(key("web"), spec(2), None).await.expect("deployed");
    let keyed = control.once(once("k", "scale to 2"));
    let same = keyed.scale(&key("web"), 2, None).await.expect("it has two");
    control.scale(&key("web"), 5, None).await.expect("scaled by somebody else");
    let again = keyed.scale(&key("web"), 2, None).await.expect("the first answer");
    assert_eq!(again, same);
    assert_eq!(control.snapshot().apps[&key("web")].object.spec.replicas, 5, "nothing was done twice");

    let other = control.once(once("k", "another"));
    let scope = Scope { namespace: "prod".parse().expect("a name"), ..Scope::default() };
    let refused = [
        other.scale(&key("web"), 2, None).await.map(drop),
        other.change(ObjectChange::PutNamespace(scope.clone(), [].into()), None).await.map(drop),
        other
            .project(ProjectKey { scope, name: "prod".into() }, ProjectChange::Remove { volumes: false })
            .await
            .map(drop),
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(ControlError::KeyUsed))), "{refused:?}");
    // A refusal is not kept: with the same key it can be right later.
    let late = control.once(once("late", "remove"));
    assert!(late.remove(&key("other"), None).await.is_err());
    control.deploy(key("other"), AppSpec::new("x"), None).await.expect("deployed");
    late.remove(&key("other"), None).await.expect("removed");
    running.stop().await;
}
