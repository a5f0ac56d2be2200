//! Stream-ordered allocation and pools. Memory comes and goes when the call is made, which is when the stream gets there.

use std::ffi::{c_int, c_uint};

use super::device::check_device;
use crate::{
    driver::{Driver, Pool, in_context, initialised},
    ffi::{HostAddress, In, Out},
    handles::Handle,
    queue::{Goal, Item, drain},
    status::Status,
};

/// `CU_MEMPOOL_ATTR_*`: 1 to 3 are switches of 32 bits, 4 is the release threshold, 5 and up are counts in bytes.
const SWITCHES: std::ops::RangeInclusive<c_uint> = 1..=3;
const RELEASE_THRESHOLD: c_uint = 4;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) -> Status {
    make_room(bytes);
    in_context(|driver| allocate(driver, &address, bytes, stream, "cuMemAllocAsync"))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<u64>,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> Status {
    make_room(bytes);
    in_context(|driver| {
        driver.pools.get(pool)?;
        allocate(driver, &address, bytes, stream, "cuMemAllocFromPoolAsync")
    })
}

/// Memory whose freeing is queued still counts: a driver would wait for it rather than fail.
fn make_room(bytes: usize) {
    let mut tight = false;
    initialised(|driver| {
        tight = bytes as u64 > driver.memory.limit().saturating_sub(driver.memory.used());
        Ok(())
    });
    if tight {
        drain(Goal::Everything);
    }
}

fn allocate(
    driver: &mut Driver,
    address: &Out<u64>,
    bytes: usize,
    stream: Handle,
    call: &str,
) -> Result<(), Status> {
    refuse_in_capture(driver, stream, call)?;
    address.set(driver.allocate(bytes, call)?)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> Status {
    const CALL: &str = "cuMemFreeAsync";
    let mut now = None;
    let status = in_context(|driver| {
        refuse_in_capture(driver, stream, CALL)?;
        let begins = driver
            .memory
            .allocation_of(address)
            .is_some_and(|allocation| allocation.base == address);
        if address != 0 && !begins {
            let why = format!("no allocation begins at device address {address:#x}");
            return Err(driver.refuse(CALL, why, Status::InvalidValue));
        }
        let ticket = driver.push(stream, Item::Free(address, CALL))?;
        now = (!driver.settings.late).then_some(ticket);
        Ok(())
    });
    if let Some(ticket) = now {
        drain(Goal::Place(ticket));
    }
    status
}

/// A driver would make allocation nodes; the stand-in has none.
fn refuse_in_capture(driver: &mut Driver, stream: Handle, call: &str) -> Result<(), Status> {
    driver.streams.get(stream)?;
    let captured = driver.forbid_on_capturing(stream);
    captured
        .map_err(|status| driver.refuse(call, "allocation in a capture is not simulated", status))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) -> Status {
    initialised(|driver| {
        check_device(device)?;
        let (first, _) = driver.pools.iter().next().ok_or(Status::InvalidValue)?;
        pool.set(first)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(pool: Out<Handle>, device: c_int) -> Status {
    initialised(|driver| {
        check_device(device)?;
        pool.set(driver.current_pool)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: c_int, pool: Handle) -> Status {
    initialised(|driver| {
        check_device(device)?;
        driver.pools.get(pool)?;
        driver.current_pool = pool;
        Ok(())
    })
}

/// Properties are not looked at: there is one device and no way to share a pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolCreate(pool: Out<Handle>, properties: In<u8>) -> Status {
    initialised(|driver| {
        if properties.is_null() {
            return Err(Status::InvalidValue);
        }
        pool.set(driver.pools.add(Pool::default()))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: Handle) -> Status {
    initialised(|driver| {
        let (default, _) = driver.pools.iter().next().ok_or(Status::InvalidValue)?;
        if pool == default {
            return Err(Status::InvalidValue);
        }
        driver.pools.remove(pool)?;
        if driver.current_pool == pool {
            driver.current_pool = default;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(
    pool: Handle,
    attribute: c_uint,
    value: HostAddress,
) -> Status {
    initialised(|driver| {
        let pool = driver.pools.get_mut(pool)?;
        let value = match attribute {
            _ if SWITCHES.contains(&attribute) => {
                read::<4>(value).map(|bytes| u32::from_ne_bytes(bytes).into())?
            }
            RELEASE_THRESHOLD => read::<8>(value).map(u64::from_ne_bytes)?,
            _ => return Err(Status::InvalidValue),
        };
        pool.attributes.insert(attribute, value);
        Ok(())
    })
}

fn read<const N: usize>(from: HostAddress) -> Result<[u8; N], Status> {
    from.read(N)?.try_into().map_err(|_| Status::InvalidValue)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(
    pool: Handle,
    attribute: c_uint,
    value: HostAddress,
) -> Status {
    initialised(|driver| {
        let set = driver.pools.get(pool)?.attributes.get(&attribute).copied();
        match attribute {
            _ if SWITCHES.contains(&attribute) => {
                value.write(&(set.unwrap_or(1) as u32).to_ne_bytes())
            }
            RELEASE_THRESHOLD => value.write(&set.unwrap_or(0).to_ne_bytes()),
            5 | 7 => value.write(&driver.memory.used().to_ne_bytes()),
            6 | 8 => value.write(&driver.memory.peak().to_ne_bytes()),
            _ => Err(Status::InvalidValue),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: Handle, _bytes: usize) -> Status {
    initialised(|driver| driver.pools.get(pool).map(|_| ()))
}
