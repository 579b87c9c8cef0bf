//! Floor 4: the client of the API.
