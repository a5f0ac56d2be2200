//! Events. Their times are those of the simulation, not of the GPU posed as.

use std::{ffi::c_uint, time::Instant};

use crate::{
    driver::{Driver, Event, in_context},
    ffi::Out,
    handles::Handle,
    status::Status,
};

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<Handle>, flags: c_uint) -> Status {
    in_context(|driver| {
        if flags > 7 {
            return Err(Status::InvalidValue);
        }
        event.set(driver.events.add(Event {
            timing: flags & DISABLE_TIMING == 0,
            ..Event::default()
        }))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Status {
    in_context(|driver| driver.events.remove(event).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Status {
    in_context(|driver| {
        driver.streams.get(stream)?;
        driver.events.get(event)?;
        let mark = driver.mark(stream);
        let event = driver.events.get_mut(event)?;
        if mark.is_none() {
            event.recorded = Some(Instant::now());
        }
        event.mark = mark;
        Ok(())
    })
}

/// `CU_EVENT_RECORD_EXTERNAL` would put a node into a graph; the stand-in has none for it.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) -> Status {
    match flags {
        0 => cuEventRecord(event, stream),
        _ => in_context(|driver| Err(driver.unsupported("cuEventRecordWithFlags with flags"))),
    }
}

/// An event that is part of a capture cannot be waited for by the host.
fn wait(driver: &mut Driver, event: Handle) -> Result<(), Status> {
    match driver.events.get(event)?.mark {
        Some(_) => Err(Status::CapturedEvent),
        None => driver.surface_errors(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> Status {
    in_context(|driver| wait(driver, event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> Status {
    in_context(|driver| wait(driver, event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) -> Status {
    in_context(|driver| {
        let time = |event: Handle| {
            let event = driver.events.get(event)?;
            event
                .recorded
                .filter(|_| event.timing)
                .ok_or(Status::InvalidHandle)
        };
        let (start, end) = (time(start)?, time(end)?);
        let elapsed = match end.checked_duration_since(start) {
            Some(forward) => forward.as_secs_f64(),
            None => -start.duration_since(end).as_secs_f64(),
        };
        milliseconds.set((elapsed * 1e3) as f32)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(
    milliseconds: Out<f32>,
    start: Handle,
    end: Handle,
) -> Status {
    cuEventElapsedTime(milliseconds, start, end)
}
