//! Recording: nodes with shapes, in the order in which they will run. Recording computes nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::ops::{AnyOp, Recorder, Shapes, Var};
use crate::tensor::Shape;

/// Where a recorded tensor comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Constant(Arc<[f64]>),
    Feed(String),
    State(String),
    /// An output of this node.
    Node(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Value {
    pub source: Source,
    pub shape: Shape,
    /// The last node that changed this state; `None` for anything else.
    pub last_write: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub op: Arc<dyn AnyOp>,
    pub inputs: Vec<Var>,
    pub outputs: Vec<Var>,
    pub updates: Vec<Var>,
    pub label: String,
}

#[derive(Default)]
pub(super) struct Inner {
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<(String, Var)>,
    by_name: HashMap<String, Var>,
    scope: Vec<String>,
}

/// A step that is being recorded.
///
/// Nodes run in recorded order, so a read of a state sees what earlier nodes wrote to it. Methods take `&self`: recording
/// nests (`add(t, swish(t, x), y)`).
pub struct Tape {
    pub(super) inner: RefCell<Inner>,
    fused: bool,
}

impl Default for Tape {
    fn default() -> Self {
        Tape::new()
    }
}

impl Tape {
    /// An empty tape on which networks record their fused forms.
    pub fn new() -> Self {
        Tape {
            inner: RefCell::default(),
            fused: true,
        }
    }

    /// An empty tape that keeps every region in its plain parts: the oracle of the fused forms.
    pub fn unfused() -> Self {
        Tape {
            fused: false,
            ..Tape::new()
        }
    }

    /// Whether networks should record fused regions.
    pub fn fused(&self) -> bool {
        self.fused
    }

    /// A tensor that the host writes before a run.
    ///
    /// # Panics
    /// If the name is taken by a tensor of another shape or kind.
    pub fn feed(&self, name: &str, shape: impl Into<Shape>) -> Var {
        self.named(name, shape.into(), Source::Feed(name.to_owned()))
    }

    /// A tensor that outlives the run and is shared by all programs of a device: a parameter, a moment, a statistic.
    ///
    /// # Panics
    /// If the name is taken by a tensor of another shape or kind.
    pub fn state(&self, name: &str, shape: impl Into<Shape>) -> Var {
        self.named(name, shape.into(), Source::State(name.to_owned()))
    }

    fn named(&self, name: &str, shape: Shape, source: Source) -> Var {
        let mut inner = self.inner.borrow_mut();
        if let Some(&var) = inner.by_name.get(name) {
            let known = &inner.values[var.0 as usize];
            assert!(
                known.shape == shape
                    && std::mem::discriminant(&known.source) == std::mem::discriminant(&source),
                "`{name}` was recorded with shape {} and is asked for with shape {shape}",
                known.shape
            );
            return var;
        }
        let var = inner.push(source, shape);
        inner.by_name.insert(name.to_owned(), var);
        var
    }

    /// Makes a tensor readable by the host after a run.
    pub fn output(&self, name: &str, var: Var) {
        let mut inner = self.inner.borrow_mut();
        assert!(
            inner.outputs.iter().all(|(n, _)| n != name),
            "output `{name}` is already there"
        );
        inner.outputs.push((name.to_owned(), var));
    }

    /// Runs `body` with a longer label prefix for the nodes that it records.
    pub fn scope<R>(&self, name: &str, body: impl FnOnce() -> R) -> R {
        self.inner.borrow_mut().scope.push(name.to_owned());
        let result = body();
        self.inner.borrow_mut().scope.pop();
        result
    }

    /// The names and shapes of all states used so far, in order of first use.
    pub fn states(&self) -> Vec<(String, Shape)> {
        let inner = self.inner.borrow();
        let state = |v: &Value| match &v.source {
            Source::State(name) => Some((name.clone(), v.shape)),
            _ => None,
        };
        inner.values.iter().filter_map(state).collect()
    }

    /// The number of nodes recorded so far.
    pub fn len(&self) -> usize {
        self.inner.borrow().nodes.len()
    }

    /// Whether nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the recorded ops, in order; for tests of what fusion did.
    pub fn op_names(&self) -> Vec<&'static str> {
        self.inner
            .borrow()
            .nodes
            .iter()
            .map(|n| n.op.name())
            .collect()
    }
}

impl Inner {
    fn push(&mut self, source: Source, shape: Shape) -> Var {
        let index = u32::try_from(self.values.len()).expect("a tape has fewer than 2^32 tensors");
        self.values.push(Value {
            source,
            shape,
            last_write: None,
        });
        Var(index)
    }

    pub(super) fn shapes_of(&self, vars: &[Var]) -> Vec<Shape> {
        vars.iter()
            .map(|v| self.values[v.0 as usize].shape)
            .collect()
    }
}

impl Recorder for Tape {
    fn record(&self, op: Arc<dyn AnyOp>, inputs: &[Var], updates: &[Var]) -> Vec<Var> {
        let mut inner = self.inner.borrow_mut();
        let (input_shapes, update_shapes) = (inner.shapes_of(inputs), inner.shapes_of(updates));
        let label = inner.scope.join(".");
        let outputs = op
            .infer(Shapes {
                inputs: &input_shapes,
                outputs: &[],
                updates: &update_shapes,
            })
            .unwrap_or_else(|e| panic!("{} in `{label}`: {e}", op.name()));
        let node = inner.nodes.len();
        let outputs: Vec<Var> = outputs
            .into_iter()
            .map(|shape| inner.push(Source::Node(node), shape))
            .collect();
        for state in updates {
            let value = &mut inner.values[state.0 as usize];
            assert!(
                matches!(value.source, Source::State(_)),
                "{} in `{label}` updates something that is not a state",
                op.name()
            );
            value.last_write = Some(node);
            assert!(
                !inputs.contains(state),
                "{} in `{label}` reads a state that it updates: it finds it among its updates",
                op.name()
            );
        }
        assert!(
            (1..updates.len()).all(|i| !updates[i..].contains(&updates[i - 1])),
            "{} in `{label}` updates a state twice",
            op.name()
        );
        inner.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            updates: updates.to_vec(),
            label,
        });
        outputs
    }

    fn shape(&self, var: Var) -> Shape {
        self.inner.borrow().values[var.0 as usize].shape
    }

    fn constant(&self, shape: Shape, data: Vec<f64>) -> Var {
        assert_eq!(shape.len(), data.len(), "a constant of shape {shape}");
        self.inner
            .borrow_mut()
            .push(Source::Constant(data.into()), shape)
    }
}
