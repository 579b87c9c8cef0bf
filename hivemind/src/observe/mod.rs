//! Floor 2: metrics and events.
