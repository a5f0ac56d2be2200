//! One recorded step with the numbers to run it on.

use std::collections::HashMap;

use vaebm::device::Device;
use vaebm::device::host::{Cpu, Host, Plain64};
use vaebm::ops::Var;
use vaebm::program::Noise;
use vaebm::tape::Tape;
use vaebm::tensor::Shape;

use super::layout::Array;
use super::parity::Precision;

/// A tape and what to feed it. Every output and every state is a result, under its name.
#[derive(Default)]
pub struct Step {
    /// Where nodes are recorded.
    pub tape: Tape,
    feeds: Vec<(String, Vec<f32>)>,
    states: Vec<(String, Shape, Vec<f32>)>,
}

impl Step {
    /// An input, already in the engine's layout.
    pub fn feed(&mut self, name: &str, array: &Array<f32>) -> Var {
        self.feeds.push((name.to_owned(), array.data.clone()));
        self.tape.feed(name, array.shape())
    }

    /// A state that starts with these numbers.
    pub fn state(&mut self, name: &str, array: &Array<f32>) -> Var {
        let state = (name.to_owned(), array.shape(), array.data.clone());
        self.states.push(state);
        self.tape.state(name, array.shape())
    }

    /// A result.
    pub fn output(&self, name: &str, var: Var) {
        self.tape.output(name, var);
    }

    /// Runs the step: the native device in single precision, the plain reference in double.
    pub fn run(&self, precision: Precision) -> HashMap<String, Array<f64>> {
        match precision {
            Precision::Single => self.run_single(),
            Precision::Double => self.run_double(),
        }
    }

    fn run_single(&self) -> HashMap<String, Array<f64>> {
        let mut device = Cpu::new();
        let program = self.start(&mut device);
        let widen = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
        let outputs = device.plan(program).outputs.clone();
        let outputs = outputs.iter().map(|o| {
            let data = device.fetch(program, &o.name).expect("an output");
            (o.name.clone(), Array::new(o.slot.shape, widen(data)))
        });
        let mut results: HashMap<_, _> = outputs.collect();
        for (name, shape, _) in &self.states {
            let data = widen(device.read_state(name).expect("a state"));
            results.insert(name.clone(), Array::new(*shape, data));
        }
        results
    }

    fn run_double(&self) -> HashMap<String, Array<f64>> {
        let mut device = Host::<Plain64>::new();
        let program = self.start(&mut device);
        let outputs = device.plan(program).outputs.iter().map(|o| {
            let data = device.fetch_f64(program, &o.name).expect("an output");
            (o.name.clone(), Array::new(o.slot.shape, data))
        });
        let mut results: HashMap<_, _> = outputs.collect();
        for (name, shape, _) in &self.states {
            let data = device.read_state_f64(name).expect("a state");
            results.insert(name.clone(), Array::new(*shape, data));
        }
        results
    }

    fn start(&self, device: &mut dyn Device) -> vaebm::device::ProgramId {
        for (name, shape, data) in &self.states {
            device
                .declare_state(name, *shape)
                .expect("one shape a name");
            device.write_state(name, data).expect("as many numbers");
        }
        let program = device.prepare(self.tape.plan("parity")).expect("memory");
        for (name, data) in &self.feeds {
            if device.plan(program).feed(name).is_some() {
                device.feed(program, name, data).expect("as many numbers");
            }
        }
        device
            .run(program, Noise::default())
            .expect("a host device");
        program
    }
}
