//! What was answered to requests that carry a key.

use serde::{Deserialize, Serialize};

use super::{Revision, Timestamp};

/// A request that was done, and what was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The digest of the request, in hexadecimal: another one with the same key is none of this.
    pub request: String,
    /// When.
    pub at: Timestamp,
    /// The revision that was answered; none: that of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The answer, but for its revision.
    pub outcome: serde_json::Value,
}
