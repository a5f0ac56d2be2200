//! Streams and stream capture.

use std::ffi::{c_int, c_uint};

use crate::{
    capture::{CaptureStatus, Mode},
    driver::{Driver, Graph, Stream, StreamKind, current_context, in_context},
    ffi::{HostAddress, HostCall, Out},
    handles::Handle,
    queue::{Goal, Ticket, one_step, submit, wait_for},
    status::Status,
    work::Work,
};

/// Priorities go from 0 down to this.
pub const GREATEST_PRIORITY: c_int = -5;

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) -> Status {
    cuStreamCreateWithPriority(stream, flags, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(
    stream: Out<Handle>,
    flags: c_uint,
    priority: c_int,
) -> Status {
    in_context(|driver| {
        if flags > 1 {
            return Err(Status::InvalidValue);
        }
        let priority = priority.clamp(GREATEST_PRIORITY, 0);
        stream.set(driver.streams.add(Stream::created(flags, priority)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Status {
    let end = |driver: &mut Driver| {
        if driver.streams.get(stream)?.kind != StreamKind::Created {
            return Err(Status::InvalidHandle);
        }
        driver.end_of(stream).map(Goal::Place)
    };
    wait_for(end, |driver| {
        // A capture loses its stream: it cannot end well.
        let spoiled = driver.forbid_on_capturing(stream);
        driver.streams.remove(stream)?;
        spoiled
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Status {
    let end = |driver: &mut Driver| {
        driver.streams.get(stream)?;
        driver.forbid_on_capturing(stream)?;
        driver.end_of(stream).map(Goal::Place)
    };
    wait_for(end, |driver| driver.surface_errors())
}

/// Asking moves queued work on by one item, so that a program that polls gets there.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Status {
    let mut end = None;
    let status = in_context(|driver| {
        driver.streams.get(stream)?;
        driver.forbid_on_capturing(stream)?;
        end = Some(driver.end_of(stream)?);
        Ok(())
    });
    match end {
        Some(ticket) => poll(ticket),
        None => status,
    }
}

/// Does one item towards a place; not ready unless that was the last.
pub fn poll(ticket: Ticket) -> Status {
    one_step(Goal::Place(ticket));
    in_context(|driver| match driver.is_done(ticket) {
        true => driver.surface_errors(),
        false => Err(Status::NotReady),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> Status {
    in_context(|driver| driver.wait_event(stream, event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) -> Status {
    in_context(|driver| flags.set(driver.streams.get(stream)?.flags))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) -> Status {
    in_context(|driver| priority.set(driver.streams.get(stream)?.priority))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) -> Status {
    in_context(|driver| {
        driver.streams.get(stream)?;
        context.set(current_context())
    })
}

type HostFunction = Option<extern "C" fn(HostAddress)>;

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: HostFunction,
    argument: HostAddress,
) -> Status {
    submit(stream, |_| {
        let function = function.ok_or(Status::InvalidValue)?;
        Ok(Work::Host(HostCall { function, argument }))
    })
}

// Capture.

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> Status {
    in_context(|driver| driver.begin_capture(stream, Mode::from_number(mode)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) -> Status {
    in_context(|driver| {
        graph.set(Handle::NULL)?;
        let nodes = driver.end_capture(stream)?.into();
        graph.set(driver.graphs.add(Graph {
            nodes,
            node_handles: Vec::new(),
        }))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Handle, status: Out<CaptureStatus>) -> Status {
    in_context(|driver| {
        driver.streams.get(stream)?;
        status.set(driver.capture_status(stream))
    })
}

/// The exchange is answered as if it had been done: a capture's own mode decides what it forbids.
#[unsafe(no_mangle)]
pub extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) -> Status {
    in_context(|_| {
        Mode::from_number(mode.get()?)?;
        mode.set(0)
    })
}
