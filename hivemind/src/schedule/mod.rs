//! Floor 1, decisions: which instances should exist and where. Pure.
