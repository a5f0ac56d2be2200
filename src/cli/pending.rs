//! The one place that answers for commands whose engine is not part of this build.

/// A command that was understood and resolved, and cannot be carried out by this build.
#[derive(Debug, thiserror::Error)]
#[error("`vaebm {0}` is not connected: this build has no engine")]
pub struct NotConnected(pub &'static str);
