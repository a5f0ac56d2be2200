//! Whether chains in a lower precision are still the same chains: two devices, or one in two precisions, run them from the same weights with
//! the same noise, and what differs is set beside what chains differ by among each other.
//!
//! A device's own energies are off by what rounding does to the value, by much the same for all chains, and a constant moves no chain. So
//! where chains went is judged by the reference's energy at both ends, and the value by itself.

use serde::Serialize;

use super::programs::{Chains, EBM};
use super::sampler::Sampler;
use crate::checkpoint::Checkpoint;
use crate::config::FinalImage;
use crate::device::Device;
use crate::nn::params::initialise;
use crate::program::Noise;
use crate::program::gpu::Precision;
use crate::train::vae_programs::VAE;
use crate::train::{StateList, TrainError};

/// Parts of an image along each side, of each of which mean and deviation are features.
const PARTS: usize = 4;

/// How chains run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Langevin steps.
    pub steps: u32,
    /// Their size, eta.
    pub step_size: f64,
    /// Of the noise, and of weights that come from no checkpoint.
    pub seed: u64,
}

/// Chains as they stand after some steps.
#[derive(Clone, Debug)]
pub struct Look {
    /// Steps made.
    pub step: u32,
    /// Of each chain, as the device that ran it has it.
    pub energies: Vec<f64>,
    /// Of each chain, as another device has it that was shown the states; empty if none was.
    pub judged: Vec<f64>,
    /// Of each chain's image, `[n, features]`.
    pub features: Vec<f64>,
    /// All states, one after the other.
    pub state: Vec<f32>,
}

/// Starts chains from noise, runs them, and looks at them before the first step and after 1, 2, 4 and so on, and the last.
///
/// What another device saw, `others`, is judged by this one: their [`Look::judged`] are filled in.
///
/// # Errors
/// What the device or the checkpoint refuses.
pub fn looks(
    device: &mut dyn Device,
    chains: &Chains,
    weights: Option<&Checkpoint>,
    settings: Settings,
    others: &mut [Look],
) -> Result<Vec<Look>, TrainError> {
    let (vae, ebm) = chains.params();
    for (prefix, params) in [(VAE, &vae), (EBM, &ebm)] {
        match weights {
            Some(checkpoint) => StateList::restore_params(device, checkpoint, prefix, params)?,
            None => initialise(device, prefix, params, settings.seed)?,
        }
    }
    let sampler = Sampler::new(device, chains.clone())?;
    let noise = |step| Noise {
        seed: settings.seed,
        step,
        first_sample: 0,
    };
    sampler.start(device, noise(0))?;
    let mut looks = vec![look(device, &sampler, 0)?];
    let mut done = 0;
    while done < settings.steps {
        let next = (2 * done).clamp(1, settings.steps);
        sampler.advance(device, noise(done), next - done, settings.step_size)?;
        done = next;
        looks.push(look(device, &sampler, done)?);
    }
    for other in others {
        let mut rest = &other.state[..];
        for (name, shape) in chains.states() {
            let (own, behind) = rest.split_at(shape.len());
            device.write_state(&name, own)?;
            rest = behind;
        }
        other.judged = look(device, &sampler, other.step)?.energies;
    }
    sampler.release(device);
    Ok(looks)
}

fn look(device: &mut dyn Device, sampler: &Sampler, step: u32) -> Result<Look, TrainError> {
    let ends = sampler.images(device, FinalImage::Mean)?;
    let chains = sampler.chains();
    let shape = chains.model.image_shape(1);
    let mut state = Vec::new();
    for (name, _) in chains.states() {
        state.extend(device.read_state(&name)?);
    }
    let image = |pixels: &[f32]| features(pixels, [shape[1], shape[2], shape[3]]);
    Ok(Look {
        step,
        energies: ends.energies.iter().map(|e| f64::from(*e)).collect(),
        judged: Vec::new(),
        features: (ends.images.chunks_exact(shape.len()))
            .flat_map(image)
            .collect(),
        state,
    })
}

/// Mean and standard deviation of every channel in each of 4x4 parts of an image `[h, w, c]`, of fewer parts where it has fewer pixels.
fn features(pixels: &[f32], [h, w, c]: [usize; 3]) -> Vec<f64> {
    let [rows, columns] = [h, w].map(|extent| PARTS.min(extent));
    let mut features = Vec::with_capacity(2 * rows * columns * c);
    for part in 0..rows * columns {
        let (row, column) = (part / columns, part % columns);
        let lines = row * h / rows..(row + 1) * h / rows;
        let across = column * w / columns..(column + 1) * w / columns;
        for channel in 0..c {
            let pixel = |i: usize, j: usize| f64::from(pixels[(i * w + j) * c + channel]);
            let values = lines
                .clone()
                .flat_map(|i| across.clone().map(move |j| (i, j)));
            let values: Vec<f64> = values.map(|(i, j)| pixel(i, j)).collect();
            let (mean, deviation) = moments(&values);
            features.extend([mean, deviation]);
        }
    }
    features
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

fn rms(differences: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = differences.fold((0.0, 0.0), |(sum, n), d| (sum + d * d, n + 1.0));
    f64::sqrt(sum / f64::max(count, 1.0))
}

/// A difference in units of a spread; none is none, whatever the spread.
fn in_units(difference: f64, spread: f64) -> f64 {
    if difference == 0.0 {
        0.0
    } else {
        difference / spread
    }
}

/// What two runs of the same chains differ by after some steps. A spread is the standard deviation over the reference's chains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Apart {
    /// Steps made.
    pub step: u32,
    /// The reference's mean energy.
    pub energy: f64,
    /// The spread of its energies.
    pub energy_spread: f64,
    /// How far the mean energy of where the chains went is off, in spreads; the reference's energy at both ends.
    pub energy_bias: f64,
    /// How far the tested device's own energies are off at the same states, over the energies' size, both root mean square.
    pub value: f64,
    /// How far the mean of an image feature is off, in its spread: the worst of all features.
    pub feature_bias: f64,
    /// How far the reference's chains are from where they started, root mean square per coordinate.
    pub moved: f64,
    /// How far the others are from the reference's, likewise.
    pub apart: f64,
    /// `apart` over `moved`.
    pub drift: f64,
}

/// Compares looks at the same steps.
///
/// # Panics
/// If the looks are not of the same chains at the same steps, or the reference has not judged the others.
pub fn compare(reference: &[Look], tested: &[Look]) -> Vec<Apart> {
    assert_eq!(reference.len(), tested.len(), "looks at the same steps");
    let start = &reference[0].state;
    let pairs = reference.iter().zip(tested);
    pairs.map(|(r, t)| apart(start, r, t)).collect()
}

fn apart(start: &[f32], r: &Look, t: &Look) -> Apart {
    assert_eq!((r.step, r.state.len()), (t.step, t.state.len()));
    let chains = r.energies.len();
    let (energy, energy_spread) = moments(&r.energies);
    assert_eq!(t.judged.len(), chains, "judged by the reference");
    let (mean, _) = moments(&t.judged);
    let wrong = rms(t.judged.iter().zip(&t.energies).map(|(r, t)| t - r));
    let size = rms(t.judged.iter().copied());
    let count = r.features.len() / chains;
    let feature = |look: &Look, f: usize| -> (f64, f64) {
        let values: Vec<f64> = look
            .features
            .iter()
            .skip(f)
            .step_by(count)
            .copied()
            .collect();
        moments(&values)
    };
    let biases = (0..count).map(|f| {
        let ((r, spread), (t, _)) = (feature(r, f), feature(t, f));
        in_units((t - r).abs(), spread)
    });
    let distance =
        |a: &[f32], b: &[f32]| rms(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let (moved, apart) = (distance(&r.state, start), distance(&t.state, &r.state));
    Apart {
        step: r.step,
        energy,
        energy_spread,
        energy_bias: in_units((mean - energy).abs(), energy_spread),
        value: in_units(wrong, size),
        // A number that is none is the worst of all.
        feature_bias: biases.fold(0.0, |worst, b| if b <= worst { worst } else { b }),
        moved,
        apart,
        drift: in_units(apart, moved),
    }
}

/// The most that chains may be off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Of [`Apart::energy_bias`] and [`Apart::feature_bias`].
    pub bias: f64,
    /// Of [`Apart::drift`].
    pub drift: f64,
    /// Of [`Apart::value`].
    pub value: f64,
}

impl Bounds {
    /// For chains whose products are of such factors.
    ///
    /// A mean that is off by a tenth of the spread is told from none, at the usual 5%, with 770 chains on either side: in bf16 neither means
    /// nor paths may be off by more. tf32 has three bits more, f32 sixteen: there the bound is a hundredth of a tenth, for sums in another
    /// order. The value itself is a product of rounded factors: four units in the last place of a factor, as for a single product.
    pub fn of(precision: Precision) -> Self {
        let (bound, bits) = match precision {
            Precision::F32 => (1e-3, 17),
            Precision::Tf32 => (0.1 / 8.0, 10),
            Precision::Bf16 => (0.1, 7),
        };
        Bounds {
            bias: bound,
            drift: bound,
            value: 4.0 * 2f64.powi(-bits),
        }
    }

    /// Whether chains stay within them; what is not a number does not.
    pub fn hold(&self, apart: &Apart) -> bool {
        apart.energy_bias <= self.bias
            && apart.feature_bias <= self.bias
            && apart.value <= self.value
            && apart.drift <= self.drift
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn look_at(step: u32, energies: &[f64], features: &[f64], state: &[f32]) -> Look {
        Look {
            step,
            energies: energies.to_vec(),
            judged: energies.to_vec(),
            features: features.to_vec(),
            state: state.to_vec(),
        }
    }

    #[test]
    fn differences_are_in_spreads_and_in_distances_moved() {
        let start = look_at(0, &[1.0, 3.0], &[0.0, 5.0, 2.0, 5.0], &[0.0, 0.0]);
        let reference = look_at(1, &[1.0, 3.0], &[0.0, 5.0, 2.0, 5.0], &[3.0, 4.0]);
        let mut tested = look_at(1, &[1.5, 3.5], &[0.0, 5.0, 3.0, 5.0], &[3.0, 4.5]);
        // Its own energies are off by a quarter at states where they are 1.5 and 3.5.
        tested.energies = vec![1.75, 3.25];
        let aparts = compare(&[start.clone(), reference], &[start, tested]);
        let still = aparts[0];
        assert_eq!(
            (still.energy_bias, still.feature_bias, still.drift),
            (0.0, 0.0, 0.0)
        );
        let moved = aparts[1];
        assert_eq!((moved.energy, moved.energy_spread), (2.0, 1.0));
        // Means 2 and 2.5; the first feature's 1 and 1.5, the second's the same.
        assert_eq!((moved.energy_bias, moved.feature_bias), (0.5, 0.5));
        let value = 0.25 / f64::sqrt((1.5 * 1.5 + 3.5 * 3.5) / 2.0);
        assert!((moved.value - value).abs() < 1e-12, "{moved:?}");
        assert!((moved.drift - 0.1).abs() < 1e-12, "{moved:?}");
    }

    #[test]
    fn what_is_not_a_number_is_outside_any_bound() {
        let good = look_at(0, &[1.0, 3.0], &[0.0, 2.0], &[0.0, 1.0]);
        let bounds = Bounds::of(Precision::Bf16);
        assert!(bounds.hold(&compare(from_ref(&good), from_ref(&good))[0]));
        for (energies, features, state) in [
            ([1.0, f64::NAN], [0.0, 2.0], [0.0, 1.0]),
            ([1.0, 3.0], [f64::NAN, 2.0], [0.0, 1.0]),
            ([1.0, 3.0], [0.0, 2.0], [0.0, f32::INFINITY]),
            // A feature without spread may not differ at all.
            ([1.0, 3.0], [0.0, 3.0], [0.0, 1.0]),
        ] {
            let bad = look_at(0, &energies, &features, &state);
            assert!(!bounds.hold(&compare(from_ref(&good), &[bad])[0]));
        }
    }

    #[test]
    fn features_are_of_parts_and_channels() {
        // 8x8 with two channels: the first counts rows of parts, the second alternates between 0 and 2.
        let pixels: Vec<f32> = (0..64)
            .flat_map(|p| [(p / 8 / 2) as f32, (2 * (p % 2)) as f32])
            .collect();
        let features = features(&pixels, [8, 8, 2]);
        assert_eq!(features.len(), 4 * 4 * 2 * 2);
        assert_eq!(features[..4], [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(features[features.len() - 4..], [3.0, 0.0, 1.0, 1.0]);
        assert_eq!(
            super::features(&[0.5, 1.5], [1, 2, 1]),
            [0.5, 0.0, 1.5, 0.0]
        );
    }
}
