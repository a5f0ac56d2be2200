//! How far two contents of a buffer are apart.

use std::fmt;

use serde::Serialize;

use super::Dtype;

/// What differs between the simulator and a GPU in one buffer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the buffer.
    pub buffer: String,
    /// Elements.
    pub elements: usize,
    /// Elements whose bits differ; two NaNs count as equal.
    pub differing: usize,
    /// Elements of which one is infinite or NaN and the other something else.
    pub non_finite: usize,
    /// The largest finite difference, if there is one.
    pub largest: Option<Largest>,
}

/// Where two values are furthest apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Largest {
    /// Index of the element.
    pub index: usize,
    /// The simulator's value.
    pub simulator: f64,
    /// The GPU's value.
    pub gpu: f64,
    /// Their distance.
    pub difference: f64,
    /// That over the GPU's magnitude; infinite if that is zero.
    pub relative: f64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, n) = (&self.buffer, self.elements);
        if self.differing == 0 {
            return write!(f, "{name}: equal in all {n} elements");
        }
        write!(f, "{name}: {} of {n} elements differ", self.differing)?;
        if self.non_finite > 0 {
            write!(f, ", {} not finite", self.non_finite)?;
        }
        if let Some(at) = &self.largest {
            write!(
                f,
                ", most at [{}]: {:e} (simulator), {:e} (GPU), apart by {:e} or {:.2e} relative",
                at.index, at.simulator, at.gpu, at.difference, at.relative
            )?;
        }
        Ok(())
    }
}

/// The value of an element; 64-bit integers round beyond 2^53.
fn value(bytes: &[u8], dtype: Dtype) -> f64 {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    let signed = (bits << (64 - 8 * bytes.len()) as u32) as i64 >> (64 - 8 * bytes.len()) as u32;
    match dtype {
        Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
        Dtype::F64 => f64::from_bits(bits),
        Dtype::F16 => half::f16::from_bits(bits as u16).to_f64(),
        Dtype::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
        Dtype::S8 | Dtype::S16 | Dtype::S32 | Dtype::S64 => signed as f64,
        Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => bits as f64,
    }
}

/// Compares two contents of the same length.
pub(super) fn differences(name: &str, dtype: Dtype, simulator: &[u8], gpu: &[u8]) -> Difference {
    let bytes = dtype.bytes();
    let mut found = Difference {
        buffer: name.to_owned(),
        elements: simulator.len() / bytes,
        differing: 0,
        non_finite: 0,
        largest: None,
    };
    for (index, (a, b)) in simulator
        .chunks_exact(bytes)
        .zip(gpu.chunks_exact(bytes))
        .enumerate()
    {
        let (x, y) = (value(a, dtype), value(b, dtype));
        if a == b || (x.is_nan() && y.is_nan()) {
            continue;
        }
        found.differing += 1;
        if !(x.is_finite() && y.is_finite()) {
            found.non_finite += 1;
            continue;
        }
        let difference = (x - y).abs();
        if found
            .largest
            .as_ref()
            .is_none_or(|at| difference > at.difference)
        {
            found.largest = Some(Largest {
                index,
                simulator: x,
                gpu: y,
                difference,
                relative: difference / y.abs(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn the_largest_difference_is_found_and_nan_counted_apart() {
        let a = floats(&[1.0, 2.0, f32::NAN, 4.0, f32::NAN]);
        let b = floats(&[1.0, 2.5, f32::NAN, 4.125, 5.0]);
        let found = differences("y", Dtype::F32, &a, &b);
        assert_eq!((found.differing, found.non_finite), (3, 1));
        let largest = found.largest.clone().expect("a difference");
        assert_eq!((largest.index, largest.difference), (1, 0.5));
        assert_eq!(largest.relative, 0.2);
        assert!(
            found
                .to_string()
                .contains("3 of 5 elements differ, 1 not finite, most at [1]")
        );
        assert_eq!(differences("y", Dtype::F32, &a, &a).differing, 0);
    }

    #[test]
    fn every_type_has_its_value() {
        assert_eq!(value(&[0xff], Dtype::S8), -1.0);
        assert_eq!(value(&[0xff], Dtype::U8), 255.0);
        assert_eq!(value(&[0x80, 0xbf], Dtype::BF16), -1.0);
        assert_eq!(value(&[0x00, 0x3c], Dtype::F16), 1.0);
        assert_eq!(value(&[0xfe, 0xff], Dtype::S16), -2.0);
        assert_eq!(value(&(-3i64).to_le_bytes(), Dtype::S64), -3.0);
        assert_eq!(value(&1.5f64.to_le_bytes(), Dtype::F64), 1.5);
    }
}
