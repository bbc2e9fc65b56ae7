//! From plugin files to the backend in use.
//!
//! `discover` finds files, `screen` reads what they say of themselves, `probe` opens them in child processes,
//! `survey` does all three; `decide` chooses, `select` opens what was chosen. `verdict` has the words for what
//! became of each, `judge` knows what an error means, `report` is all of it as data.

mod decide;
mod discover;
pub mod judge;
mod load;
mod policy;
mod probe;
mod report;
mod screen;
mod select;
mod survey;
mod verdict;

pub use load::{Backend, Device, LoadPlan};
pub use policy::Policy;
pub use probe::run_child;
pub use report::{DeviceRow, Judgement, Overview, Row};
pub use screen::check_file;
pub use select::{Choice, Selection, open_file, select, select_afresh, select_one};
pub use survey::{Candidate, probe_file};
pub use verdict::Verdict;
