//! What every long command has: somebody to tell, and a way to be stopped.

use super::progress::{ProgressKind, reporter};
use crate::run::{Observer, StopFlag};
use anyhow::Context;

/// Exit code of a process that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Progress and Ctrl-C of one command.
pub(super) struct Console {
    /// Where events go.
    pub(super) progress: Box<dyn Observer>,
    /// Set by the first Ctrl-C (or SIGTERM): the loop saves and ends. The second ends the process at once.
    pub(super) stop: StopFlag,
}

impl Console {
    /// Installs the handler and makes the reporter.
    pub(super) fn new(kind: ProgressKind) -> anyhow::Result<Self> {
        let stop = StopFlag::new();
        let asked = stop.clone();
        ctrlc::set_handler(move || {
            if asked.request() {
                std::process::exit(INTERRUPTED);
            }
            eprintln!(
                "\nstopping after this step; press Ctrl-C again to stop at once, without saving"
            );
        })
        .context("cannot install the Ctrl-C handler")?;
        Ok(Self {
            progress: reporter(kind),
            stop,
        })
    }
}
