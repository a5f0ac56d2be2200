//! How a loop tells what it does. Nothing in the library prints; it tells an observer.

use std::path::Path;

/// Named numbers of a step, in the order in which they are shown.
pub type Scalars<'a> = &'a [(&'a str, f64)];

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A phase began: training, sampling, preparing data.
    PhaseStarted {
        /// What is done, for people: "training the VAE".
        name: &'a str,
        /// Steps it will take, if known.
        total: Option<u64>,
        /// Steps already done, when it goes on from a checkpoint.
        done: u64,
    },
    /// A step was done.
    Step {
        /// Its number, counted from 1.
        step: u64,
        /// Loss first.
        scalars: Scalars<'a>,
    },
    /// A validation was done.
    Validation {
        /// After which step.
        step: u64,
        /// Its figures.
        scalars: Scalars<'a>,
        /// Whether it is the best so far.
        best: bool,
    },
    /// A file was written: a checkpoint, a sample grid.
    Saved {
        /// After which step.
        step: u64,
        /// Where.
        path: &'a Path,
    },
    /// The divergence guard left out a step's update, or sends the run back.
    Guard {
        /// The step that was bad; of several in succession the last.
        step: u64,
        /// The step after which the run goes on again, if it goes back; 0 is its start.
        back_to: Option<u64>,
        /// What was watched, with deviations.
        scalars: Scalars<'a>,
        /// The same in words.
        text: &'a str,
    },
    /// Something to know.
    Message(&'a str),
    /// The phase ended.
    PhaseEnded {
        /// Wall-clock seconds.
        seconds: f64,
    },
}

/// Somebody who is told.
pub trait Observer {
    /// Takes note of an event. It must not fail: an observer that writes keeps its error until asked for it.
    fn event(&mut self, event: Event<'_>);
}

/// Takes no note of anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: Event<'_>) {}
}

/// Passes every event on to several observers, in order.
#[derive(Default)]
pub struct Observers<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Observers<'_> {
    fn event(&mut self, event: Event<'_>) {
        for observer in &mut self.0 {
            observer.event(event);
        }
    }
}
