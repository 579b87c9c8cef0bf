//! Floor 2: health checks.
