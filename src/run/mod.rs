//! What surrounds a training loop: the run folder, its metrics, progress, and the wish to stop.

mod folder;
mod machine;
mod metrics;
mod observer;
mod stop;

pub use folder::{BUFFER_FILE, RunError, RunFolder, Start, Which};
pub use machine::MACHINE_FILE;
pub(crate) use machine::processor;
pub use metrics::MetricsWriter;
pub(crate) use metrics::json_number;
pub use observer::{Event, Observer, Observers, Scalars, Silent};
pub use stop::StopFlag;
