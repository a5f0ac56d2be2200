//! Case tables and the checks that run over them: value against reference, gradient against central differences in `f64`,
//! native gradient against both. The same cases serve the benches and every device.

use std::sync::Arc;

use super::{Recorder, Var};
use crate::device::host::{Host, Plain64};
use crate::device::{Device, DeviceError, ProgramId};
use crate::program::Noise;
use crate::tape::Tape;
use crate::tensor::Shape;

/// The noise of every case run.
pub const NOISE: Noise = Noise {
    seed: 0x5eed,
    step: 3,
    // Streams that begin inside a group of four words.
    first_sample: 3,
};

/// Numbers to fill a case's tensor with, reproducible from its position.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Uniform in `[low, high)`.
    Uniform(f64, f64),
    /// Just these.
    Values(Vec<f64>),
}

/// A tensor that a case feeds.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its shape.
    pub shape: Shape,
    /// Its numbers.
    pub fill: Fill,
    /// Whether its gradient is checked.
    pub differentiable: bool,
}

/// A tensor of numbers in `[-2, 2)` whose gradient is checked.
pub fn input(shape: impl Into<Shape>) -> Input {
    Input {
        shape: shape.into(),
        fill: Fill::Uniform(-2.0, 2.0),
        differentiable: true,
    }
}

impl Input {
    /// With numbers in `[low, high)`.
    pub fn within(mut self, low: f64, high: f64) -> Self {
        self.fill = Fill::Uniform(low, high);
        self
    }

    /// With these numbers.
    pub fn values(mut self, values: &[f64]) -> Self {
        assert_eq!(values.len(), self.shape.len());
        self.fill = Fill::Values(values.to_vec());
        self
    }

    /// Without a gradient check: labels, noise, counters.
    pub fn fixed(mut self) -> Self {
        self.differentiable = false;
        self
    }

    /// The numbers, rounded to `f32` so that every device starts from the same.
    fn numbers(&self, salt: u64) -> Vec<f32> {
        match &self.fill {
            Fill::Values(v) => v.iter().map(|x| *x as f32).collect(),
            Fill::Uniform(low, high) => {
                let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.shape.len() as u64;
                (0..self.shape.len())
                    .map(|_| (low + (high - low) * split_mix(&mut state)) as f32)
                    .collect()
            }
        }
    }
}

/// The next number in `[0, 1)` of the SplitMix64 generator.
fn split_mix(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Records a case's node or nodes from its inputs and updates; returns the outputs that are compared.
pub type Build = Arc<dyn Fn(&dyn Recorder, &[Var], &[Var]) -> Vec<Var> + Send + Sync>;

/// One row of an op's table.
#[derive(Clone)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// Tensors read.
    pub inputs: Vec<Input>,
    /// States changed in place.
    pub updates: Vec<Input>,
    /// Records it.
    pub build: Build,
    /// Largest allowed difference between the native kernel and the reference in `f64`, relative to the largest number
    /// of the reference tensor.
    pub tolerance: f64,
}

/// The usual tolerance of a case: some 80 units in the last place of the largest number.
pub const TOLERANCE: f64 = 1e-5;

impl Case {
    /// A row without states.
    pub fn new(
        name: impl Into<String>,
        inputs: Vec<Input>,
        build: impl Fn(&dyn Recorder, &[Var]) -> Vec<Var> + Send + Sync + 'static,
    ) -> Self {
        Case::with_updates(name, inputs, Vec::new(), move |r, inputs, _| {
            build(r, inputs)
        })
    }

    /// A row that changes states in place.
    pub fn with_updates(
        name: impl Into<String>,
        inputs: Vec<Input>,
        updates: Vec<Input>,
        build: impl Fn(&dyn Recorder, &[Var], &[Var]) -> Vec<Var> + Send + Sync + 'static,
    ) -> Self {
        Case {
            name: name.into(),
            inputs,
            updates,
            build: Arc::new(build),
            tolerance: TOLERANCE,
        }
    }

    /// With another tolerance; the row says why.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// The same with a copy between each differentiable input and the op, and between each result and the output. Copies are intermediates,
    /// which feeds and named outputs are not: where the op takes them in bf16, so they are stored.
    pub fn between(&self) -> Case {
        let build = Arc::clone(&self.build);
        let differentiable: Vec<bool> = self.inputs.iter().map(|x| x.differentiable).collect();
        let mut case = self.clone();
        case.build = Arc::new(move |r, inputs, updates| {
            let copy = |x: Var| super::unary::affine(r, x, 1.0, 0.0);
            let inputs: Vec<Var> = (inputs.iter().zip(&differentiable))
                .map(|(x, copied)| if *copied { copy(*x) } else { *x })
                .collect();
            build(r, &inputs, updates).into_iter().map(copy).collect()
        });
        case
    }

    fn records(&self, tape: &Tape) -> (Vec<Var>, Vec<Var>, Vec<Var>) {
        let inputs: Vec<Var> = (self.inputs.iter().enumerate())
            .map(|(i, x)| tape.feed(&format!("x{i}"), x.shape))
            .collect();
        let updates: Vec<Var> = (self.updates.iter().enumerate())
            .map(|(i, x)| tape.state(&format!("s{i}"), x.shape))
            .collect();
        let outputs = (self.build)(tape, &inputs, &updates);
        (inputs, updates, outputs)
    }

    /// The program of the values: outputs `y0`, `y1`, ...
    pub fn value_tape(&self) -> Tape {
        let tape = Tape::new();
        let (_, _, outputs) = self.records(&tape);
        for (i, y) in outputs.iter().enumerate() {
            tape.output(&format!("y{i}"), *y);
        }
        tape
    }

    /// The program of the gradients of `sum_i <y_i, c_i>` with cotangents fed as `c0`, `c1`, ...: outputs `g0`, `g1`, ...,
    /// one for each differentiable input.
    pub fn gradient_tape(&self) -> Tape {
        let tape = Tape::new();
        let (inputs, _, outputs) = self.records(&tape);
        let seeds: Vec<(Var, Var)> = (outputs.iter().enumerate())
            .map(|(i, y)| (*y, tape.feed(&format!("c{i}"), tape.shape(*y))))
            .collect();
        let wanted: Vec<(usize, Var)> = (inputs.iter().copied().enumerate())
            .filter(|(i, _)| self.inputs[*i].differentiable)
            .collect();
        let wrt: Vec<Var> = wanted.iter().map(|(_, v)| *v).collect();
        for ((i, _), g) in wanted.iter().zip(tape.grad_from(&seeds, &wrt)) {
            tape.output(&format!("g{i}"), g);
        }
        tape
    }

    /// Feeds inputs, states and cotangents.
    pub fn load(&self, device: &mut dyn Device, program: ProgramId) -> Result<(), DeviceError> {
        for (i, x) in self.inputs.iter().enumerate() {
            if device.plan(program).feed(&format!("x{i}")).is_some() {
                device.feed(program, &format!("x{i}"), &x.numbers(i as u64))?;
            }
        }
        for (i, x) in self.updates.iter().enumerate() {
            device.declare_state(&format!("s{i}"), x.shape)?;
            device.write_state(&format!("s{i}"), &x.numbers(100 + i as u64))?;
        }
        for i in 0.. {
            let name = format!("c{i}");
            let Some(shape) = device.plan(program).feed(&name).map(|f| f.slot.shape) else {
                break;
            };
            device.feed(
                program,
                &name,
                &input(shape).within(-1.0, 1.0).numbers(200 + i),
            )?;
        }
        Ok(())
    }

    /// Runs a program of this case on a device; returns outputs, then states, by name.
    pub fn run(&self, tape: &Tape, device: &mut dyn Device) -> Result<Vec<Tensor>, DeviceError> {
        let program = device.prepare(tape.plan(&self.name))?;
        self.load(device, program)?;
        device.run(program, NOISE)?;
        let mut tensors = Vec::new();
        for output in device.plan(program).outputs.clone() {
            tensors.push(Tensor {
                data: widen(&device.fetch(program, &output.name)?),
                name: output.name,
                shape: output.slot.shape,
            });
        }
        for (i, x) in self.updates.iter().enumerate() {
            let name = format!("s{i}");
            tensors.push(Tensor {
                data: widen(&device.read_state(&name)?),
                name,
                shape: x.shape,
            });
        }
        Ok(tensors)
    }

    /// As [`Case::run`] on the reference in `f64`, keeping every digit.
    pub fn run_f64(&self, tape: &Tape) -> Result<Vec<Tensor>, DeviceError> {
        let mut device = Host::<Plain64>::new();
        let program = device.prepare(tape.plan(&self.name))?;
        self.load(&mut device, program)?;
        device.run(program, NOISE)?;
        let mut tensors = Vec::new();
        for output in device.plan(program).outputs.clone() {
            tensors.push(Tensor {
                data: device.fetch_f64(program, &output.name)?,
                name: output.name,
                shape: output.slot.shape,
            });
        }
        for (i, x) in self.updates.iter().enumerate() {
            let name = format!("s{i}");
            tensors.push(Tensor {
                data: device.read_state_f64(&name)?,
                name,
                shape: x.shape,
            });
        }
        Ok(tensors)
    }

    /// Checks a device's values and state changes against the reference in `f64`.
    pub fn check_values(&self, device: &mut dyn Device) -> Result<(), String> {
        self.check(&self.value_tape(), device)
    }

    /// Checks a device's gradients against the gradient rules run in `f64`.
    pub fn check_gradients(&self, device: &mut dyn Device) -> Result<(), String> {
        self.check(&self.gradient_tape(), device)
    }

    fn check(&self, tape: &Tape, device: &mut dyn Device) -> Result<(), String> {
        self.check_within(tape, device, self.tolerance)
    }

    /// Checks a device's results of a program of this case against the reference in `f64`, with a tolerance of one's own.
    pub fn check_within(
        &self,
        tape: &Tape,
        device: &mut dyn Device,
        tolerance: f64,
    ) -> Result<(), String> {
        let want = self.run_f64(tape).map_err(|e| e.to_string())?;
        let got = self.run(tape, device).map_err(|e| e.to_string())?;
        for (g, w) in got.iter().zip(&want) {
            compare(w.shape, &g.data, &w.data, tolerance)
                .map_err(|e| format!("case `{}`, {}: {e}", self.name, w.name))?;
        }
        Ok(())
    }

    /// Checks the gradient rules against central differences, both in `f64`.
    pub fn check_gradient_rules(&self) -> Result<(), String> {
        let text = |e: DeviceError| e.to_string();
        let analytic = self.run_f64(&self.gradient_tape()).map_err(text)?;
        let mut device = Host::<Plain64>::new();
        // The value program shares feeds' numbers with the gradient program, and the cotangents weigh its outputs.
        let value = device
            .prepare(self.value_tape().plan(&self.name))
            .map_err(text)?;
        let shapes: Vec<Shape> = device
            .plan(value)
            .outputs
            .iter()
            .map(|o| o.slot.shape)
            .collect();
        let cotangents: Vec<Vec<f64>> = (shapes.iter().enumerate())
            .map(|(i, s)| widen(&input(*s).within(-1.0, 1.0).numbers(200 + i as u64)))
            .collect();
        let mut objective = |moved: usize, numbers: &[f64]| -> Result<f64, DeviceError> {
            self.load(&mut device, value)?;
            device.feed_f64(value, &format!("x{moved}"), numbers)?;
            device.run(value, NOISE)?;
            let mut total = 0.0;
            for (i, c) in cotangents.iter().enumerate() {
                let y = device.fetch_f64(value, &format!("y{i}"))?;
                total += y.iter().zip(c).map(|(y, c)| y * c).sum::<f64>();
            }
            Ok(total)
        };
        for (i, x) in self
            .inputs
            .iter()
            .enumerate()
            .filter(|(_, x)| x.differentiable)
        {
            let name = format!("g{i}");
            let Some(g) = analytic.iter().find(|t| t.name == name) else {
                return Err(format!("case `{}` has no gradient {name}", self.name));
            };
            let scale = g.data.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
            let start = widen(&x.numbers(i as u64));
            let stride = x.shape.len().div_ceil(48).max(1);
            for element in (0..x.shape.len()).step_by(stride) {
                let mut difference = |h: f64| {
                    let mut moved = start.clone();
                    moved[element] = start[element] + h;
                    let up = objective(i, &moved)?;
                    moved[element] = start[element] - h;
                    Ok::<f64, DeviceError>((up - objective(i, &moved)?) / (2.0 * h))
                };
                // Richardson's combination of two steps: the error falls with the fourth power of the step.
                let h = 1e-4 * (1.0 + start[element].abs());
                let coarse = difference(2.0 * h).map_err(text)?;
                let fine = difference(h).map_err(text)?;
                let numeric = (4.0 * fine - coarse) / 3.0;
                let error = (g.data[element] - numeric).abs();
                let passes = error <= 1e-6 * scale;
                if !passes {
                    return Err(format!(
                        "case `{}`: d/dx{i}{} is {} by its rule and {numeric} by central differences",
                        self.name,
                        position(x.shape, element),
                        g.data[element]
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A named result.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// `y0`, `g2`, `s1`.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its numbers.
    pub data: Vec<f64>,
}

fn widen(data: &[f32]) -> Vec<f64> {
    data.iter().map(|v| f64::from(*v)).collect()
}

/// Passes only if every `|got - want| <= tolerance * max|want|`; anything that is not finite fails and is counted apart.
pub fn compare(shape: Shape, got: &[f64], want: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} numbers instead of {}", got.len(), want.len()));
    }
    let largest = want.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let strange = got
        .iter()
        .zip(want)
        .filter(|(g, w)| !g.is_finite() || !w.is_finite())
        .count();
    if strange > 0 {
        return Err(format!("{strange} of {} numbers are not finite", got.len()));
    }
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .enumerate()
        .fold(
            (0, 0.0),
            |worst, (i, d)| if d > worst.1 { (i, d) } else { worst },
        );
    let passes = worst.1 <= tolerance * largest;
    if passes {
        return Ok(());
    }
    Err(format!(
        "at {} it is {:e} instead of {:e}: {:.2e} of the largest number {:e}, and {:.0e} is allowed (seed {:#x})",
        position(shape, worst.0),
        got[worst.0],
        want[worst.0],
        worst.1 / largest,
        largest,
        tolerance,
        NOISE.seed
    ))
}

/// An element's index in tensor notation, such as `[0, 3, 2, 7]`.
pub fn position(shape: Shape, element: usize) -> String {
    let mut rest = element;
    let mut index: Vec<usize> = Vec::new();
    for extent in shape.dims().iter().rev() {
        index.push(rest % extent.max(&1));
        rest /= extent.max(&1);
    }
    index.reverse();
    format!("{index:?}")
}
