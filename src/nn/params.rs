//! Parameters: what they are called, how they start, and how their layout maps to the official one.

use crate::device::{Device, DeviceError};
use crate::philox;
use crate::tensor::Shape;

/// What a parameter is; decides its official layout and whether an optimiser moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Convolution weight `[kh, kw, cin/groups, cout]`; officially `[cout, cin/groups, kh, kw]`.
    Conv,
    /// Depthwise weight `[kh, kw, c]`; officially `[c, 1, kh, kw]`.
    Depthwise,
    /// Linear weight `[in, out]`; officially `[out, in]`.
    Linear,
    /// Weight-norm gain `[cout]` as a logarithm; officially `[cout, 1, 1, 1]`.
    LogWeightNorm,
    /// `[c]`.
    Vector,
    /// Learned features `[h, w, c]`; officially `[c, h, w]`.
    Features,
    /// Running statistic `[c]`: written by batch norm, never by an optimiser.
    Statistic,
}

impl Role {
    /// Whether an optimiser moves it.
    pub fn is_trainable(self) -> bool {
        self != Role::Statistic
    }
}

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Constant(f64),
    /// Uniform in `[low, high)`.
    Uniform(f64, f64),
    /// `ln(norm + 0.01) + shift`, with the norm of each output filter of the weight of that name, under a mask.
    LogNorm {
        /// Name of the weight, without prefix.
        weight: String,
        /// The weight's mask, if it has one.
        mask: Option<Vec<f64>>,
        /// Added to the logarithm.
        shift: f64,
    },
}

/// A declared parameter.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// The official name, without prefix.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its shape in our layout.
    pub shape: Shape,
    /// How it starts.
    pub init: Init,
}

impl ParamSpec {
    /// The shape in the official layout.
    pub fn official_shape(&self) -> Vec<usize> {
        let d = self.shape.dims();
        match self.role {
            Role::Conv => vec![d[3], d[2], d[0], d[1]],
            Role::Depthwise => vec![d[2], 1, d[0], d[1]],
            Role::Linear => vec![d[1], d[0]],
            Role::LogWeightNorm => vec![d[0], 1, 1, 1],
            Role::Features => vec![d[2], d[0], d[1]],
            Role::Vector | Role::Statistic => d.to_vec(),
        }
    }

    /// Numbers in the official layout, brought into ours.
    pub fn from_official<T: Copy + Default>(&self, data: &[T]) -> Vec<T> {
        let mut ours = vec![T::default(); data.len()];
        self.for_each_pair(|our, official| ours[our] = data[official]);
        ours
    }

    /// Numbers in our layout, brought into the official one.
    pub fn to_official<T: Copy + Default>(&self, data: &[T]) -> Vec<T> {
        let mut theirs = vec![T::default(); data.len()];
        self.for_each_pair(|our, official| theirs[official] = data[our]);
        theirs
    }

    /// Calls `visit(our element, official element)` for every element.
    fn for_each_pair(&self, mut visit: impl FnMut(usize, usize)) {
        let d = self.shape.dims();
        match self.role {
            // Everything with the output channel last: [rest.., c] against [c, rest..], the two spatial axes in front of
            // the input channel on our side and behind it on theirs.
            Role::Conv => {
                let (taps, cin, cout) = (d[0] * d[1], d[2], d[3]);
                for t in 0..taps {
                    for i in 0..cin {
                        for o in 0..cout {
                            visit((t * cin + i) * cout + o, (o * cin + i) * taps + t);
                        }
                    }
                }
            }
            Role::Depthwise | Role::Features | Role::Linear => {
                let c = self.shape.last();
                let rest = self.shape.rows();
                for r in 0..rest {
                    for o in 0..c {
                        visit(r * c + o, o * rest + r);
                    }
                }
            }
            Role::LogWeightNorm | Role::Vector | Role::Statistic => {
                for i in 0..self.shape.len() {
                    visit(i, i);
                }
            }
        }
    }
}

/// A stream of the noise generator for each name, so that a parameter's start does not depend on what is declared before it.
fn stream(name: &str) -> u32 {
    // FNV-1a.
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The noise step of all initial values: the last one, which no run reaches.
const INIT_STEP: u32 = u32::MAX;

/// Starts all parameters from a seed. States are called `<prefix>.<name>`.
pub fn initialise(
    device: &mut dyn Device,
    prefix: &str,
    params: &[ParamSpec],
    seed: u64,
) -> Result<(), DeviceError> {
    for spec in params {
        let name = format!("{prefix}.{}", spec.name);
        device.declare_state(&name, spec.shape)?;
        let data = match &spec.init {
            Init::Constant(value) => vec![*value as f32; spec.shape.len()],
            Init::Uniform(low, high) => {
                let mut data = vec![0.0; spec.shape.len()];
                philox::fill_uniform(&mut data, seed, stream(&name), INIT_STEP, 0);
                let (low, width) = (*low as f32, (*high - *low) as f32);
                data.iter_mut().for_each(|v| *v = low + width * *v);
                data
            }
            Init::LogNorm {
                weight,
                mask,
                shift,
            } => {
                let weight = device.read_state(&format!("{prefix}.{weight}"))?;
                log_norms(&weight, mask.as_deref(), spec.shape.len(), *shift)
            }
        };
        device.write_state(&name, &data)?;
    }
    Ok(())
}

/// `ln(norm + 0.01) + shift` for each output filter of a weight with `filters` filters on its last axis.
fn log_norms(weight: &[f32], mask: Option<&[f64]>, filters: usize, shift: f64) -> Vec<f32> {
    let mut squares = vec![0.0f64; filters];
    for (i, w) in weight.iter().enumerate() {
        let kept = mask.map_or(1.0, |m| m[i]);
        squares[i % filters] += (f64::from(*w) * kept).powi(2);
    }
    squares
        .iter()
        .map(|s| ((s.sqrt() + 0.01).ln() + shift) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(role: Role, shape: &[usize]) -> ParamSpec {
        ParamSpec {
            name: "w".into(),
            role,
            shape: Shape::new(shape),
            init: Init::Constant(0.0),
        }
    }

    #[test]
    fn layouts_go_there_and_back() {
        for s in [
            spec(Role::Conv, &[3, 2, 4, 5]),
            spec(Role::Depthwise, &[5, 5, 7]),
            spec(Role::Linear, &[3, 4]),
            spec(Role::Features, &[2, 3, 4]),
            spec(Role::LogWeightNorm, &[6]),
        ] {
            let data: Vec<u32> = (0..s.shape.len() as u32).collect();
            assert_eq!(s.to_official(&s.from_official(&data)), data);
            assert_eq!(s.official_shape().iter().product::<usize>(), data.len());
        }
    }

    #[test]
    fn a_convolution_weight_moves_its_output_channel_to_the_front() {
        let s = spec(Role::Conv, &[1, 2, 1, 2]);
        // [kw, cout] = [[a, b], [c, d]] becomes [cout, kw] = [[a, c], [b, d]].
        assert_eq!(s.to_official(&['a', 'b', 'c', 'd']), ['a', 'c', 'b', 'd']);
    }

    #[test]
    fn log_norms_are_per_output_filter() {
        let norms = log_norms(&[3.0, 0.0, 4.0, 1.0], None, 2, 0.5);
        assert!((f64::from(norms[0]) - (5.01f64.ln() + 0.5)).abs() < 1e-6);
        assert!((f64::from(norms[1]) - (1.01f64.ln() + 0.5)).abs() < 1e-6);
    }
}
