//! The networks of a case, from its settings and weights; nothing about them is assumed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::ParityError;
use super::array::Array;
use super::file::{json, state_dict};
use crate::config::{Arch, Decoder, Ebm, EnergyNet, Vae};
use crate::energy::energy;
use crate::nn::params::{ParamSpec, Role};
use crate::nn::{Mode, Net};
use crate::nvae::Nvae;
use crate::ops::fill;
use crate::tape::Tape;
use crate::tensor::Shape;

/// The VAE of a case with its weights.
pub(super) struct VaeCase {
    pub model: Nvae,
    /// Bits per colour.
    pub bits: u32,
    /// The parameters and statistics of the whole network.
    pub params: Vec<ParamSpec>,
    /// The official state dict.
    pub weights: BTreeMap<String, Array>,
}

/// An energy network with its weights.
pub(super) struct EbmCase {
    pub ebm: Ebm,
    pub weights: BTreeMap<String, Array>,
}

#[derive(serde::Deserialize)]
struct Layers {
    conv_layers: BTreeSet<String>,
    bn_layers: BTreeSet<String>,
    groups_per_scale: Vec<usize>,
    n_params: usize,
}

/// The settings of the official program.
struct Args<'a> {
    path: &'a Path,
    values: Value,
}

impl Args<'_> {
    fn get(&self, name: &str, default: Option<Value>) -> Result<Value, ParityError> {
        let found = self.values.get(name).cloned().or(default);
        found.ok_or_else(|| self.error(format!("`{name}` is missing")))
    }

    fn error(&self, message: String) -> ParityError {
        ParityError::malformed(self.path, message)
    }

    fn count(&self, name: &str, default: Option<u64>) -> Result<usize, ParityError> {
        let value = self.get(name, default.map(Value::from))?;
        let count = value.as_u64();
        count
            .map(|n| n as usize)
            .ok_or_else(|| self.error(format!("`{name}` is {value}, not a count")))
    }

    fn flag(&self, name: &str, default: Option<bool>) -> Result<bool, ParityError> {
        let value = self.get(name, default.map(Value::from))?;
        (value.as_bool()).ok_or_else(|| self.error(format!("`{name}` is {value}, not a flag")))
    }

    fn text(&self, name: &str) -> Result<String, ParityError> {
        let value = self.get(name, None)?;
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| self.error(format!("`{name}` is {value}, not a text")))
    }
}

impl VaeCase {
    /// Reads `args.json`, `vae.safetensors` and `layers.json` of a case and holds them against each other.
    pub fn open(folder: &Path) -> Result<Self, ParityError> {
        let path = folder.join("args.json");
        let args = Args {
            values: json(&path)?,
            path: &path,
        };
        let weights_path = folder.join("vae.safetensors");
        let weights = state_dict(&weights_path)?;
        let config = vae_config(&args)?;
        let stem = weights.get("stem.weight").map(|w| &w.shape[..]);
        let Some(&[_, channels, _, _]) = stem else {
            return Err(ParityError::malformed(
                &weights_path,
                "there is no convolution `stem.weight`",
            ));
        };
        // The features at the top have the images' size, halved once for each block and each scale but one.
        let halvings = config.num_preprocess_blocks + config.num_latent_scales - 1;
        let top = weights.get("prior_ftr0").map(|w| &w.shape[..]);
        let Some(&[_, side, _]) = top else {
            return Err(ParityError::malformed(
                &weights_path,
                "there are no features `prior_ftr0`",
            ));
        };
        let bits = u32::try_from(args.count("num_x_bits", Some(8))?)
            .map_err(|_| args.error("`num_x_bits` is too large".into()))?;
        let mut case = VaeCase {
            model: Nvae::new(config, side << halvings, channels),
            bits,
            params: Vec::new(),
            weights,
        };
        case.params = case.check_structure(&weights_path, &folder.join("layers.json"))?;
        Ok(case)
    }

    /// Holds the weights and the list of layers against the network as this build describes it; returns its parameters.
    fn check_structure(
        &self,
        weights: &Path,
        layers_path: &Path,
    ) -> Result<Vec<ParamSpec>, ParityError> {
        let tape = Tape::unfused();
        let net = Net::new(&tape, "vae", Mode::Eval);
        let noise: Vec<_> = (self.model.groups().iter())
            .map(|g| fill(&tape, g.shape(1), 0.0))
            .collect();
        let x = fill(&tape, self.model.image_shape(1), 0.0);
        self.model.forward(&net, x, &noise);
        let params = net.params();
        check_names(weights, &params, &self.weights)?;
        let layers: Layers = json(layers_path)?;
        let differ = |what: &str, ours: &BTreeSet<String>, theirs: &BTreeSet<String>| {
            let list: Vec<_> = ours.symmetric_difference(theirs).cloned().collect();
            match list.is_empty() {
                true => Ok(()),
                false => Err(ParityError::malformed(
                    layers_path,
                    format!(
                        "{what} of this build and of the case differ by {}",
                        list.join(", ")
                    ),
                )),
            }
        };
        let convs = net.effective_weights().into_iter().map(|(name, _)| name);
        differ("conv_layers", &convs.collect(), &layers.conv_layers)?;
        let norms = params.iter().filter_map(|p| {
            let layer = p.name.strip_suffix(".running_mean")?;
            Some(layer.to_owned())
        });
        differ("bn_layers", &norms.collect(), &layers.bn_layers)?;
        let trained = params.iter().filter(|p| p.role != Role::Statistic);
        let n_params: usize = trained.map(|p| p.shape.len()).sum();
        if (self.model.groups_per_scale(), n_params)
            != (layers.groups_per_scale.clone(), layers.n_params)
        {
            return Err(ParityError::malformed(
                layers_path,
                format!(
                    "this build has {:?} groups per scale and {n_params} parameters, the case {:?} and {}",
                    self.model.groups_per_scale(),
                    layers.groups_per_scale,
                    layers.n_params
                ),
            ));
        }
        Ok(params)
    }
}

/// The weights must be those of the network: none missing, none left over.
fn check_names(
    path: &Path,
    params: &[ParamSpec],
    weights: &BTreeMap<String, Array>,
) -> Result<(), ParityError> {
    let known: BTreeSet<&str> = params.iter().map(|p| p.name.as_str()).collect();
    // A counter that nothing reads, and the second name of the weights of inverted residuals (trap 8).
    let ignored =
        |name: &str| name.ends_with(".num_batches_tracked") || name.ends_with(".weight_normalized");
    let surplus = weights
        .keys()
        .find(|name| !known.contains(name.as_str()) && !ignored(name));
    let missing = known.iter().find(|name| !weights.contains_key(**name));
    match (surplus, missing) {
        (None, None) => Ok(()),
        (Some(name), _) => Err(ParityError::malformed(
            path,
            format!("this build's network has no `{name}`"),
        )),
        (_, Some(name)) => Err(ParityError::NoWeight((*name).to_owned())),
    }
}

fn vae_config(args: &Args<'_>) -> Result<Vae, ParityError> {
    let dataset = args.text("dataset")?;
    let mixtures = args.count("num_mixture_dec", Some(10))?;
    let decoder = match (dataset.as_str(), mixtures) {
        ("mnist" | "omniglot", _) => Decoder::Bernoulli,
        (_, 1) => Decoder::Normal,
        _ => Decoder::Dmol,
    };
    let arch = Value::from(args.text("arch_instance")?);
    let arch_instance: Arch =
        serde_json::from_value(arch).map_err(|e| args.error(format!("`arch_instance`: {e}")))?;
    Ok(Vae {
        num_latent_scales: args.count("num_latent_scales", None)?,
        num_groups_per_scale: args.count("num_groups_per_scale", None)?,
        num_latent_per_group: args.count("num_latent_per_group", None)?,
        ada_groups: args.flag("ada_groups", Some(false))?,
        min_groups_per_scale: args.count("min_groups_per_scale", Some(1))?,
        num_channels_enc: args.count("num_channels_enc", None)?,
        num_channels_dec: args.count("num_channels_dec", None)?,
        num_preprocess_blocks: args.count("num_preprocess_blocks", None)?,
        num_preprocess_cells: args.count("num_preprocess_cells", None)?,
        num_cell_per_cond_enc: args.count("num_cell_per_cond_enc", None)?,
        num_postprocess_blocks: args.count("num_postprocess_blocks", None)?,
        num_postprocess_cells: args.count("num_postprocess_cells", None)?,
        num_cell_per_cond_dec: args.count("num_cell_per_cond_dec", None)?,
        decoder,
        num_mixture_dec: mixtures,
        num_nf: args.count("num_nf", Some(0))?,
        arch_instance,
        use_se: args.flag("use_se", None)?,
        res_dist: args.flag("res_dist", None)?,
    })
}

impl EbmCase {
    /// Reads `ebm.safetensors` of a case.
    pub fn open(folder: &Path) -> Result<Self, ParityError> {
        let path = folder.join("ebm.safetensors");
        EbmCase::new(&path, state_dict(&path)?)
    }

    /// The network that weights of `path` belong to, told by their number of blocks and their width.
    pub fn new(path: &Path, weights: BTreeMap<String, Array>) -> Result<Self, ParityError> {
        let malformed = |message: String| ParityError::malformed(path, message);
        let blocks = (0..)
            .take_while(|i| weights.contains_key(&format!("blocks.{i}.conv1.weight")))
            .count();
        let network = match blocks {
            4 => EnergyNet::Mnist,
            6 => EnergyNet::Cifar32,
            8 => EnergyNet::Celeba64,
            10 => EnergyNet::Lsun64,
            12 => EnergyNet::Celeba256,
            n => return Err(malformed(format!("no energy network has {n} blocks"))),
        };
        let first = weights.get("conv1.weight").map(|w| &w.shape[..]);
        let Some(&[n_channel, channels, _, _]) = first else {
            return Err(malformed("there is no convolution `conv1.weight`".into()));
        };
        let case = EbmCase {
            ebm: Ebm {
                network,
                n_channel,
                ..Ebm::default()
            },
            weights,
        };
        let side = 1 << network.halvings();
        let images = Shape::new(&[1, side, side, channels]);
        check_names(path, &case.params(images), &case.weights)?;
        Ok(case)
    }

    /// The network's parameters.
    fn params(&self, images: Shape) -> Vec<ParamSpec> {
        let tape = Tape::new();
        let net = Net::new(&tape, "ebm", Mode::Eval);
        energy(&self.ebm, &net, fill(&tape, images, 0.0));
        net.params()
    }
}
