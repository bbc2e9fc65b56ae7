//! Opens plugins in child processes, so that one which crashes, hangs or ends the process costs the child.
//!
//! The child (`child`) is this executable; it writes what it finds to a file (`answer`), and dies. Results are
//! remembered (`cache`).

mod answer;
mod cache;
mod child;
mod parent;

pub use answer::{Opened, ProbedDevice};
pub use cache::{Cache, Conditions, all_work};
pub use child::run as run_child;
pub use parent::Prober;
