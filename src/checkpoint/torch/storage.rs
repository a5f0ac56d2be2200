//! Storages: runs of elements of one type, and the strided views of them that tensors are.

use super::value::{Data, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

/// Element types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// By the storage class that a pickle names.
    pub(super) fn of_class(class: &str) -> Option<Self> {
        Some(
            match class
                .strip_prefix("torch.")
                .map(|name| name.strip_prefix("cuda.").unwrap_or(name))?
            {
                "DoubleStorage" => Self::F64,
                "FloatStorage" => Self::F32,
                "HalfStorage" => Self::F16,
                "BFloat16Storage" => Self::Bf16,
                "LongStorage" => Self::I64,
                "IntStorage" => Self::I32,
                "ShortStorage" => Self::I16,
                "CharStorage" => Self::I8,
                "ByteStorage" => Self::U8,
                "BoolStorage" => Self::Bool,
                _ => return None,
            },
        )
    }

    /// Bytes of an element.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// A storage as the pickle refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StorageRef {
    pub(super) key: String,
    pub(super) dtype: Dtype,
    /// Elements.
    pub(super) count: usize,
}

/// A strided view, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub(super) key: String,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// How many bytes of values may be made per byte of file. Honest files need two or so (halves widened, some views of a
/// shared storage); a file of views that repeat one storage over and over needs thousands.
const MOST_GROWTH: usize = 16;

/// The storages of a file. Equal views share their values.
pub(super) struct Storages<'a> {
    storages: HashMap<String, (Dtype, &'a [u8])>,
    made: RefCell<HashMap<View, Tensor>>,
    /// Bytes of values that may still be made.
    budget: Cell<usize>,
}

impl<'a> Storages<'a> {
    pub(super) fn new(file_length: usize) -> Self {
        let budget = Cell::new(file_length.saturating_mul(MOST_GROWTH));
        Self {
            storages: HashMap::new(),
            made: RefCell::default(),
            budget,
        }
    }

    pub(super) fn add(&mut self, storage: &StorageRef, bytes: &'a [u8]) -> Result<(), String> {
        let StorageRef { key, dtype, count } = storage;
        if count.checked_mul(dtype.size()) != Some(bytes.len()) {
            return Err(format!(
                "storage {key} should have {count} elements of {dtype:?} and has {} bytes",
                bytes.len()
            ));
        }
        self.storages.insert(key.clone(), (*dtype, bytes));
        Ok(())
    }

    /// Gathers a view into row-major values.
    pub(super) fn tensor(&self, view: &View) -> Result<Tensor, String> {
        if let Some(tensor) = self.made.borrow().get(view) {
            return Ok(tensor.clone());
        }
        let (dtype, bytes) = *self.storages.get(&view.key).ok_or_else(|| {
            format!(
                "a tensor refers to storage {}, which is not there",
                view.key
            )
        })?;
        let indices = Indices::new(view, bytes.len() / dtype.size())?;
        let left = indices
            .count
            .checked_mul(8)
            .and_then(|cost| self.budget.get().checked_sub(cost));
        self.budget.set(
            left.ok_or("its tensors would take far more memory than the file has bytes: refused")?,
        );
        let data = match dtype {
            Dtype::F64 => Data::F64(indices.gather(bytes, f64::from_le_bytes)),
            Dtype::F32 => Data::F32(indices.gather(bytes, f32::from_le_bytes)),
            Dtype::F16 => {
                Data::F32(indices.gather(bytes, |half| half_to_f32(u16::from_le_bytes(half))))
            }
            Dtype::Bf16 => Data::F32(indices.gather(bytes, |half| {
                f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16)
            })),
            Dtype::I64 => Data::I64(indices.gather(bytes, i64::from_le_bytes)),
            Dtype::I32 => {
                Data::I64(indices.gather(bytes, |value| i32::from_le_bytes(value).into()))
            }
            Dtype::I16 => {
                Data::I64(indices.gather(bytes, |value| i16::from_le_bytes(value).into()))
            }
            Dtype::I8 => Data::I64(indices.gather(bytes, |value| i8::from_le_bytes(value).into())),
            Dtype::U8 => Data::I64(indices.gather(bytes, |[value]| value.into())),
            Dtype::Bool => Data::I64(indices.gather(bytes, |[value]| (value != 0).into())),
        };
        let tensor = Tensor {
            shape: view.shape.clone(),
            data: Arc::new(data),
        };
        self.made.borrow_mut().insert(view.clone(), tensor.clone());
        Ok(tensor)
    }
}

/// A checked walk over a view's elements in row-major order.
struct Indices<'v> {
    view: &'v View,
    count: usize,
}

impl<'v> Indices<'v> {
    fn new(view: &'v View, available: usize) -> Result<Self, String> {
        let outside = || {
            format!(
                "a tensor of shape {:?}, strides {:?}, offset {} reaches outside storage {} of {available} elements",
                view.shape, view.strides, view.offset, view.key
            )
        };
        if view.shape.len() != view.strides.len() {
            return Err(format!(
                "a tensor has shape {:?} and strides {:?}",
                view.shape, view.strides
            ));
        }
        let count = view
            .shape
            .iter()
            .try_fold(1usize, |n, &extent| n.checked_mul(extent))
            .ok_or_else(outside)?;
        if count > 0 {
            let last = view
                .shape
                .iter()
                .zip(&view.strides)
                .try_fold(view.offset, |at, (&extent, &stride)| {
                    at.checked_add((extent - 1).checked_mul(stride)?)
                });
            if last.is_none_or(|last| last >= available) {
                return Err(outside());
            }
        }
        Ok(Self { view, count })
    }

    fn gather<const SIZE: usize, T>(&self, bytes: &[u8], read: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
        let (elements, _) = bytes.as_chunks::<SIZE>();
        let (shape, strides) = (&self.view.shape, &self.view.strides);
        let mut values = Vec::with_capacity(self.count);
        let mut index = vec![0usize; shape.len()];
        let mut at = self.view.offset;
        while values.len() < self.count {
            values.push(read(elements[at]));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    at += strides[axis];
                    break;
                }
                at -= (shape[axis] - 1) * strides[axis];
                index[axis] = 0;
            }
        }
        values
    }
}

/// IEEE half precision to single, exact.
pub(super) fn half_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let (exponent, fraction) = (u32::from(half >> 10) & 0x1f, u32::from(half) & 0x3ff);
    let magnitude = match exponent {
        // Subnormal: a whole number of 2^-24.
        0 => (fraction as f32 * (1.0 / 16_777_216.0)).to_bits(),
        0x1f => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}
