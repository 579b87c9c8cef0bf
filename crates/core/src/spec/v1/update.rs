//! How an app goes from one set of instances to the next.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// Seconds without progress after which an update has failed, if nothing else is said.
pub const DEFAULT_PROGRESS: u32 = 120;
/// The longest time of an update that may be said, in seconds: a day.
const MAX_SECONDS: u32 = 86_400;

/// How an app goes from one set of instances to the next. A change of it needs no new instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSpec {
    /// Whether a new instance comes before an old one goes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: Order,
    /// How many instances more than asked for there may be meanwhile; 1 with start-first, 0 with stop-first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<Portion>,
    /// How many fewer than asked for may serve meanwhile; 0 with start-first, 1 with stop-first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Portion>,
    /// Seconds for which a new instance must have been Ready before it counts, 0 to 86,400.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_ready_seconds: u32,
    /// Seconds from one step to the next, 0 to 86,400.
    #[serde(default, skip_serializing_if = "is_default")]
    pub delay_seconds: u32,
    /// Seconds without a further instance in its place after which the update has failed, 1 to 86,400. Fetching an image,
    /// the time that health check or probes leave for the start and the two times above are not counted.
    #[serde(default = "UpdateSpec::default_progress", skip_serializing_if = "UpdateSpec::is_default_progress")]
    pub progress_seconds: u32,
    /// What then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// What becomes of instances when a secret or a config that they have gets another content.
    #[serde(default, skip_serializing_if = "is_default")]
    pub contents: OnContent,
}

/// Whether a new instance comes before an old one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The new one is Ready first.
    #[default]
    StartFirst,
    /// The old one is gone first: for what cannot be there twice.
    StopFirst,
}

/// What becomes of an update whose instances do not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The last specification that was in place is put back.
    #[default]
    Rollback,
    /// Everything stays as it is then, until the app is changed or rolled back.
    Pause,
    /// It is tried on and on. What works is taken down only as something takes its place.
    Continue,
}

/// What becomes of instances when a secret or a config that they have gets another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnContent {
    /// They are replaced, as when the app is changed.
    #[default]
    Replace,
    /// They stay: a process gets it when it is started the next time.
    Keep,
}

/// A number of instances, or a part of all of them: `2`, `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// So many.
    Count(u32),
    /// So many of a hundred, 0 to 100.
    Percent(u32),
}

/// How many instances may be more and how many may be missing while an app of some size is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// More than asked for.
    pub surge: usize,
    /// Fewer than asked for.
    pub unavailable: usize,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self {
            order: Order::default(),
            max_surge: None,
            max_unavailable: None,
            min_ready_seconds: 0,
            delay_seconds: 0,
            progress_seconds: Self::default_progress(),
            on_failure: OnFailure::default(),
            contents: OnContent::default(),
        }
    }
}

impl UpdateSpec {
    const fn default_progress() -> u32 {
        DEFAULT_PROGRESS
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    const fn is_default_progress(seconds: &u32) -> bool {
        *seconds == DEFAULT_PROGRESS
    }

    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        is_default(self)
    }

    /// So many instances at a time, in this order; 0: all at once. As `parallelism` of Compose files has it.
    pub fn at_a_time(mut self, count: u32) -> Self {
        let part = if count == 0 { Portion::Percent(100) } else { Portion::Count(count) };
        match self.order {
            Order::StartFirst => self.max_surge = Some(part),
            Order::StopFirst => self.max_unavailable = Some(part),
        }
        self
    }

    /// What that is for `replicas` instances. At least one of the two is not 0, as nothing would ever happen otherwise.
    pub fn room(&self, replicas: usize) -> Room {
        let (surge, unavailable) = match self.order {
            Order::StartFirst => (Portion::Count(1), Portion::Count(0)),
            Order::StopFirst => (Portion::Count(0), Portion::Count(1)),
        };
        let surge = match self.max_surge.unwrap_or(surge) {
            Portion::Count(count) => count as usize,
            Portion::Percent(percent) => (replicas * percent as usize).div_ceil(100),
        };
        let unavailable = match self.max_unavailable.unwrap_or(unavailable) {
            Portion::Count(count) => (count as usize).min(replicas),
            Portion::Percent(percent) => replicas * percent as usize / 100,
        };
        match self.order {
            Order::StartFirst if surge == 0 && unavailable == 0 => Room { surge: 1, unavailable },
            Order::StopFirst if surge == 0 && unavailable == 0 => Room { surge, unavailable: 1 },
            _ => Room { surge, unavailable },
        }
    }
}

impl Order {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        }
    }
}

impl OnFailure {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Pause => "pause",
            Self::Continue => "continue",
        }
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Portion {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let read = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.parse().ok().filter(|count| *count <= super::MAX_REPLICAS).map(Self::Count),
        };
        read.ok_or_else(|| format!("{text:?} is neither a number of instances nor a part of all; write 2 or 25%"))
    }
}

impl Serialize for Portion {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => s.serialize_u32(*count),
            Self::Percent(_) => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Portion {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Count(u32),
            Text(String),
        }
        let text = match Form::deserialize(d)? {
            Form::Count(count) => count.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Portion {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        let count = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let percent = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,3}%?$"));
        OneOfBuilder::new()
            .item(count)
            .item(percent)
            .description(Some("A number of instances, or a part of all of them: 2, 25%"))
            .into()
    }
}

impl ToSchema for Portion {}

/// Every fault, as field and what is wrong with it.
pub(super) fn check(update: &UpdateSpec, fault: &mut impl FnMut(&str, String)) {
    for (field, seconds, low) in [
        ("update.min_ready_seconds", update.min_ready_seconds, 0),
        ("update.delay_seconds", update.delay_seconds, 0),
        ("update.progress_seconds", update.progress_seconds, 1),
    ] {
        if !(low..=MAX_SECONDS).contains(&seconds) {
            fault(field, format!("{seconds} is not from {low} to {MAX_SECONDS}"));
        }
    }
    let none = |portion: Option<Portion>| matches!(portion, Some(Portion::Count(0) | Portion::Percent(0)));
    if none(update.max_surge) && none(update.max_unavailable) {
        fault("update.max_surge", "neither more nor fewer instances than asked for may be there: none could ever be replaced; allow one of the two".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(update: &UpdateSpec, replicas: usize) -> (usize, usize) {
        let Room { surge, unavailable } = update.room(replicas);
        (surge, unavailable)
    }

    #[test]
    fn there_is_always_room_for_one_step() {
        let start = UpdateSpec::default();
        let stop = UpdateSpec { order: Order::StopFirst, ..UpdateSpec::default() };
        assert_eq!((room(&start, 3), room(&stop, 3)), ((1, 0), (0, 1)));
        let part = |surge: &str, unavailable: &str| UpdateSpec {
            max_surge: surge.parse().ok(),
            max_unavailable: unavailable.parse().ok(),
            ..UpdateSpec::default()
        };
        assert_eq!(room(&part("25%", "25%"), 10), (3, 2), "more is rounded up, fewer down");
        assert_eq!(room(&part("0", "25%"), 3), (1, 0), "a quarter of three is nobody");
        assert_eq!(room(&part("0", "9"), 3), (0, 3));
        assert_eq!(room(&start.at_a_time(2), 5), (2, 0));
        assert_eq!(room(&stop.at_a_time(0), 5), (0, 5));
    }

    #[test]
    fn portions_are_numbers_or_parts() {
        let update = r#"{"max_surge":2,"max_unavailable":"25%"}"#;
        let read: UpdateSpec = serde_json::from_str(update).expect("valid");
        assert_eq!((read.max_surge, read.max_unavailable), (Some(Portion::Count(2)), Some(Portion::Percent(25))));
        assert_eq!(serde_json::to_string(&read).expect("JSON"), update);
        for text in ["", "%", "101%", "-1", "1001", "half"] {
            assert!(text.parse::<Portion>().expect_err(text).contains("write 2 or 25%"));
        }
    }
}
