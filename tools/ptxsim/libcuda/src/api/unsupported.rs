//! Functions that host code may look up and that the stand-in refuses, each with a note in the report.

use crate::{driver::in_context, status::Status};

macro_rules! refused {
    ($($name:ident),* $(,)?) => {
        $(
            /// Refused. The arguments are not looked at.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> Status {
                in_context(|driver| Err(driver.unsupported(stringify!($name))))
            }
        )*
    };
}

refused! {
    cuDestroyExternalMemory,
    cuExternalMemoryGetMappedBuffer,
    cuGraphExecUpdate_v2,
    cuImportExternalMemory,
    cuMemAdvise,
    cuMemAdvise_v2,
    cuMemAllocManaged,
    cuMemHostGetDevicePointer_v2,
    cuMemPrefetchAsync,
    cuMemPrefetchAsync_v2,
    cuOccupancyMaxActiveClusters,
    cuOccupancyMaxPotentialClusterSize,
    cuStreamAttachMemAsync,
    cuTensorMapEncodeTiled,
}
