//! Device and pinned memory, copies and fills.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ffi::{c_int, c_uchar, c_uint, c_ushort, c_void},
};

use crate::{
    driver::{Driver, Pinned, in_context},
    ffi::{HostAddress, Out},
    handles::Handle,
    queue::{Goal, submit, submit_and_wait, wait_for},
    status::Status,
    work::Work,
};

/// Pinned memory is whole pages.
const PAGE: usize = 4096;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Status {
    in_context(|driver| {
        let (limit, used) = (driver.memory.limit(), driver.memory.used());
        free.set(limit.saturating_sub(used) as usize)?;
        total.set(limit as usize)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Status {
    in_context(|driver| {
        driver.forbid_during_capture()?;
        address.set(driver.allocate(bytes, "cuMemAlloc")?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Status {
    wait_for(everything, |driver| {
        driver.surface_errors()?;
        driver.free(address, "cuMemFree")
    })
}

/// The goal of a call that waits for the device and is forbidden during captures.
fn everything(driver: &mut Driver) -> Result<Goal, Status> {
    driver.forbid_during_capture()?;
    Ok(Goal::Everything)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(
    base: Out<u64>,
    bytes: Out<usize>,
    address: u64,
) -> Status {
    in_context(|driver| {
        let allocation = driver
            .memory
            .allocation_of(address)
            .ok_or(Status::NotFound)?;
        base.set_if_wanted(allocation.base);
        bytes.set_if_wanted(allocation.bytes as usize);
        Ok(())
    })
}

// Pinned memory.

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(address: Out<*mut c_void>, bytes: usize, flags: c_uint) -> Status {
    in_context(|driver| {
        driver.forbid_during_capture()?;
        let layout = pinned_layout(bytes).ok_or(Status::InvalidValue)?;
        if address.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(driver.refuse(
                "cuMemHostAlloc",
                format_args!("{bytes} bytes"),
                Status::OutOfMemory,
            ));
        }
        driver.pinned.insert(
            memory as usize,
            Pinned {
                bytes,
                flags,
                registered: false,
            },
        );
        address.set(memory.cast())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(address: Out<*mut c_void>, bytes: usize) -> Status {
    cuMemHostAlloc(address, bytes, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: *mut c_void) -> Status {
    wait_for(everything, |driver| {
        driver.surface_errors()?;
        match driver.pinned.get(&(address as usize)) {
            Some(pinned) if !pinned.registered => {
                let layout = pinned_layout(pinned.bytes).ok_or(Status::InvalidValue)?;
                driver.pinned.remove(&(address as usize));
                // SAFETY: this address came from `alloc_zeroed` with this layout and is freed once: it has just left the
                // list of live ones.
                unsafe { dealloc(address.cast(), layout) };
                Ok(())
            }
            _ => Err(Status::InvalidValue),
        }
    })
}

fn pinned_layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, PAGE)
        .ok()
        .filter(|layout| layout.size() > 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(flags: Out<c_uint>, address: HostAddress) -> Status {
    in_context(|driver| {
        let pinned = driver
            .pinned
            .get(&address.number())
            .ok_or(Status::InvalidValue)?;
        flags.set(pinned.flags)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(
    address: HostAddress,
    bytes: usize,
    flags: c_uint,
) -> Status {
    in_context(|driver| {
        if bytes == 0 || address.number() == 0 {
            return Err(Status::InvalidValue);
        }
        if driver.pinned.contains_key(&address.number()) {
            return Err(Status::HostMemoryAlreadyRegistered);
        }
        driver.pinned.insert(
            address.number(),
            Pinned {
                bytes,
                flags,
                registered: true,
            },
        );
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(address: HostAddress) -> Status {
    wait_for(everything, |driver| {
        match driver.pinned.get(&address.number()) {
            Some(pinned) if pinned.registered => {
                driver.pinned.remove(&address.number());
                Ok(())
            }
            _ => Err(Status::HostMemoryNotRegistered),
        }
    })
}

/// `CU_POINTER_ATTRIBUTE_MEMORY_TYPE`, `_DEVICE_POINTER`, `_HOST_POINTER`, `_DEVICE_ORDINAL`, `_RANGE_START_ADDR`,
/// `_RANGE_SIZE`.
#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttribute(data: Out<u64>, attribute: c_uint, address: u64) -> Status {
    in_context(|driver| {
        let device = driver.memory.allocation_of(address);
        let host = driver.pinned.range(..=address as usize).next_back();
        let host = host.filter(|(start, pinned)| address as usize - *start < pinned.bytes);
        // Some attributes are 32 bits wide: only so much may be written.
        let narrow = |value: c_int| data.address().write(&value.to_ne_bytes());
        match (attribute, device, host) {
            (2, Some(_), _) => narrow(2),
            (2, None, Some(_)) => narrow(1),
            (3, Some(_), _) | (4, None, Some(_)) => data.set(address),
            (9, Some(_), _) | (9, None, Some(_)) => narrow(0),
            (11, Some(allocation), _) => data.set(allocation.base),
            (11, None, Some((start, _))) => data.set(*start as u64),
            (12, Some(allocation), _) => data.set(allocation.bytes),
            (12, None, Some((_, pinned))) => data.set(pinned.bytes as u64),
            (_, None, None) => Err(Status::InvalidValue),
            _ => Err(driver.unsupported("cuPointerGetAttribute")),
        }
    })
}

// Copies. The synchronous forms wait for the device and run on the legacy stream.

/// A synchronous copy.
fn blocking(make: impl FnOnce(&mut Driver) -> Result<Work, Status>) -> Status {
    submit_and_wait(Handle::NULL, |driver| {
        driver.forbid_during_capture()?;
        make(driver)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: HostAddress, bytes: usize) -> Status {
    blocking(|_| Ok(Work::CopyIn { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: HostAddress, from: u64, bytes: usize) -> Status {
    blocking(|_| Ok(Work::CopyOut { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Status {
    blocking(|_| Ok(Work::Copy { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: HostAddress,
    bytes: usize,
    stream: Handle,
) -> Status {
    submit(stream, |_| Ok(Work::CopyIn { to, from, bytes }))
}

/// To pageable memory the copy has been made when the call returns; to pinned memory it has not.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(
    to: HostAddress,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> Status {
    let mut pinned = false;
    in_context(|driver| {
        pinned = driver.is_pinned(to);
        Ok(())
    });
    match pinned {
        true => submit(stream, |_| Ok(Work::CopyOut { to, from, bytes })),
        false => submit_and_wait(stream, |_| Ok(Work::CopyOut { to, from, bytes })),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> Status {
    submit(stream, |_| Ok(Work::Copy { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _to_context: Handle,
    from: u64,
    _from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> Status {
    submit(stream, |_| Ok(Work::Copy { to, from, bytes }))
}

/// Which way a copy goes under unified addressing. Host to host is not done here.
fn unified(driver: &mut Driver, to: u64, from: u64, bytes: usize) -> Result<Work, Status> {
    let on_device = |address| driver.memory.allocation_of(address).is_some();
    match (on_device(to), on_device(from)) {
        (true, true) => Ok(Work::Copy { to, from, bytes }),
        (true, false) => Ok(Work::CopyIn {
            to,
            from: HostAddress::from_number(from as usize),
            bytes,
        }),
        (false, true) => Ok(Work::CopyOut {
            to: HostAddress::from_number(to as usize),
            from,
            bytes,
        }),
        (false, false) => Err(driver.unsupported("cuMemcpy from host to host")),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> Status {
    blocking(|driver| unified(driver, to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) -> Status {
    submit(stream, |driver| unified(driver, to, from, bytes))
}

// Fills.

fn fill(to: u64, pattern: &[u8], count: usize) -> Work {
    Work::Fill {
        to,
        pattern: pattern.to_vec(),
        count,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) -> Status {
    submit(Handle::NULL, |_| Ok(fill(to, &[value], count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) -> Status {
    submit(Handle::NULL, |_| Ok(fill(to, &value.to_le_bytes(), count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) -> Status {
    submit(Handle::NULL, |_| Ok(fill(to, &value.to_le_bytes(), count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: Handle) -> Status {
    submit(stream, |_| Ok(fill(to, &[value], count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(
    to: u64,
    value: c_ushort,
    count: usize,
    stream: Handle,
) -> Status {
    submit(stream, |_| Ok(fill(to, &value.to_le_bytes(), count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: Handle) -> Status {
    submit(stream, |_| Ok(fill(to, &value.to_le_bytes(), count)))
}
