//! Files made by hand and damaged.
