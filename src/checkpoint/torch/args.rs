//! The `args` namespace of a published stage-1 checkpoint as a configuration of ours.

use super::value::Value;
use crate::config::{Config, ConfigError, DataSet, Decoder, Layer, Resolver, TrainVae, Vae};

/// A configuration made from published arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedArgs {
    /// Architecture and stage-1 training as published.
    pub config: Config,
    /// Arguments that have no counterpart here: paths, process ranks.
    pub ignored: Vec<String>,
}

/// What stands for an argument that older checkpoints lack (SPEC section 4, "Checkpoint").
const MIXTURES_WHEN_MISSING: i64 = 10;

/// Makes a configuration of the namespace that a published stage-1 checkpoint keeps under `args`.
///
/// # Errors
/// No namespace, a data set that is not known, a value of the wrong kind or out of range.
pub fn config_from_args(args: &Value) -> Result<PublishedArgs, ConfigError> {
    const ORIGIN: &str = "the checkpoint's args";
    let wrong = |problem: String| ConfigError::Invalid(vec![format!("{ORIGIN}: {problem}")]);
    let attributes = match args {
        Value::Object(object) => object.state.entries(),
        _ => None,
    };
    let attributes = attributes.ok_or_else(|| wrong("they are no namespace".into()))?;
    let mut layer = Layer::new(ORIGIN);
    let mut ignored = Vec::new();
    for (name, value) in attributes {
        let name = name
            .as_str()
            .ok_or_else(|| wrong("an argument's name is no text".into()))?;
        let section = match name {
            // Dealt with below, because they depend on each other.
            "dataset" | "num_mixture_dec" => continue,
            "num_x_bits" => "data",
            "seed" => "run",
            _ if has_key(Vae::SECTION.keys, name) => "vae",
            _ if has_key(TrainVae::SECTION.keys, name) => "train_vae",
            _ => {
                ignored.push(name.to_string());
                continue;
            }
        };
        let value = match value {
            Value::Bool(truth) => toml::Value::Boolean(*truth),
            Value::Int(number) => toml::Value::Integer(*number),
            Value::Float(number) => toml::Value::Float(*number),
            Value::Str(text) => toml::Value::String(text.clone()),
            _ => return Err(wrong(format!("{name} is no plain value"))),
        };
        layer.set(section, name, value);
    }
    let dataset = args
        .attribute("dataset")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (set, size, channels) =
        images_of(dataset).ok_or_else(|| wrong(format!("dataset {dataset:?} is not known")))?;
    let mixtures = match args.attribute("num_mixture_dec") {
        None => MIXTURES_WHEN_MISSING,
        Some(value) => value
            .as_int()
            .ok_or_else(|| wrong("num_mixture_dec is no whole number".into()))?,
    };
    // Published runs choose the distribution by the data set and, for colour, by the number of components.
    let (decoder, mixtures) = match (channels, mixtures) {
        (1, _) => (Decoder::Bernoulli, 1),
        (_, 1) => (Decoder::Normal, 1),
        _ => (Decoder::Dmol, mixtures),
    };
    layer.set("data", "dataset", set.name().into());
    layer.set("data", "size", size.into());
    layer.set("data", "channels", channels.into());
    layer.set("data", "binarize", (channels == 1).into());
    layer.set("data", "flip", (channels == 3).into());
    layer.set("vae", "decoder", decoder.name().into());
    layer.set("vae", "num_mixture_dec", mixtures.into());
    let config = Resolver::new(&Config::default())?
        .overlay(layer)?
        .finish()?;
    Ok(PublishedArgs { config, ignored })
}

fn has_key(keys: &[crate::config::schema::Key], name: &str) -> bool {
    keys.iter().any(|key| key.name == name)
}

/// Images of a published data set: which set of ours, side, channels. Names end in the side where there are several.
fn images_of(dataset: &str) -> Option<(DataSet, i64, i64)> {
    match dataset {
        "cifar10" => return Some((DataSet::Cifar10, 32, 3)),
        "mnist" => return Some((DataSet::Mnist, 32, 1)),
        "omniglot" => return Some((DataSet::Images, 32, 1)),
        "stacked_mnist" => return Some((DataSet::StackedMnist, 32, 3)),
        "ffhq" => return Some((DataSet::Images, 256, 3)),
        _ => {}
    }
    let (name, side) = dataset.rsplit_once('_')?;
    let known = [
        "celeba",
        "imagenet",
        "lsun_bedroom",
        "lsun_church",
        "lsun_tower",
    ]
    .contains(&name);
    side.parse()
        .ok()
        .filter(|_| known)
        .map(|side| (DataSet::Images, side, 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::torch::{Object, read};
    use crate::config::Arch;
    use crate::shared::require_shared;

    fn namespace(entries: &[(&str, Value)]) -> Value {
        let entries = entries
            .iter()
            .map(|(name, value)| (Value::Str((*name).into()), value.clone()))
            .collect();
        Value::Object(Box::new(Object {
            class: "argparse.Namespace".into(),
            args: Vec::new(),
            state: Value::Dict(entries),
        }))
    }

    #[test]
    fn official_arguments_become_a_configuration() {
        for (file, scales, groups, flows, decoder, mixtures) in [
            ("parity/A/checkpoint.pt", 2, 2, 0, Decoder::Normal, 1),
            ("parity/B/checkpoint_legacy.pt", 1, 3, 1, Decoder::Dmol, 10),
        ] {
            let Some(file) = require_shared(file) else {
                return;
            };
            let read = read(&file).unwrap();
            let made = config_from_args(read.get("args").unwrap()).unwrap();
            let (vae, train) = (&made.config.vae, &made.config.train_vae);
            assert_eq!(
                (vae.num_latent_scales, vae.num_groups_per_scale, vae.num_nf),
                (scales, groups, flows)
            );
            assert_eq!(
                (vae.decoder, vae.num_mixture_dec, vae.arch_instance),
                (decoder, mixtures, Arch::ResMbconv)
            );
            assert_eq!(
                (vae.num_latent_per_group, vae.num_channels_enc, vae.use_se),
                (4, 16, true)
            );
            assert_eq!(
                (train.batch_size, train.epochs, train.learning_rate),
                (4, 400, 0.01)
            );
            assert_eq!((made.config.data.size, made.config.data.channels), (32, 3));
            assert!(
                made.ignored.contains(&"master_address".to_string()),
                "{:?}",
                made.ignored
            );
            assert!(!made.ignored.contains(&"num_nf".to_string()));
        }
    }

    #[test]
    fn what_older_checkpoints_lack_takes_the_published_default() {
        let made =
            config_from_args(&namespace(&[("dataset", Value::Str("celeba_64".into()))])).unwrap();
        assert_eq!(
            (made.config.vae.decoder, made.config.vae.num_mixture_dec),
            (Decoder::Dmol, 10)
        );
        assert_eq!(
            (
                made.config.vae.ada_groups,
                made.config.vae.min_groups_per_scale
            ),
            (false, 1)
        );
        assert_eq!(made.config.data.size, 64);
        let made = config_from_args(&namespace(&[
            ("dataset", Value::Str("mnist".into())),
            ("num_mixture_dec", Value::Int(10)),
        ]))
        .unwrap();
        assert_eq!(
            (made.config.vae.decoder, made.config.data.binarize),
            (Decoder::Bernoulli, true)
        );
    }

    #[test]
    fn arguments_that_make_no_sense_are_told() {
        let set = ("dataset", Value::Str("cifar10".into()));
        for (args, told) in [
            (Value::None, "no namespace"),
            (namespace(&[]), "dataset \"\" is not known"),
            (
                namespace(&[("dataset", Value::Str("celeba_x".into()))]),
                "\"celeba_x\" is not known",
            ),
            (
                namespace(&[set.clone(), ("num_nf", Value::Str("two".into()))]),
                "`vae.num_nf` is \"two\"",
            ),
            (
                namespace(&[set.clone(), ("num_nf", Value::None)]),
                "num_nf is no plain value",
            ),
            (
                namespace(&[set.clone(), ("num_mixture_dec", Value::None)]),
                "num_mixture_dec is no whole",
            ),
            (
                namespace(&[set, ("arch_instance", Value::Str("res_mbconv9".into()))]),
                "one of res_mbconv, ",
            ),
        ] {
            let error = config_from_args(&args).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
