//! Why a command was refused.

use super::{ObjectName, Unreadable};
use hivemind_core::model::{AppKey, Problem, Revision, Scope, TierKey};
use hivemind_store::StoreError;

/// How many of those that are in the way are named.
const NAMED: usize = 10;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The document has faults.
    #[error("the specification of {object} has {} fault(s): {}", .faults.len(), .faults.join("; "))]
    Invalid {
        /// What it is of.
        object: ObjectName,
        /// All of them.
        faults: Vec<String>,
    },
    /// There is no such object.
    #[error("{object} does not exist")]
    NotFound {
        /// The object.
        object: ObjectName,
    },
    /// The app was never what it is to go back to, or it is not kept.
    #[error("{}", no_past(.app, *.asked))]
    NoPast {
        /// The app.
        app: AppKey,
        /// The generation that was asked for, if one was.
        asked: Option<u64>,
        /// Those that are kept.
        kept: Vec<u64>,
    },
    /// There is no such namespace, or no such tenant, to put something into.
    #[error("{} does not exist", if *.tenant { format!("namespace {scope}") } else { format!("tenant {}", scope.tenant) })]
    NoScope {
        /// The namespace.
        scope: Scope,
        /// Whether at least its tenant exists.
        tenant: bool,
    },
    /// A name or a port belongs to another app.
    #[error("{what} is used by app {by}")]
    Taken {
        /// `DNS name web.local` or `published port 8080/tcp`.
        what: String,
        /// Whose it is.
        by: AppKey,
    },
    /// A namespace is a project's, and not this one's.
    #[error("namespace {scope} is of the project {project}")]
    OtherProject {
        /// The namespace.
        scope: Scope,
        /// The project.
        project: String,
    },
    /// There is no such project.
    #[error("there is no project {project} in {}", .scope.tenant)]
    NoProject {
        /// Its namespace.
        scope: Scope,
        /// The project.
        project: String,
    },
    /// A tenant or a namespace is not empty.
    #[error("{object} is not empty and cannot be removed")]
    Occupied {
        /// The tenant or the namespace.
        object: ObjectName,
        /// What is in it, in words.
        owns: Vec<String>,
    },
    /// Others use it.
    #[error("{object} is used and cannot be removed")]
    Used {
        /// What is used.
        object: ObjectName,
        /// Who uses it, in words.
        by: Vec<String>,
    },
    /// It is there already, and is not to be changed.
    #[error("{object} is there already, with another content")]
    Exists {
        /// What is there.
        object: ObjectName,
    },
    /// It is being removed, and nothing may use it any more.
    #[error("{object} is still being removed")]
    Leaving {
        /// What goes.
        object: ObjectName,
    },
    /// It always exists.
    #[error("{object} always exists and cannot be removed")]
    Permanent {
        /// The tenant or the namespace.
        object: ObjectName,
    },
    /// The object changed since it was read.
    #[error("{object} changed since revision {expected}; it is now at {found}")]
    Conflict {
        /// The object.
        object: ObjectName,
        /// The revision of the former read.
        expected: Revision,
        /// The revision now.
        found: Revision,
    },
    /// The key of the request was another request's.
    #[error("the Idempotency-Key was used for another request")]
    KeyUsed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control loops have ended: the daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Why the loop does not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer version wrote some of its rows, or somebody else did.
    #[error("{} of the store's rows cannot be read by this version, {}", rows.len(), env!("CARGO_PKG_VERSION"))]
    Unreadable {
        /// Which, and why.
        rows: Vec<Unreadable>,
        /// The versions that the nodes last ran.
        versions: Vec<String>,
    },
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        use hivemind_core::model::ErrorCode;
        let title = error.to_string();
        match error {
            LoadError::Store(error) => Self::new(error.code(), title),
            LoadError::Unreadable { rows, versions } => {
                let lines = rows.iter().map(|row| format!("{}: {}", row.key, row.why)).collect();
                let mut problem = some(Self::new(ErrorCode::StoreVersion, title), lines);
                if !versions.is_empty() {
                    problem = problem.detail(format!("the store was last used by hivemind {}", versions.join(" and ")));
                }
                problem
                    .detail("nothing was touched: by the other rows, this daemon would remove instances that go on as they are")
                    .hint(format!("start the hivemind that wrote them; hivemind explain {}", ErrorCode::StoreVersion))
            }
        }
    }
}

fn no_past(app: &AppKey, asked: Option<u64>) -> String {
    match asked {
        Some(generation) => format!("no generation {generation} of app {app} is kept"),
        None => format!("app {app} was never in place as anything else than it is now: there is nothing to go back to"),
    }
}

/// Names the first of them.
fn some(problem: Problem, lines: Vec<String>) -> Problem {
    let more = lines.len().saturating_sub(NAMED);
    let problem = lines.into_iter().take(NAMED).fold(problem, Problem::detail);
    if more > 0 { problem.detail(format!("and {more} more")) } else { problem }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        use hivemind_core::model::ErrorCode;
        let title = error.to_string();
        match error {
            ControlError::Invalid { object, faults } => Self {
                code: ErrorCode::Invalid,
                title: format!("{} is not valid", object.name()),
                details: faults,
                hint: None,
            },
            ControlError::NotFound { object } => Self::new(ErrorCode::NotFound, title).hint(list(&object)),
            ControlError::NoScope { scope, tenant } => {
                Self::new(ErrorCode::NotFound, title).hint(create(&scope, tenant))
            }
            ControlError::OtherProject { scope, project } => Self::new(ErrorCode::Taken, title).hint(format!(
                "hivemind up -p NAME   or away with it: hivemind down -p {project} -n {}",
                scope.namespace
            )),
            ControlError::NoProject { scope, .. } => {
                Self::new(ErrorCode::NotFound, title).hint(format!("hivemind namespace ls -T {}", scope.tenant))
            }
            ControlError::NoPast { app, kept, .. } => {
                let kept: Vec<_> = kept.iter().map(u64::to_string).collect();
                Self::new(ErrorCode::NotFound, title)
                    .detail(format!("kept are {}", if kept.is_empty() { "none".into() } else { kept.join(", ") }))
                    .hint(format!("hivemind history {}{}", app.name, flags(&app.scope)))
            }
            ControlError::Taken { by, .. } => {
                Self::new(ErrorCode::Taken, title).hint(format!("hivemind app info {}", by.name))
            }
            ControlError::Occupied { object, owns } => {
                some(Self::new(ErrorCode::Taken, title).hint(inside(&object)), owns)
            }
            ControlError::Used { by, .. } => {
                let hint =
                    by.iter().find_map(|user| user.strip_prefix("app ")).map(|app| format!("hivemind app rm {app}"));
                Self { hint, ..some(Self::new(ErrorCode::Taken, title), by) }
            }
            ControlError::Exists { object } => {
                let hint = format!("hivemind {} create {} … --replace", object.kind(), object.name());
                Self::new(ErrorCode::Taken, title).hint(hint)
            }
            ControlError::Leaving { object } => Self::new(ErrorCode::Taken, title).hint(list(&object)),
            ControlError::Permanent { .. } => Self::new(ErrorCode::Invalid, title),
            ControlError::Conflict { object, .. } => Self::new(ErrorCode::Conflict, title).hint(show(&object)),
            ControlError::KeyUsed => Self::new(ErrorCode::KeyUsed, title)
                .hint("send another key; the same one only to repeat the same request, byte by byte"),
            ControlError::Store(error) => Self::new(error.code(), title),
            ControlError::Stopping => Self::new(ErrorCode::Unavailable, title),
        }
    }
}

/// The flags that a command needs to be about a namespace; none for `default/default`.
fn flags(scope: &Scope) -> String {
    let tenant = if scope.tenant.is_default() { String::new() } else { format!(" -T {}", scope.tenant) };
    let namespace = if scope.is_default_of_tenant() { String::new() } else { format!(" -n {}", scope.namespace) };
    tenant + &namespace
}

/// The command that lists what is beside an object.
fn list(object: &ObjectName) -> String {
    match object {
        ObjectName::App(key) => format!("hivemind app ls{}", flags(&key.scope)),
        ObjectName::Policy(key) => format!("hivemind policy ls{}", flags(&key.scope)),
        ObjectName::Tier(_) => "hivemind policy tier ls".into(),
        ObjectName::Volume(key) => format!("hivemind volume ls{}", flags(&key.scope)),
        ObjectName::Content(kind, key) => format!("hivemind {kind} ls{}", flags(&key.scope)),
        ObjectName::Tenant(_) => "hivemind tenant ls".into(),
        ObjectName::Namespace(scope) => {
            format!("hivemind namespace ls{}", flags(&Scope::default_of(scope.tenant.clone())))
        }
    }
}

/// The command that shows an object.
fn show(object: &ObjectName) -> String {
    match object {
        ObjectName::App(key) => format!("hivemind app info {}{}", key.name, flags(&key.scope)),
        ObjectName::Policy(key) => format!("hivemind policy show {}{}", key.name, flags(&key.scope)),
        ObjectName::Tier(key) => format!("hivemind policy tier show {key}"),
        ObjectName::Volume(key) => format!("hivemind volume info {}{}", key.name, flags(&key.scope)),
        ObjectName::Content(..) => list(object),
        ObjectName::Tenant(_) | ObjectName::Namespace(_) => list(object),
    }
}

/// The commands that show what is in a tenant or a namespace.
fn inside(object: &ObjectName) -> String {
    let (scope, all) = match object {
        ObjectName::Tenant(name) => (Scope::default_of(name.clone()), " -A"),
        ObjectName::Namespace(scope) => (scope.clone(), ""),
        ObjectName::App(AppKey { scope, .. }) => (scope.clone(), ""),
        ObjectName::Policy(key) => (key.scope.clone(), ""),
        ObjectName::Volume(key) => (key.scope.clone(), ""),
        ObjectName::Content(_, key) => (key.scope.clone(), ""),
        ObjectName::Tier(TierKey { tenant, .. }) => {
            (tenant.clone().map_or_else(Scope::default, Scope::default_of), " -A")
        }
    };
    let flags = flags(&scope);
    format!("hivemind app ls{flags}{all}   hivemind policy ls{flags}{all}   hivemind volume ls{flags}{all}")
}

/// The commands that create a namespace and, if need be, its tenant.
fn create(scope: &Scope, has_tenant: bool) -> String {
    let Scope { tenant, namespace } = scope;
    let namespace = format!("hivemind namespace create {namespace}{}", flags(&Scope::default_of(tenant.clone())));
    match (has_tenant, scope.is_default_of_tenant()) {
        (true, _) => namespace,
        (false, true) => format!("hivemind tenant create {tenant}"),
        (false, false) => format!("hivemind tenant create {tenant} && {namespace}"),
    }
}
