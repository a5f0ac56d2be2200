//! The time of a step by part of the model.
//!
//! A node belongs to the part that its label names; nodes outside of every part are the decoder's output distribution and the
//! objective. Nodes are timed one by one, which on a GPU takes longer than the graph of all of them: the parts are their shares of the
//! whole step as it runs.

use serde::Serialize;

use super::{Bench, What};
use crate::ops::{guard, langevin, noise, optim, spectral};
use crate::profile::measure::Timed;
use crate::train::TrainError;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Encoder, forward.
    EncoderForward,
    /// Encoder, backward.
    EncoderBackward,
    /// Decoder with its prior and its densities, forward.
    DecoderForward,
    /// The same backward.
    DecoderBackward,
    /// Energy network, forward.
    EnergyForward,
    /// Energy network, backward.
    EnergyBackward,
    /// The Langevin update with its noise, or the optimiser with the spectral regularisation.
    Update,
}

impl Part {
    /// As tables and reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Part::EncoderForward => "encoder forward",
            Part::EncoderBackward => "encoder backward",
            Part::DecoderForward => "decoder forward",
            Part::DecoderBackward => "decoder backward",
            Part::EnergyForward => "energy forward",
            Part::EnergyBackward => "energy backward",
            Part::Update => "update",
        }
    }
}

/// Roots of the names of the networks' places (`nvae`, `energy`).
const ENCODER: [&str; 5] = ["stem", "pre_process", "enc_tower", "enc0", "enc_sampler"];
const ENERGY: [&str; 3] = ["conv1", "blocks", "linear"];
const DECODER: [&str; 7] = [
    "group",
    "dec_tower",
    "dec_sampler",
    "post_process",
    "image_conditional",
    "prior",
    "nf_cells",
];

/// The part of a node. Where its label names none, it belongs to the decoder, or to the energy network if `energy_alone`.
pub fn part(node: &Timed, energy_alone: bool) -> Part {
    let updates = [
        langevin::KERNELS,
        optim::KERNELS,
        spectral::KERNELS,
        guard::KERNELS,
        noise::KERNELS,
    ];
    if updates.iter().any(|k| k.contains(&node.kernel)) {
        return Part::Update;
    }
    let (backward, place) = match node.label.strip_prefix("grad:") {
        Some(place) => (true, place),
        None => (false, node.label.as_str()),
    };
    let root = place.split('.').next().unwrap_or_default();
    let energy = ENERGY.contains(&root) || (energy_alone && !DECODER.contains(&root));
    match (energy, ENCODER.contains(&root), backward) {
        (true, _, false) => Part::EnergyForward,
        (true, _, true) => Part::EnergyBackward,
        (false, true, false) => Part::EncoderForward,
        (false, true, true) => Part::EncoderBackward,
        (false, false, false) => Part::DecoderForward,
        (false, false, true) => Part::DecoderBackward,
    }
}

/// What one part takes of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartTime {
    /// [`Part::name`].
    pub part: &'static str,
    /// Milliseconds of the step as it runs.
    pub ms: f64,
}

/// A step by parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Split {
    /// The parts that the step has.
    pub parts: Vec<PartTime>,
    /// Milliseconds of all nodes launched one by one, of which the parts are scaled to the step.
    pub nodes_ms: f64,
}

impl Split {
    /// The same shares of another whole.
    pub fn scaled(&self, ms: f64) -> Split {
        let total: f64 = self.parts.iter().map(|p| p.ms).sum();
        let scale = if total > 0.0 { ms / total } else { 0.0 };
        let parts = self.parts.iter().map(|p| PartTime {
            ms: p.ms * scale,
            ..p.clone()
        });
        Split {
            parts: parts.collect(),
            nodes_ms: self.nodes_ms,
        }
    }
}

/// Divides `ms` among the parts as their nodes' times are to each other.
pub fn split(nodes: &[Timed], energy_alone: bool, ms: f64) -> Split {
    let mut sums = std::collections::BTreeMap::new();
    let mut total = 0.0;
    for node in nodes {
        *sums.entry(part(node, energy_alone)).or_insert(0.0) += node.seconds;
        total += node.seconds;
    }
    // Nodes that take no measurable time give shares of nothing.
    let scale = if total > 0.0 { ms / total } else { 0.0 };
    Split {
        parts: (sums.into_iter())
            .map(|(part, seconds)| PartTime {
                part: part.name(),
                ms: seconds * scale,
            })
            .collect(),
        nodes_ms: total * 1e3,
    }
}

impl Bench<'_> {
    /// A step of so many milliseconds by parts. Of the energy update, which decodes its negatives where no node is timed, that is
    /// found as what the update takes less when the chains stand still.
    ///
    /// # Errors
    /// As [`Bench::step`].
    pub fn split(&mut self, what: What, ms: f64, seconds: f64) -> Result<Split, TrainError> {
        let nodes = self.nodes(what)?;
        let energy_alone = what == What::Energy || self.moves_pixels();
        if what != What::Energy {
            return Ok(split(&nodes, energy_alone, ms));
        }
        let still = self.update_alone(seconds)?.min(ms);
        let mut divided = split(&nodes, energy_alone, still);
        let decoding = PartTime {
            part: Part::DecoderForward.name(),
            ms: ms - still,
        };
        divided.parts.insert(0, decoding);
        Ok(divided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kernel: &'static str, label: &str, seconds: f64) -> Timed {
        Timed {
            kernel,
            label: label.into(),
            seconds,
            flops: 0.0,
            bytes: 0.0,
        }
    }

    #[test]
    fn parts_add_up_to_the_step() {
        let nodes = [
            node("mbconv_fprop", "dec_tower.4._ops.0.conv", 1e-3),
            node("normal_sample", "", 1e-3),
            node("conv2d_dgrad", "grad:post_process.0.skip.1", 2e-3),
            node("conv2d_fprop", "blocks.3.conv1", 3e-3),
            node("conv2d_dgrad", "grad:conv1", 2e-3),
            node("langevin_update", "", 1e-3),
        ];
        let whole = split(&nodes, false, 5.0);
        let named: Vec<(&str, f64)> = whole.parts.iter().map(|p| (p.part, p.ms)).collect();
        let expected = [
            ("decoder forward", 1.0),
            ("decoder backward", 1.0),
            ("energy forward", 1.5),
            ("energy backward", 1.0),
            ("update", 0.5),
        ];
        assert_eq!(named.len(), expected.len());
        for ((name, ms), (want, of)) in named.iter().zip(expected) {
            assert!(*name == want && (ms - of).abs() < 1e-9, "{named:?}");
        }
        assert!((whole.nodes_ms - 10.0).abs() < 1e-9);
    }

    #[test]
    fn what_no_label_names_is_the_energy_networks_where_it_is_alone() {
        let concat = node("concat", "", 1.0);
        assert_eq!(part(&concat, true), Part::EnergyForward);
        assert_eq!(part(&concat, false), Part::DecoderForward);
        let stem = node("conv2d_wgrad", "grad:stem", 1.0);
        assert_eq!(part(&stem, false), Part::EncoderBackward);
        assert_eq!(part(&node("adamax", "", 1.0), false), Part::Update);
    }

    #[test]
    fn nodes_without_time_take_nothing() {
        let whole = split(&[node("concat", "", 0.0)], false, 5.0);
        assert_eq!(whole.parts[0].ms, 0.0);
    }
}
