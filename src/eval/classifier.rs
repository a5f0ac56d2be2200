//! A small convolutional classifier: labels for mode coverage, features for distances.
//!
//! `conv 3x3 -> swish -> pool`, twice, then a linear layer over all that is left and swish (the features), and a linear head. Stacked
//! sets have three labels of ten classes, one per colour channel: there the same network looks at each channel by itself, and an
//! image's features are those of its channels side by side.

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::config::{Config, DataSet};
use crate::data::{Dataset, ImageShape, read_f32, shuffled};
use crate::device::{Device, ProgramId};
use crate::nn::params::initialise;
use crate::nn::{Conv, Mode, Net};
use crate::ops::layout::{concat, reshape, slice};
use crate::ops::loss::{softmax, softmax_cross_entropy};
use crate::ops::optim::{AdamSettings, adam_clip};
use crate::ops::reduce::mean;
use crate::ops::resample::avg_pool2;
use crate::ops::unary::{affine, swish};
use crate::ops::{Recorder, Var};
use crate::program::Noise;
use crate::tape::Tape;
use crate::tensor::Shape;
use crate::train::{TrainError, restore};

const PREFIX: &str = "classifier";
/// Channels of the two convolutions.
const WIDTHS: [usize; 2] = [16, 32];
/// Features of an image, or of one of its stacked channels.
const FEATURES: usize = 64;
/// Images per step, and per pass of [`Classifier::apply`].
const BATCH: usize = 64;

/// How a classifier is trained.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// Steps of Adam.
    pub steps: u64,
    /// Its first learning rate; it falls linearly to a twentieth.
    pub learning_rate: f64,
    /// Chooses initial values and order.
    pub seed: u64,
}

impl Training {
    /// What measures samples is trained like this. The seed is not the run's: every run on a set is measured by the same classifier.
    pub const OF_MEASURES: Training = Training {
        steps: 800,
        learning_rate: 3e-3,
        seed: 0,
    };
}

/// What labels mean: `heads` labels of `classes` classes each; an item's label is the number with these digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Label parts.
    pub heads: usize,
    /// Classes of each.
    pub classes: usize,
}

impl Labels {
    /// Those of a configuration's set; `None` for one without. Stacked sets have a label for each colour channel, all others one.
    pub fn of(config: &Config, set: &Arc<dyn Dataset>) -> Option<Self> {
        let heads = match config.data.dataset {
            DataSet::StackedGlyphs | DataSet::StackedMnist => 3,
            _ => 1,
        };
        let classes = f64::from(set.classes()?).powf(1.0 / heads as f64);
        Some(Labels {
            heads,
            classes: classes.round() as usize,
        })
    }

    /// Modes in all: classes to the power of heads.
    pub fn modes(self) -> usize {
        self.classes.pow(self.heads as u32)
    }

    fn digits(self, label: usize) -> impl Iterator<Item = usize> {
        (0..self.heads)
            .rev()
            .map(move |place| label / self.classes.pow(place as u32) % self.classes)
    }
}

/// What a classifier says of images.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// `[n, features]`, row-major.
    pub features: Vec<f32>,
    /// The most likely label of each image.
    pub labels: Vec<usize>,
    /// The probability of the most likely class, averaged over heads, of each image.
    pub confidence: Vec<f32>,
}

/// A classifier on a device.
pub struct Classifier {
    labels: Labels,
    apply: ProgramId,
    shape: ImageShape,
    states: Vec<(String, Shape)>,
    /// The share of held-out label parts that it gets right.
    pub accuracy: f64,
}

/// Features `[n, features]` and logits `[n * heads, classes]`, both with an image's heads side by side.
fn network(net: &Net<'_>, x: Var, labels: Labels) -> (Var, Var) {
    let (tape, root) = (net.tape, net.root());
    let n = tape.shape(x)[0];
    let mut h = affine(tape, x, 2.0, -1.0);
    if labels.heads > 1 {
        let channels: Vec<Var> = (0..labels.heads).map(|c| slice(tape, h, 3, c, 1)).collect();
        h = concat(tape, &channels, 0);
    }
    for (i, width) in WIDTHS.into_iter().enumerate() {
        let layer = root.sub(format!("conv{i}"));
        h = avg_pool2(tape, swish(tape, layer.conv(h, Conv::same(width, 3))));
    }
    let shape = tape.shape(h);
    let rows = shape[0];
    let flat = reshape(tape, h, [rows, shape[1] * shape[2] * shape[3]]);
    let features = swish(tape, root.sub("features").linear(flat, FEATURES));
    let logits = root.sub("head").linear(features, labels.classes);
    let beside = |v: Var| match labels.heads {
        1 => v,
        heads => {
            let parts: Vec<Var> = (0..heads).map(|i| slice(tape, v, 0, i * n, n)).collect();
            concat(tape, &parts, 1)
        }
    };
    let logits = reshape(tape, beside(logits), [n * labels.heads, labels.classes]);
    (beside(features), logits)
}

impl Classifier {
    /// Trains on one part of a set and measures the accuracy on another.
    ///
    /// # Errors
    /// Sets without labels, and whatever the device or the files report.
    pub fn train(
        device: &mut dyn Device,
        train: &Arc<dyn Dataset>,
        held_out: &Arc<dyn Dataset>,
        labels: Labels,
        training: Training,
        mut progress: impl FnMut(u64, f64),
    ) -> Result<Self, TrainError> {
        let shape = train.shape();
        let image = Shape::new(&[BATCH, shape.height, shape.width, shape.channels]);
        let update = record_update(device, image, labels, training.seed)?;
        let update = device.prepare(update)?;
        let batches = (train.len() / BATCH).max(1) as u64;
        let mut order: (u64, Vec<u32>) = (u64::MAX, Vec::new());
        for step in 0..training.steps {
            let epoch = step / batches;
            if order.0 != epoch {
                order = (epoch, shuffled(train.len(), training.seed, epoch as u32));
            }
            let first = (step % batches) as usize * BATCH;
            let items: Vec<usize> = (0..BATCH)
                .map(|i| order.1[(first + i) % train.len()] as usize)
                .collect();
            device.feed(update, "x", &read_f32(&**train, &items)?)?;
            device.feed(update, "y", &one_hot(train, &items, labels)?)?;
            let decay = 1.0 - 0.95 * step as f64 / training.steps as f64;
            device.feed(update, "lr", &[(training.learning_rate * decay) as f32])?;
            device.feed(update, "t", &[(step + 1) as f32])?;
            device.run(update, Noise::default())?;
            if (step + 1) % 50 == 0 {
                progress(step + 1, f64::from(device.fetch(update, "loss")?[0]));
            }
        }
        device.release(update);
        let mut classifier = Self::prepared(device, shape, labels)?;
        classifier.accuracy = classifier.measure(device, held_out)?;
        Ok(classifier)
    }

    /// Takes up a trained classifier of images of this shape from a file that has [`Classifier::states`].
    ///
    /// # Errors
    /// A file without them, and whatever the device reports.
    pub fn load(
        device: &mut dyn Device,
        file: &Checkpoint,
        shape: ImageShape,
        labels: Labels,
    ) -> Result<Self, TrainError> {
        let classifier = Self::prepared(device, shape, labels)?;
        restore(device, file, &classifier.states())?;
        Ok(classifier)
    }

    /// Prepares the network's use. Its parameters are states of the device.
    fn prepared(
        device: &mut dyn Device,
        shape: ImageShape,
        labels: Labels,
    ) -> Result<Self, TrainError> {
        let (tape, states) = record_use(shape, labels);
        Ok(Classifier {
            labels,
            apply: device.prepare(tape.plan("classifier/apply"))?,
            shape,
            states,
            accuracy: 0.0,
        })
    }

    /// Names and shapes of its parameters, on the device it was made on.
    pub fn states(&self) -> Vec<(String, Shape)> {
        self.states.clone()
    }

    /// What labels mean.
    pub fn labels(&self) -> Labels {
        self.labels
    }

    /// The number of features of an image.
    pub fn feature_count(&self) -> usize {
        FEATURES * self.labels.heads
    }

    /// Labels, confidences and features of images `[n, h, w, c]` in `[0, 1]`; values outside are clamped, as they would be in a
    /// picture.
    pub fn apply(&self, device: &mut dyn Device, images: &[f32]) -> Result<Verdicts, TrainError> {
        let values = self.shape.values();
        let n = images.len() / values;
        let mut verdicts = Verdicts::default();
        for first in (0..n).step_by(BATCH) {
            let count = BATCH.min(n - first);
            let mut x = vec![0.0; BATCH * values];
            for (to, from) in x
                .iter_mut()
                .zip(&images[first * values..(first + count) * values])
            {
                *to = from.clamp(0.0, 1.0);
            }
            device.feed(self.apply, "x", &x)?;
            device.run(self.apply, Noise::default())?;
            let features = device.fetch(self.apply, "features")?;
            verdicts
                .features
                .extend(&features[..count * self.feature_count()]);
            let probabilities = device.fetch(self.apply, "probabilities")?;
            let Labels { heads, classes } = self.labels;
            for image in probabilities.chunks_exact(heads * classes).take(count) {
                let (mut label, mut confidence) = (0, 0.0);
                for head in image.chunks_exact(classes) {
                    let best = (0..classes)
                        .max_by(|&a, &b| head[a].total_cmp(&head[b]))
                        .unwrap_or(0);
                    label = label * classes + best;
                    confidence += head[best] / heads as f32;
                }
                verdicts.labels.push(label);
                verdicts.confidence.push(confidence);
            }
        }
        Ok(verdicts)
    }

    fn measure(
        &self,
        device: &mut dyn Device,
        held_out: &Arc<dyn Dataset>,
    ) -> Result<f64, TrainError> {
        let n = held_out.len().min(2000);
        let items: Vec<usize> = (0..n).collect();
        let verdicts = self.apply(device, &read_f32(&**held_out, &items)?)?;
        let mut right = 0;
        for (item, said) in items.iter().zip(&verdicts.labels) {
            let truth = label_of(held_out, *item)?;
            let pairs = self.labels.digits(truth).zip(self.labels.digits(*said));
            right += pairs.filter(|(a, b)| a == b).count();
        }
        Ok(right as f64 / (n * self.labels.heads) as f64)
    }
}

fn label_of(set: &Arc<dyn Dataset>, item: usize) -> Result<usize, TrainError> {
    set.label(item).map(|l| l as usize).ok_or_else(|| {
        TrainError::Mismatch("the set has no labels, and the classifier behind mode coverage and distances needs them".into())
    })
}

fn one_hot(
    set: &Arc<dyn Dataset>,
    items: &[usize],
    labels: Labels,
) -> Result<Vec<f32>, TrainError> {
    let width = labels.heads * labels.classes;
    let mut y = vec![0.0; items.len() * width];
    for (row, item) in items.iter().enumerate() {
        for (head, digit) in labels.digits(label_of(set, *item)?).enumerate() {
            y[row * width + head * labels.classes + digit] = 1.0;
        }
    }
    Ok(y)
}

/// Records the network's use on a batch, with the names and shapes of its parameters.
fn record_use(shape: ImageShape, labels: Labels) -> (Tape, Vec<(String, Shape)>) {
    let tape = Tape::new();
    let net = Net::new(&tape, PREFIX, Mode::Eval);
    let image = Shape::new(&[BATCH, shape.height, shape.width, shape.channels]);
    let (features, logits) = network(&net, tape.feed("x", image), labels);
    tape.output("features", features);
    tape.output("probabilities", softmax(&tape, logits));
    let params = net.params().into_iter();
    let states = params.map(|p| (net.state_name(&p.name), p.shape)).collect();
    drop(net);
    (tape, states)
}

/// Records a training step and starts its states.
fn record_update(
    device: &mut dyn Device,
    image: Shape,
    labels: Labels,
    seed: u64,
) -> Result<crate::program::Plan, TrainError> {
    let tape = Tape::new();
    let net = Net::new(&tape, PREFIX, Mode::Train);
    let (_, logits) = network(&net, tape.feed("x", image), labels);
    let target = tape.feed("y", tape.shape(logits));
    let loss = mean(&tape, softmax_cross_entropy(&tape, logits, target));
    let params = net.trainable();
    let vars: Vec<Var> = params.iter().map(|(_, v)| *v).collect();
    let grads = tape.grad(loss, &vars);
    let mut zeros = Vec::new();
    let mut moment = |kind: &str| -> Vec<Var> {
        let state = |(name, v): &(String, Var)| {
            let (name, shape) = (format!("{PREFIX}.{kind}.{name}"), tape.shape(*v));
            zeros.push((name.clone(), shape));
            tape.state(&name, shape)
        };
        params.iter().map(state).collect()
    };
    let (m, v) = (moment("exp_avg"), moment("exp_avg_sq"));
    let settings = AdamSettings {
        beta1: 0.9,
        weight_decay: 0.0,
        clip: None,
        ..AdamSettings::default()
    };
    let (lr, t) = (
        tape.feed("lr", Shape::SCALAR),
        tape.feed("t", Shape::SCALAR),
    );
    adam_clip(&tape, &vars, &grads, &m, &v, lr, t, settings);
    tape.output("loss", loss);
    initialise(device, PREFIX, &net.params(), seed)?;
    for (name, shape) in &zeros {
        device.declare_state(name, *shape)?;
        device.write_state(name, &vec![0.0; shape.len()])?;
    }
    Ok(tape.plan("classifier/train"))
}

#[cfg(test)]
mod tests {
    use super::Labels;

    #[test]
    fn digits_are_read_from_the_left() {
        let labels = Labels {
            heads: 3,
            classes: 10,
        };
        assert_eq!(labels.digits(407).collect::<Vec<_>>(), [4, 0, 7]);
        assert_eq!(labels.modes(), 1000);
    }
}
