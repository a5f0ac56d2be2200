//! A parsed pickle: nodes that refer to each other by number, and how they become a [`Value`].

use super::storage::{StorageRef, Storages, View};
use super::value::{Object, Value};
use std::collections::HashMap;

/// Number of a node.
pub(super) type Id = u32;

/// What the stack machine made. Shared and changed by reference, as in the pickle.
#[derive(Clone, Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Class(String),
    Storage(StorageRef),
    Tensor(View),
    Object {
        class: String,
        args: Vec<Id>,
        state: Option<Id>,
    },
}

impl Node {
    /// What it is, for messages: its contents can be long.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Str(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Class(_) => "a class",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Object { .. } => "an object",
        }
    }
}

/// Deeper nesting than any checkpoint has; also what ends a value that contains itself.
const DEEPEST: usize = 100;
/// Memory that a pickle's values may take per byte of pickle: references may repeat a text, but not without bound.
const MOST_GROWTH: usize = 64;
const SMALLEST_BUDGET: usize = 1 << 16;

/// A parsed pickle.
pub(super) struct Document {
    nodes: Vec<Node>,
    root: Id,
    storages: HashMap<String, StorageRef>,
    budget: usize,
}

impl Document {
    pub(super) fn new(nodes: Vec<Node>, root: Id, length: usize) -> Result<Self, String> {
        let mut storages: HashMap<String, StorageRef> = HashMap::new();
        for node in &nodes {
            if let Node::Storage(storage) = node
                && let Some(other) = storages.insert(storage.key.clone(), storage.clone())
                && other != *storage
            {
                return Err(format!("storage {} is described in two ways", storage.key));
            }
        }
        let budget = length.saturating_mul(MOST_GROWTH).max(SMALLEST_BUDGET);
        Ok(Self {
            nodes,
            root,
            storages,
            budget,
        })
    }

    /// The storages that the pickle refers to.
    pub(super) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.storages.values()
    }

    /// The storage of that key.
    pub(super) fn storage(&self, key: &str) -> Option<&StorageRef> {
        self.storages.get(key)
    }

    /// The pickle's value, its tensors filled from the storages.
    pub(super) fn resolve(&self, storages: &Storages<'_>) -> Result<Value, String> {
        Resolver {
            document: self,
            storages,
            left: self.budget,
        }
        .value(self.root, 0)
    }
}

struct Resolver<'d> {
    document: &'d Document,
    storages: &'d Storages<'d>,
    left: usize,
}

impl Resolver<'_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value, String> {
        if depth > DEEPEST {
            return Err(format!(
                "its values are nested deeper than {DEEPEST}, or contain themselves"
            ));
        }
        let document = self.document;
        let node = &document.nodes[id as usize];
        let length = match node {
            Node::Str(text) | Node::Class(text) => text.len(),
            Node::Object { class, .. } => class.len(),
            Node::Bytes(bytes) => bytes.len(),
            Node::Tensor(view) => size_of_val(&view.shape[..]),
            _ => 0,
        };
        self.left = self
            .left
            .checked_sub(size_of::<Value>() + length)
            .ok_or("its values would take far more memory than the pickle has bytes: refused")?;
        Ok(match node {
            Node::None => Value::None,
            Node::Bool(truth) => Value::Bool(*truth),
            Node::Int(number) => Value::Int(*number),
            Node::Float(number) => Value::Float(*number),
            Node::Str(text) => Value::Str(text.clone()),
            Node::Bytes(bytes) => Value::Bytes(bytes.clone()),
            Node::List(ids) => Value::List(self.values(ids, depth)?),
            Node::Tuple(ids) => Value::Tuple(self.values(ids, depth)?),
            Node::Dict(entries) => Value::Dict(self.entries(entries, depth)?),
            Node::Class(class) => Value::Object(Box::new(Object {
                class: class.clone(),
                args: Vec::new(),
                state: Value::None,
            })),
            Node::Storage(storage) => {
                // A bare storage is a vector of all it holds.
                let view = View {
                    key: storage.key.clone(),
                    offset: 0,
                    shape: vec![storage.count],
                    strides: vec![1],
                };
                Value::Tensor(self.storages.tensor(&view)?)
            }
            Node::Tensor(view) => Value::Tensor(self.storages.tensor(view)?),
            Node::Object { class, args, state } => Value::Object(Box::new(Object {
                class: class.clone(),
                args: self.values(args, depth)?,
                state: state.map_or(Ok(Value::None), |state| self.value(state, depth + 1))?,
            })),
        })
    }

    fn values(&mut self, ids: &[Id], depth: usize) -> Result<Vec<Value>, String> {
        ids.iter().map(|&id| self.value(id, depth + 1)).collect()
    }

    /// Entries in order; of equal keys the last value counts, at the first one's place, as in Python.
    fn entries(
        &mut self,
        entries: &[(Id, Id)],
        depth: usize,
    ) -> Result<Vec<(Value, Value)>, String> {
        #[derive(PartialEq, Eq, Hash)]
        enum Key {
            Text(String),
            Number(i64),
        }
        let mut resolved: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        let mut places = HashMap::new();
        for &(key, value) in entries {
            let (key, value) = (self.value(key, depth + 1)?, self.value(value, depth + 1)?);
            let name = match &key {
                Value::Str(text) => Some(Key::Text(text.clone())),
                Value::Int(number) => Some(Key::Number(*number)),
                _ => None,
            };
            match name.map(|name| *places.entry(name).or_insert(resolved.len())) {
                Some(place) if place < resolved.len() => resolved[place].1 = value,
                _ => resolved.push((key, value)),
            }
        }
        Ok(resolved)
    }
}
