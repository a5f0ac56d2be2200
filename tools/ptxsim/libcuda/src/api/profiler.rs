//! What profilers look at: the capture window of `cuProfilerStart` and `cuProfilerStop`, and named ranges. The ranges are two functions of
//! NVTX's library, which `ptxsim exec` puts beside the driver under its name. The report tells of both.

use std::ffi::c_char;

use crate::{
    driver::{in_context, initialised},
    ffi::{In, Text},
    status::Status,
};

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> Status {
    in_context(|driver| {
        driver.profiling = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> Status {
    in_context(|driver| {
        driver.profiling = false;
        Ok(())
    })
}

/// `nvtxEventAttributes_t`, version 3.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EventAttributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_char,
}

/// `NVTX_MESSAGE_TYPE_ASCII`.
const ASCII: i32 = 1;

/// Ranges are told by name and number; when they end does not matter to a report.
#[unsafe(no_mangle)]
pub extern "C" fn nvtxRangeStartEx(event: In<EventAttributes>) -> u64 {
    let mut id = 0;
    // A range outside of any use of the device is nothing to report.
    let _ = initialised(|driver| {
        let event = event.get()?;
        if event.message_type != ASCII {
            return Err(Status::InvalidValue);
        }
        let name = Text::from_address(event.message).get()?;
        *driver.report.ranges.entry(name).or_default() += 1;
        id = driver.report.ranges.values().sum();
        Ok(())
    });
    id
}

#[unsafe(no_mangle)]
pub extern "C" fn nvtxRangeEnd(_range: u64) {}
