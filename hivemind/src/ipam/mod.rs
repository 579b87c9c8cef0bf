//! Floor 1: which address is free. Pure.
