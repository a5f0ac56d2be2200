//! What a PyTorch file holds.

use std::sync::Arc;

/// A value of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Str(String),
    /// Bytes; also whole numbers beyond 64 bits, little-endian two's complement.
    Bytes(Vec<u8>),
    /// A list or a set.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A dictionary, ordered or not, in the order of its making.
    Dict(Vec<(Value, Value)>),
    /// A tensor or parameter.
    Tensor(Tensor),
    /// An object of any other class, or such a class itself.
    Object(Box<Object>),
}

/// An object that was not made: its class by name, what it would have been made of, and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Module and class, for example `argparse.Namespace`.
    pub class: String,
    /// Arguments of its making.
    pub args: Vec<Value>,
    /// State set afterwards: for plain classes the dictionary of attributes.
    pub state: Value,
}

/// A tensor's values in row-major order. Tensors that are the same view of one storage share them.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Arc<Data>,
}

/// Values, as wide as they must be to be exact.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// From f32, f16 and bf16.
    F32(Vec<f32>),
    /// From f64.
    F64(Vec<f64>),
    /// From whole numbers and truth values.
    I64(Vec<i64>),
}

impl Tensor {
    /// All values as f32, f64 rounded to nearest; `None` if a whole number would not be exact.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match &*self.data {
            Data::F32(values) => Some(values.clone()),
            Data::F64(values) => Some(values.iter().map(|&value| value as f32).collect()),
            Data::I64(values) => values
                .iter()
                .map(|&value| {
                    Some(value as f32).filter(|&float| float as i128 == i128::from(value))
                })
                .collect(),
        }
    }
}

impl Value {
    /// A dictionary's value under a text key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Self::Dict(entries) = self else {
            return None;
        };
        entries
            .iter()
            .find(|(name, _)| name.as_str() == Some(key))
            .map(|(_, value)| value)
    }

    /// An object's attribute, for example of an `argparse.Namespace`.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        let Self::Object(object) = self else {
            return None;
        };
        object.state.get(name)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self {
            Some(*number)
        } else {
            None
        }
    }

    /// The number, whole or not.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            Self::Int(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(truth) = self {
            Some(*truth)
        } else {
            None
        }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        if let Self::Tensor(tensor) = self {
            Some(tensor)
        } else {
            None
        }
    }

    /// The elements of a list or tuple.
    pub fn as_slice(&self) -> Option<&[Value]> {
        if let Self::List(values) | Self::Tuple(values) = self {
            Some(values)
        } else {
            None
        }
    }

    /// The entries of a dictionary.
    pub fn entries(&self) -> Option<&[(Value, Value)]> {
        if let Self::Dict(entries) = self {
            Some(entries)
        } else {
            None
        }
    }
}
