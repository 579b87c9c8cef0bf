//! Floor 3: the loop that brings a node to what its feed says.
