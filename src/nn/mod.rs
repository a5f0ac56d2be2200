//! Layers: functions from symbolic tensors to symbolic tensors, with the parameters they declare.
//!
//! A network is described by calling layers on a [`Module`], a place in the tree of names. Every program that describes
//! the same network declares the same states, so programs share parameters. Names are those of the official
//! implementation, so that its checkpoints map one to one; layouts are ours ([`params`] tells the mapping).

mod cells;
mod conv;
pub mod flow;
pub mod params;

use std::cell::RefCell;
use std::collections::HashMap;

pub use cells::{Stride, decoder_cell, encoder_cell, post_cell, pre_cell, primitive_cell};
pub use conv::{Conv, squeeze_excite_layer};
use params::{Init, ParamSpec, Role};

use crate::ops::batch_norm::{self, Activation};
use crate::ops::{Recorder, Var};
use crate::tape::Tape;
use crate::tensor::Shape;

/// How batch statistics and data-dependent initialisation behave in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch norm by the batch's own statistics, which also move the running ones.
    Train,
    /// Batch norm by the running statistics.
    Eval,
}

/// A network on one tape.
pub struct Net<'t> {
    /// The tape.
    pub tape: &'t Tape,
    /// How batch norm behaves.
    pub mode: Mode,
    /// Whether weight-normed layers that ask for it set themselves from the data of this one run.
    pub data_init: bool,
    /// Whether the inputs and results of its parts are kept for comparison.
    pub traced: bool,
    /// Whether layers that are joined in evaluation are so in training as well. Their sums then come in another order than layer by layer.
    pub joins_in_training: bool,
    prefix: String,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    params: Vec<ParamSpec>,
    /// State name to tensor, so that a layer used twice is declared once.
    vars: HashMap<String, Var>,
    /// Effective weights by layer, in order of first use.
    effective: Vec<(String, Var)>,
    /// Scales of all batch norms, in order of first use.
    gammas: Vec<Var>,
    /// Inputs and results of parts, if the network is traced.
    traces: Vec<(String, Var)>,
}

impl<'t> Net<'t> {
    /// A network whose states are called `<prefix>.<official name>`.
    pub fn new(tape: &'t Tape, prefix: &str, mode: Mode) -> Self {
        Net {
            tape,
            mode,
            data_init: false,
            traced: false,
            joins_in_training: false,
            prefix: prefix.to_owned(),
            table: RefCell::default(),
        }
    }

    /// The same with data-dependent initialisation (SPEC section 1) of the layers that take part in it.
    pub fn with_data_init(mut self) -> Self {
        self.data_init = true;
        self
    }

    /// The same with the inputs and results of its parts kept under their names; to be read with [`Net::traces`].
    pub fn with_traces(mut self) -> Self {
        self.traced = true;
        self
    }

    /// The same with layers joined in training too, if `joins`.
    pub fn joining_in_training(mut self, joins: bool) -> Self {
        self.joins_in_training = joins;
        self
    }

    /// What a traced network kept: `in<j>.<part>` and `out.<part>`.
    pub fn traces(&self) -> Vec<(String, Var)> {
        self.table.borrow().traces.clone()
    }

    /// The top of the tree of names.
    pub fn root(&self) -> Module<'_, 't> {
        Module {
            net: self,
            path: String::new(),
        }
    }

    /// Everything declared so far, in order of first use.
    pub fn params(&self) -> Vec<ParamSpec> {
        self.table.borrow().params.clone()
    }

    /// The tensors that an optimiser moves, with their names without prefix.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        let table = self.table.borrow();
        let trainable = table.params.iter().filter(|p| p.role.is_trainable());
        trainable
            .map(|p| (p.name.clone(), table.vars[&p.name]))
            .collect()
    }

    /// The effective weight of every convolution by layer name: what spectral regularisation bounds.
    pub fn effective_weights(&self) -> Vec<(String, Var)> {
        self.table.borrow().effective.clone()
    }

    /// The scale of every batch norm.
    pub fn gammas(&self) -> Vec<Var> {
        self.table.borrow().gammas.clone()
    }

    /// The state name of a parameter.
    pub fn state_name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }
}

/// A place in the tree of names: where layers declare their parameters.
#[derive(Clone)]
pub struct Module<'n, 't> {
    /// The network.
    pub net: &'n Net<'t>,
    path: String,
}

impl<'n, 't> Module<'n, 't> {
    /// A child.
    pub fn sub(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        };
        Module {
            net: self.net,
            path,
        }
    }

    /// The tape.
    pub fn tape(&self) -> &'t Tape {
        self.net.tape
    }

    /// The name of this place.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Records under this place's label.
    pub fn label<R>(&self, body: impl FnOnce() -> R) -> R {
        self.tape().scope(&self.path, body)
    }

    /// Keeps what this place read and made, if the network is traced; returns the result.
    pub fn trace(&self, inputs: &[Var], result: Var) -> Var {
        if self.net.traced {
            let traces = &mut self.net.table.borrow_mut().traces;
            for (j, input) in inputs.iter().enumerate() {
                traces.push((format!("in{j}.{}", self.path), *input));
            }
            traces.push((format!("out.{}", self.path), result));
        }
        result
    }

    /// A parameter or statistic of this place, declared at first use.
    pub fn param(&self, name: &str, role: Role, shape: impl Into<Shape>, init: Init) -> Var {
        let shape = shape.into();
        let name = self.sub(name).path;
        if let Some(var) = self.net.table.borrow().vars.get(&name) {
            return *var;
        }
        let var = self.tape().state(&self.net.state_name(&name), shape);
        let mut table = self.net.table.borrow_mut();
        table.vars.insert(name.clone(), var);
        table.params.push(ParamSpec {
            name,
            role,
            shape,
            init,
        });
        var
    }

    /// Remembers this layer's effective weight for the spectral term; once per layer.
    fn note_effective(&self, weight: Var) {
        self.net
            .table
            .borrow_mut()
            .effective
            .push((self.path.clone(), weight));
    }

    fn known_effective(&self) -> Option<Var> {
        let table = self.net.table.borrow();
        let known = table.effective.iter().find(|(name, _)| *name == self.path);
        known.map(|(_, var)| *var)
    }

    /// Batch norm (momentum 0.05, eps 1e-5) and an activation, of `[n, h, w, c]`.
    pub fn batch_norm(&self, x: Var, activation: Activation) -> Var {
        let norm = self.batch_norm_params(self.tape().shape(x).last());
        self.label(|| match self.net.mode {
            Mode::Train => batch_norm::batch_norm_train(
                self.tape(),
                x,
                norm.gamma,
                norm.beta,
                norm.mean,
                norm.var,
                activation,
            ),
            Mode::Eval => {
                let (scale, shift) = norm.fold(self.tape());
                batch_norm::scale_shift(self.tape(), x, scale, shift, activation)
            }
        })
    }

    /// Scale and shift of this place's batch norm over `c` channels in evaluation mode.
    fn batch_norm_folded(&self, c: usize) -> (Var, Var) {
        let norm = self.batch_norm_params(c);
        self.label(|| norm.fold(self.tape()))
    }

    /// The parameters and running statistics of this place's batch norm over `c` channels.
    fn batch_norm_params(&self, c: usize) -> BatchNorm {
        let fresh = !self
            .net
            .table
            .borrow()
            .vars
            .contains_key(&self.sub("weight").path);
        let gamma = self.param("weight", Role::Vector, [c], Init::Constant(1.0));
        if fresh {
            self.net.table.borrow_mut().gammas.push(gamma);
        }
        BatchNorm {
            gamma,
            beta: self.param("bias", Role::Vector, [c], Init::Constant(0.0)),
            mean: self.param("running_mean", Role::Statistic, [c], Init::Constant(0.0)),
            var: self.param("running_var", Role::Statistic, [c], Init::Constant(1.0)),
        }
    }
}

/// The tensors of one batch norm, each `[c]`.
struct BatchNorm {
    gamma: Var,
    beta: Var,
    mean: Var,
    var: Var,
}

impl BatchNorm {
    /// Scale and shift of the evaluation mode.
    fn fold(&self, tape: &Tape) -> (Var, Var) {
        batch_norm::batch_norm_fold(tape, self.gamma, self.beta, self.mean, self.var)
    }
}
