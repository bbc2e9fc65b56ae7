//! From plugin files to the backend in use: discover the files, load what may be used, select one.

mod discover;
mod load;
mod select;

pub use discover::{Candidate, discover, search_dirs};
pub use load::{Backend, Device, LoadPlan, check_abi};
pub use select::{Choice, select};
