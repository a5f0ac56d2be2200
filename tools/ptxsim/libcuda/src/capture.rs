//! Stream capture: work given to a capturing stream becomes nodes of a graph, with the driver's rules on what else may
//! happen meanwhile.
//!
//! Nodes are kept in the order they were submitted, which is one of the orders their dependencies allow, and replayed in
//! it. A stream joins a capture by waiting for an event recorded in it, and must be joined back before the end: that is
//! tracked by vector clocks, one count per stream of the work submitted.

use std::{
    collections::BTreeMap,
    thread::{self, ThreadId},
};

use crate::{
    driver::{Driver, StreamKind},
    handles::Handle,
    queue::Item,
    status::Status,
    work::Work,
};

/// How many pieces of each stream's work something comes after.
pub type Clock = BTreeMap<Handle, u64>;

/// `CUstreamCaptureMode`: which calls a capture forbids elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Calls that synchronise or allocate are forbidden to every thread.
    Global,
    /// To the capturing thread only.
    ThreadLocal,
    /// To none.
    Relaxed,
}

impl Mode {
    /// From the number in `cuda.h`.
    pub fn from_number(number: u32) -> Result<Self, Status> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Status::InvalidValue),
        }
    }
}

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    origin: Handle,
    mode: Mode,
    thread: ThreadId,
    valid: bool,
    nodes: Vec<Work>,
    /// The streams that take part, each with what its next work will come after.
    members: BTreeMap<Handle, Clock>,
}

/// What an event stands for when it was recorded in a capture.
#[derive(Debug, Clone)]
pub struct Mark {
    capture: Handle,
    clock: Clock,
}

/// `CUstreamCaptureStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CaptureStatus {
    /// Not capturing.
    None = 0,
    /// Capturing.
    Active = 1,
    /// Capturing, but a forbidden call has spoiled it.
    Invalidated = 2,
}

impl Driver {
    /// The capture a stream takes part in, with its handle.
    fn capture_of(&mut self, stream: Handle) -> Option<(Handle, &mut Capture)> {
        self.captures
            .iter_mut()
            .find(|(_, capture)| capture.members.contains_key(&stream))
    }

    /// Whether and how a stream is capturing.
    pub fn capture_status(&mut self, stream: Handle) -> CaptureStatus {
        match self.capture_of(stream) {
            None => CaptureStatus::None,
            Some((_, capture)) if capture.valid => CaptureStatus::Active,
            Some(_) => CaptureStatus::Invalidated,
        }
    }

    /// Begins a capture on a stream.
    pub fn begin_capture(&mut self, stream: Handle, mode: Mode) -> Result<(), Status> {
        if self.streams.get(stream)?.kind == StreamKind::Legacy {
            return Err(Status::StreamCaptureUnsupported);
        }
        if self.capture_of(stream).is_some() {
            return Err(Status::IllegalState);
        }
        self.captures.add(Capture {
            origin: stream,
            mode,
            thread: thread::current().id(),
            valid: true,
            nodes: Vec::new(),
            members: [(stream, Clock::new())].into(),
        });
        Ok(())
    }

    /// Ends the capture that began on `stream`; its nodes.
    pub fn end_capture(&mut self, stream: Handle) -> Result<Vec<Work>, Status> {
        let Some((handle, capture)) = self.capture_of(stream) else {
            return Err(Status::IllegalState);
        };
        if capture.origin != stream {
            return Err(Status::StreamCaptureUnmatched);
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Status::StreamCaptureWrongThread);
        }
        let capture = self.captures.remove(handle)?;
        for (_, event) in self.events.iter_mut() {
            event.mark.take_if(|mark| mark.capture == handle);
        }
        if !capture.valid {
            return Err(Status::StreamCaptureInvalidated);
        }
        let own = &capture.members[&stream];
        let done = |member: &Handle, clock: &Clock| clock.get(member) <= own.get(member);
        let joined = |(member, clock): (&Handle, &Clock)| *member == stream || done(member, clock);
        if !capture.members.iter().all(joined) {
            return Err(Status::StreamCaptureUnjoined);
        }
        Ok(capture.nodes)
    }

    /// Takes work into the capture its stream takes part in, or gives it back to be done now.
    pub fn route(&mut self, stream: Handle, work: Work) -> Result<Option<Work>, Status> {
        let legacy = self.streams.get(stream)?.kind == StreamKind::Legacy;
        if let Some((_, capture)) = self.capture_of(stream) {
            if !capture.valid {
                return Err(Status::StreamCaptureInvalidated);
            }
            capture.nodes.push(work);
            if let Some(clock) = capture.members.get_mut(&stream) {
                *clock.entry(stream).or_default() += 1;
            }
            return Ok(None);
        }
        if legacy {
            self.forbid_legacy_stream()?;
        }
        Ok(Some(work))
    }

    /// The legacy stream waits for all blocking streams, which a capturing one cannot allow.
    fn forbid_legacy_stream(&mut self) -> Result<(), Status> {
        let mut clash = false;
        for (_, capture) in self.captures.iter_mut() {
            let blocking = |stream: &Handle| {
                self.streams
                    .get(*stream)
                    .is_ok_and(|stream| stream.is_blocking())
            };
            if capture.members.keys().any(blocking) {
                capture.valid = false;
                clash = true;
            }
        }
        match clash {
            true => Err(Status::StreamCaptureImplicit),
            false => Ok(()),
        }
    }

    /// A call that allocates or synchronises: forbidden, and fatal to the captures that forbid it.
    pub fn forbid_during_capture(&mut self) -> Result<(), Status> {
        let here = thread::current().id();
        let mut clash = false;
        for (_, capture) in self.captures.iter_mut() {
            let forbids = match capture.mode {
                Mode::Global => true,
                Mode::ThreadLocal => capture.thread == here,
                Mode::Relaxed => false,
            };
            if forbids {
                capture.valid = false;
                clash = true;
            }
        }
        match clash {
            true => Err(Status::StreamCaptureUnsupported),
            false => Ok(()),
        }
    }

    /// Waiting for a stream that captures spoils the capture.
    pub fn forbid_on_capturing(&mut self, stream: Handle) -> Result<(), Status> {
        match self.capture_of(stream) {
            None => Ok(()),
            Some((_, capture)) => {
                capture.valid = false;
                Err(Status::StreamCaptureUnsupported)
            }
        }
    }

    /// Waiting for the whole device spoils every capture.
    pub fn forbid_while_any_captures(&mut self) -> Result<(), Status> {
        let mut any = false;
        for (_, capture) in self.captures.iter_mut() {
            capture.valid = false;
            any = true;
        }
        match any {
            true => Err(Status::StreamCaptureUnsupported),
            false => Ok(()),
        }
    }

    /// The mark of an event recorded in a stream now; `None` if the stream does not capture.
    pub fn mark(&mut self, stream: Handle) -> Option<Mark> {
        let (handle, capture) = self.capture_of(stream)?;
        let clock = capture.members.get(&stream)?.clone();
        Some(Mark {
            capture: handle,
            clock,
        })
    }

    /// Makes a stream wait for an event, inside and outside of captures.
    pub fn wait_event(&mut self, stream: Handle, event: Handle) -> Result<(), Status> {
        self.streams.get(stream)?;
        let mark = self.events.get(event)?.mark.clone();
        let own = self.capture_of(stream).map(|(handle, _)| handle);
        match (own, mark) {
            (None, None) => {
                // An event that was never recorded is complete.
                match self.events.get(event)?.ticket {
                    Some(ticket) if !self.is_done(ticket) => {
                        self.push(stream, Item::Wait(ticket)).map(|_| ())
                    }
                    _ => Ok(()),
                }
            }
            // A dependency on work outside the graph.
            (Some(own), None) => {
                self.captures.get_mut(own)?.valid = false;
                Err(Status::StreamCaptureIsolation)
            }
            (Some(own), Some(mark)) if own != mark.capture => {
                self.captures.get_mut(own)?.valid = false;
                self.captures.get_mut(mark.capture)?.valid = false;
                Err(Status::StreamCaptureMerge)
            }
            (_, Some(mark)) => {
                let clock = self
                    .captures
                    .get_mut(mark.capture)?
                    .members
                    .entry(stream)
                    .or_default();
                for (member, count) in mark.clock {
                    let known = clock.entry(member).or_default();
                    *known = count.max(*known);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ptxsim::exec::settings::Settings;

    use super::*;
    use crate::driver::{Event, Stream};

    /// A driver with two streams of which the first captures.
    fn capturing(mode: Mode, flags: u32) -> (Driver, Handle, Handle) {
        let mut driver = Driver::new(Settings::default());
        let mut stream = || driver.streams.add(Stream::created(flags, 0));
        let (main, side) = (stream(), stream());
        driver.begin_capture(main, mode).unwrap();
        (driver, main, side)
    }

    fn fill() -> Work {
        Work::Fill {
            to: 0,
            pattern: vec![0],
            count: 1,
        }
    }

    /// Makes `waiter` wait for all that `stream` has been given so far.
    fn join(driver: &mut Driver, stream: Handle, waiter: Handle) {
        let mark = driver.mark(stream);
        let event = driver.events.add(Event {
            mark,
            ..Event::default()
        });
        driver.wait_event(waiter, event).unwrap();
    }

    #[test]
    fn work_after_the_join_is_not_joined() {
        for (late_work, result) in [(false, Ok(3)), (true, Err(Status::StreamCaptureUnjoined))] {
            let (mut driver, main, side) = capturing(Mode::Global, 1);
            assert!(driver.route(main, fill()).unwrap().is_none());
            join(&mut driver, main, side);
            assert!(
                driver.route(side, fill()).unwrap().is_none(),
                "the stream has joined the capture"
            );
            join(&mut driver, side, main);
            if late_work {
                driver.route(side, fill()).unwrap();
            }
            driver.route(main, fill()).unwrap();
            assert_eq!(driver.end_capture(main).map(|nodes| nodes.len()), result);
            assert_eq!(driver.capture_status(side), CaptureStatus::None);
            assert!(
                driver.route(side, fill()).unwrap().is_some(),
                "the stream is free again"
            );
        }
    }

    #[test]
    fn a_join_through_a_third_stream_counts() {
        let (mut driver, main, side) = capturing(Mode::Global, 1);
        let third = driver.streams.add(Stream::created(1, 0));
        join(&mut driver, main, side);
        driver.route(side, fill()).unwrap();
        join(&mut driver, side, third);
        driver.route(third, fill()).unwrap();
        join(&mut driver, third, main);
        assert_eq!(driver.end_capture(main).map(|nodes| nodes.len()), Ok(2));
    }

    #[test]
    fn the_legacy_stream_clashes_with_blocking_streams_only() {
        for (flags, result) in [(1, Ok(())), (0, Err(Status::StreamCaptureImplicit))] {
            let (mut driver, main, _) = capturing(Mode::Relaxed, flags);
            assert_eq!(driver.route(Handle::NULL, fill()).map(|_| ()), result);
            let ended = driver.end_capture(main).map(|_| ());
            assert_eq!(ended, result.map_err(|_| Status::StreamCaptureInvalidated));
        }
        let mut driver = Driver::new(Settings::default());
        assert_eq!(
            driver.begin_capture(Handle::NULL, Mode::Global),
            Err(Status::StreamCaptureUnsupported)
        );
    }

    #[test]
    fn modes_say_whose_calls_spoil_a_capture() {
        for (mode, here, elsewhere) in [
            (Mode::Global, true, true),
            (Mode::ThreadLocal, true, false),
            (Mode::Relaxed, false, false),
        ] {
            let (mut driver, ..) = capturing(mode, 1);
            assert_eq!(driver.forbid_during_capture().is_err(), here, "{mode:?}");
            let (mut driver, main, _) = capturing(mode, 1);
            let (spoiled, ended) = thread::scope(|scope| {
                let other = scope.spawn(|| {
                    (
                        driver.forbid_during_capture().is_err(),
                        driver.end_capture(main).is_ok(),
                    )
                });
                other.join().unwrap()
            });
            assert_eq!(spoiled, elsewhere, "{mode:?}");
            assert_eq!(
                ended,
                mode == Mode::Relaxed,
                "only a relaxed capture ends on another thread"
            );
        }
    }

    #[test]
    fn two_captures_do_not_merge() {
        let (mut driver, main, side) = capturing(Mode::Relaxed, 1);
        driver.begin_capture(side, Mode::Relaxed).unwrap();
        let mark = driver.mark(side);
        let event = driver.events.add(Event {
            mark,
            ..Event::default()
        });
        assert_eq!(
            driver.wait_event(main, event),
            Err(Status::StreamCaptureMerge)
        );
        assert_eq!(
            driver.end_capture(main).err(),
            Some(Status::StreamCaptureInvalidated)
        );
        assert_eq!(
            driver.end_capture(side).err(),
            Some(Status::StreamCaptureInvalidated)
        );
    }
}
