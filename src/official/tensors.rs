//! Named tensors of an official state dictionary, matched with the parameters that a network declares.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::torch::{Tensor, Value};
use crate::nn::params::ParamSpec;

/// How many names a message lists before it only counts.
const LISTED: usize = 8;

/// What the official code stores besides parameters and statistics: a second name of a plain convolution's weight, and a counter
/// that nothing reads.
fn is_redundant(name: &str) -> bool {
    name.ends_with(".weight_normalized") || name.ends_with(".num_batches_tracked")
}

/// The tensors of a state dictionary in its own order, without redundant ones.
pub(super) fn of_state_dict(dict: &Value) -> Option<Vec<(&str, &Tensor)>> {
    let entries = dict.entries()?.iter();
    let named = entries.map(|(name, value)| Some((name.as_str()?, value.as_tensor()?)));
    let all: Option<Vec<(&str, &Tensor)>> = named.collect();
    Some(
        all?.into_iter()
            .filter(|(name, _)| !is_redundant(name))
            .collect(),
    )
}

/// Brings every tensor into our layout. Every declared parameter must be there with its shape, and nothing else.
pub(super) fn matched(
    params: &[ParamSpec],
    tensors: &[(&str, &Tensor)],
) -> Result<Vec<Vec<f32>>, String> {
    let by_name: BTreeMap<&str, &Tensor> = tensors.iter().copied().collect();
    let mut surplus: BTreeSet<&str> = by_name.keys().copied().collect();
    let (mut missing, mut misshapen, mut matched) = (Vec::new(), Vec::new(), Vec::new());
    for spec in params {
        surplus.remove(spec.name.as_str());
        let Some(tensor) = by_name.get(spec.name.as_str()) else {
            missing.push(spec.name.clone());
            continue;
        };
        let want = spec.official_shape();
        match tensor.to_f32() {
            Some(data) if tensor.shape == want => matched.push(spec.from_official(&data)),
            _ => misshapen.push(format!(
                "{} is {:?} and should be {want:?}",
                spec.name, tensor.shape
            )),
        }
    }
    let surplus: Vec<String> = surplus.into_iter().map(str::to_owned).collect();
    let problems: Vec<String> = [
        ("missing", missing),
        ("surplus", surplus),
        ("wrong shape", misshapen),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what}: {}", list(&names)))
    .collect();
    if problems.is_empty() {
        return Ok(matched);
    }
    Err(format!(
        "the tensors are not those of the model: {}",
        problems.join("; ")
    ))
}

fn list(names: &[String]) -> String {
    let shown = names.len().min(LISTED);
    let more = match names.len() - shown {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{}{more}", names[..shown].join(", "))
}

/// The optimiser's tensors of one kind for every trained parameter, in our layout; `None` where the optimiser has not taken a step.
///
/// PyTorch numbers parameters in the order in which modules register them, which is the order of the state dictionary.
pub(super) fn moments(
    optimizer: &Value,
    kind: &str,
    params: &[ParamSpec],
    order: &[&str],
) -> Result<Option<Vec<Vec<f32>>>, String> {
    let Some(state) = optimizer
        .get("state")
        .and_then(Value::entries)
        .filter(|s| !s.is_empty())
    else {
        return Ok(None);
    };
    let by_index: BTreeMap<i64, &Value> = state
        .iter()
        .filter_map(|(k, v)| Some((k.as_int()?, v)))
        .collect();
    let trainable: BTreeMap<&str, &ParamSpec> = params
        .iter()
        .filter(|p| p.role.is_trainable())
        .map(|p| (p.name.as_str(), p))
        .collect();
    let mut found: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (index, name) in order
        .iter()
        .filter(|n| trainable.contains_key(*n))
        .enumerate()
    {
        let spec = trainable[name];
        let tensor = by_index
            .get(&(index as i64))
            .and_then(|v| v.get(kind))
            .and_then(Value::as_tensor);
        let tensor = tensor.ok_or_else(|| {
            format!("the optimiser has no `{kind}` of parameter {index} (`{name}`)")
        })?;
        match tensor.to_f32() {
            Some(data) if tensor.shape == spec.official_shape() => {
                found.insert(name, spec.from_official(&data));
            }
            _ => {
                return Err(format!(
                    "the optimiser's `{kind}` of parameter {index} is {:?}, and `{name}` is {:?}",
                    tensor.shape,
                    spec.official_shape()
                ));
            }
        }
    }
    let ours = params.iter().filter(|p| p.role.is_trainable());
    Ok(Some(
        ours.map(|p| found.remove(p.name.as_str()).unwrap_or_default())
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint::torch::Data;
    use crate::nn::params::{Init, Role};

    fn spec(name: &str, role: Role, shape: &[usize]) -> ParamSpec {
        ParamSpec {
            name: name.into(),
            role,
            shape: shape.into(),
            init: Init::Constant(0.0),
        }
    }

    fn tensor(shape: &[usize]) -> Tensor {
        let len = shape.iter().product::<usize>();
        Tensor {
            shape: shape.to_vec(),
            data: Arc::new(Data::F32((0..len).map(|i| i as f32).collect())),
        }
    }

    #[test]
    fn every_tensor_is_accounted_for() {
        let params = [
            spec("a.weight", Role::Linear, &[2, 3]),
            spec("b", Role::Vector, &[4]),
        ];
        let (good, bad) = (tensor(&[3, 2]), tensor(&[2, 3]));
        let vector = tensor(&[4]);
        assert!(matched(&params, &[("a.weight", &good), ("b", &vector)]).is_ok());
        let told = matched(&params, &[("a.weight", &bad), ("c", &vector)]).unwrap_err();
        assert!(
            told.contains("missing: b") && told.contains("surplus: c"),
            "{told}"
        );
        assert!(
            told.contains("a.weight is [2, 3] and should be [3, 2]"),
            "{told}"
        );
    }

    #[test]
    fn redundant_names_are_left_out() {
        assert!(is_redundant("x.weight_normalized") && is_redundant("bn.num_batches_tracked"));
        assert!(!is_redundant("x.weight"));
    }
}
