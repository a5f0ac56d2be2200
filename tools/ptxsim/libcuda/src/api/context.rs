//! Contexts. All contexts share the one device's memory, modules and streams.

use std::ffi::{c_int, c_uint};

use super::device::check_device;
use crate::{
    driver::{
        Driver, StreamKind, VERSION, current_context, in_context, initialised, pop_context,
        push_context, set_current_context,
    },
    ffi::{In, Out},
    handles::Handle,
    queue::{Goal, drain, wait_for},
    status::Status,
};

/// Defaults of `cuCtxGetLimit`, by `CUlimit`: stack, printf buffer, malloc heap, sync depth, pending launches, L2 fetch,
/// persisting L2.
const LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 128, 0];

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) -> Status {
    initialised(|driver| {
        check_device(device)?;
        let (handle, retained) = match driver.primary {
            Some((handle, retained)) => (handle, retained + 1),
            None => (driver.contexts.add(()), 1),
        };
        driver.primary = Some((handle, retained));
        context.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Status {
    drain(Goal::Everything);
    initialised(|driver| {
        check_device(device)?;
        match driver.primary {
            None => Err(Status::InvalidContext),
            Some((handle, 1)) => {
                driver.primary = None;
                destroy(driver, handle)
            }
            Some((handle, retained)) => {
                driver.primary = Some((handle, retained - 1));
                Ok(())
            }
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> Status {
    drain(Goal::Everything);
    initialised(|driver| {
        check_device(device)?;
        match driver.primary {
            None => Ok(()),
            Some(_) => {
                end_of_device_state(driver);
                Ok(())
            }
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: Out<c_uint>,
    active: Out<c_int>,
) -> Status {
    initialised(|driver| {
        check_device(device)?;
        flags.set(0)?;
        active.set(c_int::from(driver.primary.is_some()))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) -> Status {
    initialised(|_| check_device(device))
}

/// Destroys a context. With the last one go modules and memory; the memory that nobody freed is a leak.
fn destroy(driver: &mut Driver, context: Handle) -> Result<(), Status> {
    driver
        .contexts
        .remove(context)
        .map_err(|_| Status::InvalidContext)?;
    if driver.contexts.iter().next().is_none() {
        end_of_device_state(driver);
    }
    Ok(())
}

fn end_of_device_state(driver: &mut Driver) {
    driver.collect_leaks();
    driver.events.retain(|_| false);
    driver.graphs.retain(|_| false);
    driver.executables.retain(|_| false);
    driver.captures.retain(|_| false);
    driver
        .streams
        .retain(|stream| stream.kind != StreamKind::Created);
    driver.pending_error = None;
    driver.sticky = None;
    driver.write_report();
}

fn create(context: &Out<Handle>, device: c_int) -> Status {
    initialised(|driver| {
        check_device(device)?;
        let handle = driver.contexts.add(());
        push_context(handle);
        context.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<Handle>, _flags: c_uint, device: c_int) -> Status {
    create(&context, device)
}

/// Execution affinities are taken for none.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    context: Out<Handle>,
    _affinities: In<u8>,
    _count: c_int,
    _flags: c_uint,
    device: c_int,
) -> Status {
    create(&context, device)
}

/// Creation parameters (graphics interoperation, affinities) are not looked at.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(
    context: Out<Handle>,
    _parameters: In<u8>,
    _flags: c_uint,
    device: c_int,
) -> Status {
    create(&context, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> Status {
    drain(Goal::Everything);
    initialised(|driver| {
        if driver
            .primary
            .is_some_and(|(primary, _)| primary == context)
        {
            return Err(Status::InvalidContext);
        }
        if current_context() == context {
            pop_context();
        }
        destroy(driver, context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<Handle>) -> Status {
    initialised(|_| context.set(current_context()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> Status {
    initialised(|driver| {
        if !context.is_null() {
            driver
                .contexts
                .get(context)
                .map_err(|_| Status::InvalidContext)?;
        }
        set_current_context(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> Status {
    initialised(|driver| {
        driver
            .contexts
            .get(context)
            .map_err(|_| Status::InvalidContext)?;
        push_context(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<Handle>) -> Status {
    initialised(|_| {
        let popped = pop_context().ok_or(Status::InvalidContext)?;
        context.set_if_wanted(popped);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<c_int>) -> Status {
    in_context(|_| device.set(0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetApiVersion(_context: Handle, version: Out<c_uint>) -> Status {
    initialised(|_| version.set(VERSION as c_uint))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    let all = |driver: &mut Driver| {
        driver.forbid_while_any_captures()?;
        Ok(Goal::Everything)
    };
    wait_for(all, |driver| driver.surface_errors())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(_flags: c_uint) -> Status {
    in_context(|_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<c_uint>) -> Status {
    in_context(|_| flags.set(0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) -> Status {
    in_context(|driver| {
        let default = LIMITS.get(limit as usize).ok_or(Status::UnsupportedLimit)?;
        value.set(*driver.limits.get(&limit).unwrap_or(default))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> Status {
    in_context(|driver| {
        LIMITS.get(limit as usize).ok_or(Status::UnsupportedLimit)?;
        driver.limits.insert(limit, value);
        Ok(())
    })
}

/// The preference for L1 or shared memory: kept nowhere, as it changes no result.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(_config: c_uint) -> Status {
    in_context(|_| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCacheConfig(config: Out<c_uint>) -> Status {
    in_context(|_| config.set(0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> Status {
    in_context(|_| {
        least.set_if_wanted(0);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    })
}
