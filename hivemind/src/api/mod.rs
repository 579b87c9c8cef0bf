//! Floor 4: REST.
