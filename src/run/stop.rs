//! The wish to stop, passed to loops that look at it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by whoever may ask (a signal handler, a test) and the loop that obeys.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop; tells whether somebody had asked before.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::StopFlag;

    #[test]
    fn a_request_reaches_every_copy() {
        let flag = StopFlag::new();
        let copy = flag.clone();
        assert!(!copy.is_requested());
        assert!(!flag.request());
        assert!(copy.is_requested() && copy.request());
    }
}
