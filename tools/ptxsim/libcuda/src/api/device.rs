//! Initialisation, errors and device properties.

use std::ffi::{c_char, c_int, c_uint};

use crate::{
    attributes,
    driver::{VERSION, always, initialise, initialised},
    ffi::Out,
    status::{self, Status},
};

/// The ordinal of the only device.
const DEVICE: c_int = 0;

/// Whether `device` is the one there is.
pub fn check_device(device: c_int) -> Result<(), Status> {
    match device {
        DEVICE => Ok(()),
        _ => Err(Status::InvalidDevice),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> Status {
    match flags {
        0 => initialise(),
        _ => Status::InvalidValue,
    }
}

/// Works before `cuInit`, as the driver's does, but knows `--fail old-driver` only after.
#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> Status {
    let known = initialised(|driver| version.set(driver.version()));
    match known {
        Status::NotInitialized => always(|| version.set(VERSION)),
        known => known,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: u32, text: Out<*const c_char>) -> Status {
    always(|| describe(code, &text, |(name, _)| name.as_ptr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: u32, text: Out<*const c_char>) -> Status {
    always(|| describe(code, &text, |(_, string)| string.as_ptr()))
}

type Described = (&'static std::ffi::CStr, &'static std::ffi::CStr);

fn describe(
    code: u32,
    text: &Out<*const c_char>,
    part: fn(Described) -> *const c_char,
) -> Result<(), Status> {
    let described = status::describe(code);
    text.set(described.map_or(std::ptr::null(), part))?;
    described.map(|_| ()).ok_or(Status::InvalidValue)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> Status {
    initialised(|_| count.set(1))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> Status {
    initialised(|_| {
        check_device(ordinal)?;
        device.set(ordinal)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: Out<c_char>, length: c_int, device: c_int) -> Status {
    initialised(|driver| {
        check_device(device)?;
        let room = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(1))
            .ok_or(Status::InvalidValue)?;
        let text = driver.settings.chip.full_name.bytes().take(room);
        name.set_all(text.chain([0]).map(|byte| byte as c_char))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) -> Status {
    cuDeviceGetUuid_v2(uuid, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) -> Status {
    initialised(|_| {
        check_device(device)?;
        uuid.set(*b"ptxsim-simulated")
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) -> Status {
    initialised(|driver| {
        check_device(device)?;
        bytes.set(driver.memory.limit() as usize)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(
    value: Out<c_int>,
    attribute: c_int,
    device: c_int,
) -> Status {
    initialised(|driver| {
        check_device(device)?;
        value.set(attributes::device(&driver.settings.chip, attribute).ok_or(Status::InvalidValue)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(
    major: Out<c_int>,
    minor: Out<c_int>,
    device: c_int,
) -> Status {
    initialised(|driver| {
        check_device(device)?;
        let capability = driver.settings.chip.compute_capability;
        major.set(capability.0 as c_int)?;
        minor.set(capability.1 as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(text: Out<c_char>, length: c_int, device: c_int) -> Status {
    initialised(|_| {
        check_device(device)?;
        let id = c"0000:01:00.0".to_bytes_with_nul();
        if usize::try_from(length).is_ok_and(|length| length < id.len()) {
            return Err(Status::InvalidValue);
        }
        text.set_all(id.iter().map(|byte| *byte as c_char))
    })
}
