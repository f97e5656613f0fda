//! Statistics: O(1), fixed memory, shared by the policies.

pub mod quantile;
