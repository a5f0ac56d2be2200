//! Events. Their times are those of the simulation, not of the GPU posed as.

use std::ffi::c_uint;

use super::stream::poll;

use crate::{
    driver::{Driver, Event, in_context},
    ffi::Out,
    handles::Handle,
    queue::{Goal, Item, Ticket, drain, wait_for},
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
    let mut now = None;
    let status = in_context(|driver| {
        driver.streams.get(stream)?;
        driver.events.get(event)?;
        let mark = driver.mark(stream);
        let ticket = match mark {
            Some(_) => driver.events.get(event)?.ticket,
            None => Some(driver.push(stream, Item::Record(event))?),
        };
        now = ticket.filter(|_| mark.is_none() && !driver.settings.late);
        let event = driver.events.get_mut(event)?;
        (event.ticket, event.mark) = (ticket, mark);
        Ok(())
    });
    if let Some(ticket) = now {
        drain(Goal::Place(ticket));
    }
    status
}

/// `CU_EVENT_RECORD_EXTERNAL` would put a node into a graph; the stand-in has none for it.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) -> Status {
    match flags {
        0 => cuEventRecord(event, stream),
        _ => in_context(|driver| Err(driver.unsupported("cuEventRecordWithFlags with flags"))),
    }
}

/// Where an event was recorded, if it was. One that is part of a capture cannot be waited for by the host.
fn place(driver: &Driver, event: Handle) -> Result<Option<Ticket>, Status> {
    let event = driver.events.get(event)?;
    match event.mark {
        Some(_) => Err(Status::CapturedEvent),
        None => Ok(event.ticket),
    }
}

/// Goes on with an event's place; an event that was never recorded is complete.
fn at_place(event: Handle, go_on: fn(Ticket) -> Status) -> Status {
    let mut found = None;
    let status = in_context(|driver| {
        found = place(driver, event)?;
        Ok(())
    });
    match found {
        Some(ticket) => go_on(ticket),
        None => status,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> Status {
    at_place(event, |ticket| {
        wait_for(
            |_| Ok(Goal::Place(ticket)),
            |driver| driver.surface_errors(),
        )
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> Status {
    at_place(event, poll)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) -> Status {
    in_context(|driver| {
        let time = |event: Handle| {
            let event = driver.events.get(event)?;
            match event.ticket {
                Some(ticket) if event.timing && driver.is_done(ticket) => {
                    event.recorded.ok_or(Status::NotReady)
                }
                Some(_) if event.timing => Err(Status::NotReady),
                _ => Err(Status::InvalidHandle),
            }
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
