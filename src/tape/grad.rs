//! Reverse mode: appends the nodes that compute gradients, and only those that the request needs.

use std::cell::RefCell;
use std::collections::HashMap;

use super::Tape;
use super::record::Source;
use crate::ops::binary::sum_of;
use crate::ops::{Backward, Recorder, Var, fill};

impl Tape {
    /// Gradients of `sum(loss)` with respect to each of `wrt`.
    ///
    /// A tensor of `wrt` on which `loss` does not depend gets zeros. Only nodes on a path from `wrt` to `loss` get gradient
    /// nodes: a request for the gradient of `eps_z` records no weight gradient.
    ///
    /// # Panics
    /// If a node's gradient would read a state that was changed after the node ran.
    pub fn grad(&self, loss: Var, wrt: &[Var]) -> Vec<Var> {
        let seed = fill(self, self.shape(loss), 1.0);
        self.grad_from(&[(loss, seed)], wrt)
    }

    /// Gradients of `sum_i <y_i, dy_i>` with respect to each of `wrt`.
    pub fn grad_from(&self, seeds: &[(Var, Var)], wrt: &[Var]) -> Vec<Var> {
        let forward_len = self.len();
        let on_path = self.depends_on(wrt, forward_len);
        let parts: RefCell<HashMap<Var, Vec<Var>>> = RefCell::default();
        for &(y, dy) in seeds {
            assert_eq!(
                self.shape(y),
                self.shape(dy),
                "a seed has the shape of its tensor"
            );
            parts.borrow_mut().entry(y).or_default().push(dy);
        }
        let mut total: HashMap<Var, Var> = HashMap::new();
        let take = |v: Var| {
            let collected = parts.borrow_mut().remove(&v);
            collected.map(|parts| sum_of(self, &parts))
        };
        let collect = |total: &mut HashMap<Var, Var>, v: Var| {
            let sum = take(v)?;
            total.insert(v, sum);
            Some(sum)
        };
        let collected = |v: Var| if self.fused() { take(v) } else { None };
        for index in (0..forward_len).rev() {
            let node = self.inner.borrow().nodes[index].clone();
            if !node.outputs.iter().any(|v| on_path[v.0 as usize]) {
                continue;
            }
            let cotangents: Vec<_> = node
                .outputs
                .iter()
                .map(|v| collect(&mut total, *v))
                .collect();
            if cotangents.iter().all(Option::is_none) {
                continue;
            }
            self.check_states_unchanged(&node.inputs, index, node.op.name());
            let wants: Vec<bool> = node.inputs.iter().map(|v| on_path[v.0 as usize]).collect();
            let gradients = self.scope(&format!("grad:{}", node.label), || {
                node.op.grad(&Backward {
                    recorder: self,
                    inputs: &node.inputs,
                    outputs: &node.outputs,
                    cotangents: &cotangents,
                    wants: &wants,
                    collected: &collected,
                })
            });
            assert_eq!(
                gradients.len(),
                node.inputs.len(),
                "{}: one gradient entry per input",
                node.op.name()
            );
            for ((input, gradient), wanted) in node.inputs.iter().zip(gradients).zip(&wants) {
                if let (Some(g), true) = (gradient, wanted) {
                    assert_eq!(
                        self.shape(*input),
                        self.shape(g),
                        "{}: a gradient has the shape of its input",
                        node.op.name()
                    );
                    parts.borrow_mut().entry(*input).or_default().push(g);
                }
            }
        }
        wrt.iter()
            .map(|v| {
                let known = total.get(v).copied();
                known
                    .or_else(|| collect(&mut total, *v))
                    .unwrap_or_else(|| fill(self, self.shape(*v), 0.0))
            })
            .collect()
    }

    /// For each value, whether it is one of `wrt` or computed from one.
    fn depends_on(&self, wrt: &[Var], nodes: usize) -> Vec<bool> {
        let inner = self.inner.borrow();
        let mut depends = vec![false; inner.values.len()];
        for v in wrt {
            depends[v.0 as usize] = true;
        }
        for node in &inner.nodes[..nodes] {
            if node.inputs.iter().any(|v| depends[v.0 as usize]) {
                for v in &node.outputs {
                    depends[v.0 as usize] = true;
                }
            }
        }
        depends
    }

    fn check_states_unchanged(&self, inputs: &[Var], node: usize, op: &str) {
        let inner = self.inner.borrow();
        for v in inputs {
            let value = &inner.values[v.0 as usize];
            if let (Source::State(name), Some(write)) = (&value.source, value.last_write) {
                assert!(
                    write < node,
                    "the gradient of {op} needs state `{name}` as it was, but it was changed since: record gradients \
                     before updates"
                );
            }
        }
    }
}
