//! The streams' queues: when submitted work is done.
//!
//! Without `--late` a submission is followed at once by the work. With it, work stays queued until the program waits for
//! it: for the stream, an event behind it, another stream that waits for it, the device. That is the latest a GPU could be,
//! so a program that reads or overwrites host memory too early shows it.

use crate::{
    driver::{Driver, StreamKind, in_context, initialised},
    ffi::HostCall,
    handles::Handle,
    status::Status,
    work::Work,
};

/// A place in a stream that can be waited for: all that was queued up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    stream: Handle,
    number: u64,
}

/// What stands in a queue.
#[derive(Debug)]
pub enum Item {
    /// Work, and whether a graph launch queued it.
    Work(Work, bool),
    /// Takes an event's time.
    Record(Handle),
    /// Waits for another stream.
    Wait(Ticket),
    /// Frees device memory, for the call named.
    Free(u64, &'static str),
}

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Up to a place in a stream.
    Place(Ticket),
    /// To the end of every queue.
    Everything,
}

impl Driver {
    /// Whether the work up to a place is done; a stream that is gone has done its work.
    pub fn is_done(&self, ticket: Ticket) -> bool {
        self.streams
            .get(ticket.stream)
            .map_or(true, |stream| stream.done >= ticket.number)
    }

    /// The present end of a stream.
    pub fn end_of(&self, stream: Handle) -> Result<Ticket, Status> {
        let queued = self.streams.get(stream)?;
        Ok(Ticket {
            stream,
            number: queued.done + queued.queue.len() as u64,
        })
    }

    /// Queues an item; the place behind it.
    pub fn push(&mut self, stream: Handle, item: Item) -> Result<Ticket, Status> {
        // The legacy stream waits for the blocking streams, and they for it.
        let waits_for: fn(&crate::driver::Stream) -> bool = match self.streams.get(stream)? {
            legacy if legacy.kind == StreamKind::Legacy => |other| other.is_blocking(),
            blocking if blocking.is_blocking() => |other| other.kind == StreamKind::Legacy,
            _ => |_| false,
        };
        let others = self
            .streams
            .iter()
            .filter(|(_, other)| waits_for(other) && !other.queue.is_empty());
        let others: Vec<Handle> = others.map(|(handle, _)| handle).collect();
        for other in others {
            let ticket = self.end_of(other)?;
            self.streams
                .get_mut(stream)?
                .queue
                .push_back(Item::Wait(ticket));
        }
        self.streams.get_mut(stream)?.queue.push_back(item);
        self.end_of(stream)
    }

    /// The stream whose head is next on the way to a goal; `None` when the goal is reached.
    fn next(&self, goal: Goal) -> Option<Handle> {
        let mut stream = match goal {
            Goal::Place(ticket) => (!self.is_done(ticket)).then_some(ticket.stream)?,
            Goal::Everything => {
                self.streams
                    .iter()
                    .find(|(_, stream)| !stream.queue.is_empty())?
                    .0
            }
        };
        // What is waited for was queued before the wait, so this ends.
        loop {
            match self.streams.get(stream).ok()?.queue.front()? {
                Item::Wait(ticket) if !self.is_done(*ticket) => stream = ticket.stream,
                _ => return Some(stream),
            }
        }
    }

    /// Does one item towards a goal. A host function is given back, to be called when the driver is not locked.
    fn step(&mut self, goal: Goal) -> Result<Step, Status> {
        let Some(handle) = self.next(goal) else {
            return Ok(Step::Reached);
        };
        let stream = self.streams.get_mut(handle)?;
        let item = stream.queue.pop_front().ok_or(Status::InvalidHandle)?;
        stream.done += 1;
        let done = match item {
            Item::Work(work, from_graph) => self.execute(&work, from_graph),
            Item::Wait(_) => Ok(None),
            Item::Free(address, call) => self.free(address, call).map(|()| None),
            Item::Record(event) => {
                // The event may have been destroyed since.
                if let Ok(event) = self.events.get_mut(event) {
                    event.recorded = Some(std::time::Instant::now());
                }
                Ok(None)
            }
        };
        match done {
            Ok(call) => Ok(Step::Done(call)),
            Err(status) => {
                // The call that queued it has returned long ago: the next one that waits tells.
                self.pending_error = self.pending_error.or(Some(status));
                Ok(Step::Done(None))
            }
        }
    }
}

enum Step {
    Reached,
    Done(Option<HostCall>),
}

/// Does queued work until the goal is reached.
pub fn drain(goal: Goal) {
    while one_step(goal) {}
}

/// Does one item; false when the goal was reached before.
pub fn one_step(goal: Goal) -> bool {
    let mut step = Step::Reached;
    initialised(|driver| {
        step = driver.step(goal)?;
        Ok(())
    });
    match step {
        Step::Reached => false,
        Step::Done(call) => {
            if let Some(call) = call {
                call.run();
            }
            true
        }
    }
}

/// A call that waits: for the goal it names, then does the rest.
pub fn wait_for(
    goal: impl FnOnce(&mut Driver) -> Result<Goal, Status>,
    then: impl FnOnce(&mut Driver) -> Result<(), Status>,
) -> Status {
    let mut found = None;
    let status = in_context(|driver| {
        found = Some(goal(driver)?);
        Ok(())
    });
    match found {
        Some(goal) => {
            drain(goal);
            in_context(then)
        }
        None => status,
    }
}

/// Submits work to a stream: into its capture, or to its queue.
pub fn submit(stream: Handle, make: impl FnOnce(&mut Driver) -> Result<Work, Status>) -> Status {
    enqueue(stream, make, |driver| !driver.settings.late).1
}

/// Submits work and waits until it is done, unless it went into a capture.
pub fn submit_and_wait(
    stream: Handle,
    make: impl FnOnce(&mut Driver) -> Result<Work, Status>,
) -> Status {
    match enqueue(stream, make, |_| true) {
        (true, Status::Success) => in_context(|driver| driver.surface_errors()),
        (_, status) => status,
    }
}

/// Whether the work was done, and the status.
fn enqueue(
    stream: Handle,
    make: impl FnOnce(&mut Driver) -> Result<Work, Status>,
    wait: impl FnOnce(&Driver) -> bool,
) -> (bool, Status) {
    let mut goal = None;
    let status = in_context(|driver| {
        let work = make(driver)?;
        if let Some(work) = driver.route(stream, work)? {
            let work = driver.admit(work)?.staged(driver)?;
            let ticket = driver.push(stream, Item::Work(work, false))?;
            goal = wait(driver).then_some(ticket);
        }
        Ok(())
    });
    if let Some(ticket) = goal {
        drain(Goal::Place(ticket));
    }
    (goal.is_some(), status)
}

#[cfg(test)]
mod tests {
    use ptxsim::exec::settings::Settings;

    use super::*;
    use crate::driver::Stream;

    /// A device with one allocation of four bytes, and streams with these flags.
    fn device<const N: usize>(flags: [u32; N]) -> (Driver, u64, [Handle; N]) {
        let mut driver = Driver::new(Settings::default());
        let address = driver.allocate(4, "test").unwrap();
        let streams = flags.map(|flags| driver.streams.add(Stream::created(flags, 0)));
        (driver, address, streams)
    }

    fn fill(to: u64, byte: u8) -> Item {
        Item::Work(
            Work::Fill {
                to,
                pattern: vec![byte],
                count: 4,
            },
            false,
        )
    }

    fn go(driver: &mut Driver, goal: Goal) -> usize {
        (0..)
            .take_while(|_| matches!(driver.step(goal), Ok(Step::Done(_))))
            .count()
    }

    fn byte(driver: &Driver, address: u64) -> u8 {
        let mut byte = [0];
        driver.memory.read(address, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn waiting_for_a_stream_does_its_work_and_what_it_waits_for_and_no_more() {
        let (mut driver, address, [a, b, c]) = device([1, 1, 1]);
        driver.push(a, fill(address, 1)).unwrap();
        let after_first = driver.end_of(a).unwrap();
        driver.push(a, fill(address, 2)).unwrap();
        driver.push(b, Item::Wait(after_first)).unwrap();
        driver.push(b, fill(address, 3)).unwrap();
        driver.push(c, fill(address, 4)).unwrap();
        let end = Goal::Place(driver.end_of(b).unwrap());
        assert_eq!(go(&mut driver, end), 3, "one of a, the wait, one of b");
        assert_eq!(byte(&driver, address), 3);
        assert_eq!(go(&mut driver, end), 0);
        assert_eq!(go(&mut driver, Goal::Everything), 2);
    }

    #[test]
    fn the_legacy_stream_waits_for_blocking_streams_only() {
        for (flags, items) in [(0, 3), (1, 1)] {
            let (mut driver, address, [stream]) = device([flags]);
            driver.push(stream, fill(address, 1)).unwrap();
            let end = driver.push(Handle::NULL, fill(address, 2)).unwrap();
            assert_eq!(go(&mut driver, Goal::Place(end)), items, "flags {flags}");
            assert_eq!(byte(&driver, address), 2);
        }
        let (mut driver, address, [stream]) = device([0]);
        driver.push(Handle::NULL, fill(address, 1)).unwrap();
        let end = driver.push(stream, fill(address, 2)).unwrap();
        assert_eq!(
            go(&mut driver, Goal::Place(end)),
            3,
            "and the blocking stream for the legacy one"
        );
    }

    #[test]
    fn an_error_of_queued_work_is_told_later_and_stops_what_follows() {
        let (mut driver, address, [stream]) = device([1]);
        driver.push(stream, Item::Free(address, "test")).unwrap();
        driver.push(stream, fill(address, 1)).unwrap();
        let end = Goal::Place(driver.end_of(stream).unwrap());
        assert_eq!(go(&mut driver, end), 2);
        assert_eq!(driver.surface_errors(), Err(Status::IllegalAddress));
        assert_eq!(driver.sticky, Some(Status::IllegalAddress));
    }
}
