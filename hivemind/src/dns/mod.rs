//! Floor 2: the name server of a node (hickory).
