//! Named ranges for profilers, where NVTX's library is installed; elsewhere they cost one look at a flag.

use std::sync::OnceLock;

use cudarc::nvtx::{Range, scoped_range};

/// Opens a range, which ends when it is dropped.
pub(super) fn range(name: &str) -> Option<Range> {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens a library of that name and closes it again; it does nothing when loaded.
    let present = *PRESENT.get_or_init(|| unsafe { cudarc::nvtx::sys::is_culib_present() });
    present.then(|| scoped_range(name))
}
