//! The first content of a buffer.

use std::path::Path;

use toml::Value;

use super::{Buffer, CaseError, Dtype, Fill, npy};
use crate::interp::cluster::Random;

/// A number of a list, as the bits of a dtype.
pub(crate) fn encode(value: &Value, dtype: Dtype) -> Option<Vec<u8>> {
    let float = match value {
        Value::Float(x) => Some(*x),
        // Integers up to 2^53 are exact; larger ones round like any literal.
        Value::Integer(n) => Some(*n as f64),
        _ => None,
    };
    if dtype.is_float() {
        return float.map(|x| encode_float(x, dtype));
    }
    let integer = match value {
        Value::Integer(n) => i128::from(*n),
        // Numbers of u64 beyond TOML's integers.
        Value::String(text) => text.parse::<i128>().ok()?,
        _ => return None,
    };
    encode_integer(integer, dtype)
}

fn encode_float(x: f64, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F64 => x.to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f64(x).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f64(x).to_le_bytes().to_vec(),
        _ => (x as f32).to_le_bytes().to_vec(),
    }
}

fn encode_integer(n: i128, dtype: Dtype) -> Option<Vec<u8>> {
    let bits = 8 * dtype.bytes() as u32;
    let (low, high) = match dtype {
        Dtype::S8 | Dtype::S16 | Dtype::S32 | Dtype::S64 => {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        }
        _ => (0, (1i128 << bits) - 1),
    };
    (low..=high)
        .contains(&n)
        .then(|| n.to_le_bytes()[..dtype.bytes()].to_vec())
}

/// The bytes that a buffer starts with, `limit` at most; none if it is to count as never written.
pub(crate) fn bytes(
    buffer: &Buffer,
    folder: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>, CaseError> {
    let bad = |message: String| CaseError::Invalid(format!("buffer {:?}: {message}", buffer.name));
    let dtype = buffer.dtype;
    let length = || {
        let length = buffer
            .length
            .ok_or_else(|| bad("length is missing".into()))?;
        let fits = length
            .checked_mul(dtype.bytes() as u64)
            .is_some_and(|bytes| bytes <= limit);
        if fits {
            Ok(length as usize)
        } else {
            Err(bad(format!(
                "length {length} is too large: {limit} bytes are left for it"
            )))
        }
    };
    let number = |x: f64| {
        if dtype.is_float() {
            Some(encode_float(x, dtype))
        } else {
            encode_integer(x as i128, dtype)
        }
    };
    let wrong = |x: f64| bad(format!("{x} does not fit {}", dtype.name()));
    let mut out = Vec::new();
    match buffer.fill {
        Fill::Zeros => out.resize(length()? * dtype.bytes(), 0),
        Fill::Poison => {
            length()?;
            return Ok(None);
        }
        Fill::Iota => {
            for i in 0..length()? {
                let x = buffer.start.unwrap_or(0.0) + buffer.step.unwrap_or(1.0) * i as f64;
                out.extend(number(x).ok_or_else(|| wrong(x))?);
            }
        }
        Fill::Uniform => {
            let (low, high) = (buffer.low.unwrap_or(0.0), buffer.high.unwrap_or(1.0));
            if !(low <= high && (high - low).is_finite()) {
                return Err(bad(format!("low {low} and high {high} are no range")));
            }
            let mut random = Random::new(buffer.seed.unwrap_or(0));
            for _ in 0..length()? {
                let unit = uniform(&mut random);
                // Whole numbers include the upper end.
                let x = if dtype.is_float() {
                    low + (high - low) * unit
                } else {
                    (low + (high - low + 1.0) * unit).floor()
                };
                out.extend(number(x).ok_or_else(|| wrong(x))?);
            }
        }
        Fill::Normal => {
            let (mean, std) = (buffer.mean.unwrap_or(0.0), buffer.std.unwrap_or(1.0));
            let mut random = Random::new(buffer.seed.unwrap_or(0));
            for _ in 0..length()? {
                // Box-Muller; 1 - u keeps the logarithm finite.
                let radius = (-2.0 * (1.0 - uniform(&mut random)).ln()).sqrt();
                let x = mean + std * radius * (std::f64::consts::TAU * uniform(&mut random)).cos();
                let x = if dtype.is_float() { x } else { x.round() };
                out.extend(number(x).ok_or_else(|| wrong(x))?);
            }
        }
        Fill::List => {
            for value in buffer
                .values
                .as_deref()
                .ok_or_else(|| bad("values are missing".into()))?
            {
                out.extend(
                    encode(value, dtype)
                        .ok_or_else(|| bad(format!("{value} does not fit {}", dtype.name())))?,
                );
            }
        }
        Fill::Npy => {
            let file = buffer
                .file
                .as_ref()
                .ok_or_else(|| bad("file is missing".into()))?;
            out = npy::read(&folder.join(file), dtype)?;
        }
    }
    if let Some(length) = buffer.length
        && out.len() as u64 != length * dtype.bytes() as u64
    {
        return Err(bad(format!(
            "length is {length}, but there are {} values",
            out.len() / dtype.bytes()
        )));
    }
    Ok(Some(out))
}

/// A number from 0 (included) to 1 (excluded).
fn uniform(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}
