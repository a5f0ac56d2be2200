//! What a test runs on: a device in single precision, or the plain references in double.

use std::collections::BTreeMap;

use super::array::Array;
use super::{Arithmetic, NewDevice, ParityError};
use crate::device::host::{Host, Plain64};
use crate::device::{Device, DeviceError, ProgramId};
use crate::nn::params::ParamSpec;
use crate::program::{Named, Noise};
use crate::tape::Tape;
use crate::tensor::Shape;

/// A fresh device, which takes and gives numbers in double precision and in the layout of the files.
pub(super) enum Machine {
    Single(Box<dyn Device>),
    Double(Host<Plain64>),
}

impl Machine {
    pub fn new(arithmetic: Arithmetic, device: &NewDevice<'_>) -> Result<Self, ParityError> {
        Ok(match arithmetic {
            Arithmetic::Single => Machine::Single(device()?),
            Arithmetic::Double => Machine::Double(Host::new()),
        })
    }

    fn device(&mut self) -> &mut dyn Device {
        match self {
            Machine::Single(device) => &mut **device,
            Machine::Double(host) => host,
        }
    }

    /// Prepares a recorded step.
    pub fn prepare(&mut self, tape: &Tape, name: &str) -> Result<ProgramId, ParityError> {
        Ok(self.device().prepare(tape.plan(name))?)
    }

    /// Writes a feed.
    pub fn feed(
        &mut self,
        program: ProgramId,
        name: &str,
        array: &Array,
    ) -> Result<(), ParityError> {
        let feed = self.device().plan(program).feed(name).cloned();
        let feed = feed.ok_or_else(|| unknown("feed", name))?;
        let ours = array.to_engine();
        if ours.shape().len() != feed.slot.shape.len()
            || (ours.shape.len() == 4 && ours.shape() != feed.slot.shape)
        {
            return Err(ParityError::Shape {
                name: name.to_owned(),
                found: array.shape.clone(),
                want: feed.slot.shape,
            });
        }
        self.feed_engine(program, name, &ours.data)
    }

    /// Writes a feed of one number.
    pub fn feed_number(
        &mut self,
        program: ProgramId,
        name: &str,
        value: f64,
    ) -> Result<(), ParityError> {
        self.feed_engine(program, name, &[value])
    }

    /// Writes a feed in the engine's layout.
    pub fn feed_engine(
        &mut self,
        program: ProgramId,
        name: &str,
        data: &[f64],
    ) -> Result<(), ParityError> {
        match self {
            Machine::Single(device) => device.feed(program, name, &narrow(data))?,
            Machine::Double(host) => host.feed_f64(program, name, data)?,
        }
        Ok(())
    }

    /// Runs a program once.
    pub fn run(&mut self, program: ProgramId) -> Result<(), ParityError> {
        Ok(self.device().run(program, Noise::default())?)
    }

    /// Reads an output.
    pub fn fetch(&mut self, program: ProgramId, name: &str) -> Result<Array, ParityError> {
        Ok(self.fetch_engine(program, name)?.to_files())
    }

    /// Reads an output in the engine's layout.
    pub fn fetch_engine(&mut self, program: ProgramId, name: &str) -> Result<Array, ParityError> {
        let output = self.device().plan(program).output(name).cloned();
        let Named { slot, .. } = output.ok_or_else(|| unknown("output", name))?;
        let data = match self {
            Machine::Single(device) => widen(&device.fetch(program, name)?),
            Machine::Double(host) => host.fetch_f64(program, name)?,
        };
        Ok(Array::new(slot.shape.dims(), data))
    }

    /// The names of a program's outputs.
    pub fn outputs(&mut self, program: ProgramId) -> Vec<String> {
        let outputs = &self.device().plan(program).outputs;
        outputs.iter().map(|o| o.name.clone()).collect()
    }

    /// Writes a state, in the engine's layout.
    pub fn write(&mut self, name: &str, shape: Shape, data: &[f64]) -> Result<(), ParityError> {
        self.device().declare_state(name, shape)?;
        match self {
            Machine::Single(device) => device.write_state(name, &narrow(data))?,
            Machine::Double(host) => host.write_state_f64(name, data)?,
        }
        Ok(())
    }

    /// Reads a state, in the engine's layout.
    pub fn read(&mut self, name: &str) -> Result<Vec<f64>, ParityError> {
        Ok(match self {
            Machine::Single(device) => widen(&device.read_state(name)?),
            Machine::Double(host) => host.read_state_f64(name)?,
        })
    }

    /// Writes zeros to states.
    pub fn clear(&mut self, states: &[(String, Shape)]) -> Result<(), ParityError> {
        for (name, shape) in states {
            self.write(name, *shape, &vec![0.0; shape.len()])?;
        }
        Ok(())
    }

    /// Writes a network's parameters from a state dict, which must hold all of them; it may hold more.
    pub fn load(
        &mut self,
        prefix: &str,
        params: &[ParamSpec],
        weights: &BTreeMap<String, Array>,
    ) -> Result<(), ParityError> {
        for spec in params {
            let array = weights
                .get(&spec.name)
                .ok_or_else(|| ParityError::NoWeight(spec.name.clone()))?;
            if array.shape != spec.official_shape() {
                return Err(ParityError::Weight {
                    name: spec.name.clone(),
                    found: array.shape.clone(),
                    want: spec.official_shape(),
                });
            }
            let name = format!("{prefix}.{}", spec.name);
            self.write(&name, spec.shape, &spec.from_official(&array.data))?;
        }
        Ok(())
    }

    /// The present value of a parameter, in the official layout.
    pub fn parameter(&mut self, prefix: &str, spec: &ParamSpec) -> Result<Array, ParityError> {
        self.like_parameter(&format!("{prefix}.{}", spec.name), spec)
    }

    /// A state laid out as a parameter (a moment), in the official layout.
    pub fn like_parameter(&mut self, state: &str, spec: &ParamSpec) -> Result<Array, ParityError> {
        let data = self.read(state)?;
        Ok(Array::new(spec.official_shape(), spec.to_official(&data)))
    }

    /// An output laid out as a parameter (a gradient), in the official layout.
    pub fn fetch_like(
        &mut self,
        program: ProgramId,
        output: &str,
        spec: &ParamSpec,
    ) -> Result<Array, ParityError> {
        let data = self.fetch_engine(program, output)?.data;
        Ok(Array::new(spec.official_shape(), spec.to_official(&data)))
    }

    /// Writes the start vectors of power iterations, normalised: `<tensor prefix><layer>` of a file to states
    /// `<states>.sr_u.<layer>` (trap 7).
    pub fn start_power_vectors(
        &mut self,
        states: &[(String, Shape)],
        start: impl Fn(&str) -> Result<Array, ParityError>,
    ) -> Result<(), ParityError> {
        for (state, shape) in states {
            let raw = start(layer_of(state))?;
            let norm = raw.data.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-3);
            self.write(state, *shape, &raw.scaled(1.0 / norm).data)?;
        }
        Ok(())
    }
}

/// The layer that a power iteration's state belongs to.
pub(super) fn layer_of(state: &str) -> &str {
    state.split_once(".sr_u.").map_or(state, |(_, layer)| layer)
}

fn unknown(what: &'static str, name: &str) -> DeviceError {
    DeviceError::Unknown {
        what,
        name: name.to_owned(),
        known: None,
    }
}

fn narrow(data: &[f64]) -> Vec<f32> {
    data.iter().map(|v| *v as f32).collect()
}

fn widen(data: &[f32]) -> Vec<f64> {
    data.iter().map(|v| f64::from(*v)).collect()
}
