//! Planning: drops what nothing needs, separates what holds for a parameter version, and lays every intermediate in one arena.

use std::collections::HashMap;
use std::sync::Arc;

use super::Tape;
use super::record::{Inner, Node, Source};
use crate::ops::{Shapes, Var};
use crate::program::arena::{Block, place};
use crate::program::{Cost, Launch, Named, Place, Plan, Slot, StateRef};
use crate::tensor::Shape;

/// Elements to which every tensor's place is aligned: 64 bytes, a cache line and the widest vector.
const ALIGN: usize = 16;

impl Tape {
    /// Lays the recorded step out as a program.
    pub fn plan(&self, name: &str) -> Plan {
        let inner = self.inner.borrow();
        let live = live_nodes(&inner);
        let version = per_version(&inner, &live);
        let order: Vec<usize> = live
            .iter()
            .copied()
            .filter(|&n| version[n])
            .chain(live.iter().copied().filter(|&n| !version[n]))
            .collect();
        Layout::new(&inner, &order, &version).finish(name)
    }
}

/// Nodes that an output or a state depends on, in recorded order.
fn live_nodes(inner: &Inner) -> Vec<usize> {
    let mut needed = vec![false; inner.values.len()];
    for (_, v) in &inner.outputs {
        needed[v.0 as usize] = true;
    }
    let mut live = Vec::new();
    for (index, node) in inner.nodes.iter().enumerate().rev() {
        if !node.updates.is_empty() || node.outputs.iter().any(|v| needed[v.0 as usize]) {
            live.push(index);
            for v in &node.inputs {
                needed[v.0 as usize] = true;
            }
        }
    }
    live.reverse();
    live
}

/// For each node, whether its result holds as long as the parameters do: it reads only constants, states that this program
/// never changes, and other such results, and its op depends on nothing but its inputs.
fn per_version(inner: &Inner, live: &[usize]) -> Vec<bool> {
    let mut stable: Vec<bool> = inner
        .values
        .iter()
        .map(|v| match v.source {
            Source::Constant(_) => true,
            Source::State(_) => v.last_write.is_none(),
            Source::Feed(_) | Source::Node(_) => false,
        })
        .collect();
    let mut version = vec![false; inner.nodes.len()];
    for &index in live {
        let node = &inner.nodes[index];
        let holds = node.updates.is_empty()
            && !node.op.reads_noise()
            && node.inputs.iter().all(|v| stable[v.0 as usize]);
        version[index] = holds;
        for v in &node.outputs {
            stable[v.0 as usize] = holds;
        }
    }
    version
}

struct Layout<'a> {
    inner: &'a Inner,
    order: &'a [usize],
    version: &'a [bool],
    blocks: Vec<Block>,
    block_of: HashMap<Var, usize>,
    workspaces: HashMap<usize, usize>,
    arena: usize,
}

impl<'a> Layout<'a> {
    fn new(inner: &'a Inner, order: &'a [usize], version: &'a [bool]) -> Self {
        let mut layout = Layout {
            inner,
            order,
            version,
            blocks: Vec::new(),
            block_of: HashMap::new(),
            workspaces: HashMap::new(),
            arena: 0,
        };
        layout.lifetimes();
        layout.arena = place(&mut layout.blocks);
        layout
    }

    fn block(&mut self, size: usize, first: usize, last: usize) -> usize {
        self.blocks.push(Block {
            size: size.next_multiple_of(ALIGN),
            first,
            last,
            offset: 0,
        });
        self.blocks.len() - 1
    }

    /// Intervals in positions of `order`. Feeds live throughout, and so do results of a parameter version that a step reads.
    fn lifetimes(&mut self) {
        let end = self.order.len();
        for (index, value) in self.inner.values.iter().enumerate() {
            if let Source::Feed(_) = value.source {
                let block = self.block(value.shape.len(), 0, end);
                self.block_of.insert(Var(index as u32), block);
            }
        }
        for (position, &index) in self.order.iter().enumerate() {
            let node = &self.inner.nodes[index];
            for v in &node.inputs {
                if let Some(&b) = self.block_of.get(v) {
                    self.blocks[b].last = self.blocks[b].last.max(position);
                    if self.made_per_version(*v) && !self.version[index] {
                        (self.blocks[b].first, self.blocks[b].last) = (0, end);
                    }
                }
            }
            for v in &node.outputs {
                let size = self.inner.values[v.0 as usize].shape.len();
                let block = self.block(size, position, position);
                self.block_of.insert(*v, block);
            }
            let scratch = self.with_shapes(node, |shapes| node.op.workspace(shapes));
            if scratch > 0 {
                let block = self.block(scratch, position, position);
                self.workspaces.insert(index, block);
            }
        }
        for (_, v) in &self.inner.outputs {
            if let Some(&b) = self.block_of.get(v) {
                self.blocks[b].last = end;
                if self.made_per_version(*v) {
                    self.blocks[b].first = 0;
                }
            }
        }
    }

    fn made_per_version(&self, var: Var) -> bool {
        matches!(self.inner.values[var.0 as usize].source, Source::Node(node) if self.version[node])
    }

    fn with_shapes<R>(&self, node: &Node, f: impl FnOnce(Shapes<'_>) -> R) -> R {
        let (inputs, outputs, updates) = (
            self.inner.shapes_of(&node.inputs),
            self.inner.shapes_of(&node.outputs),
            self.inner.shapes_of(&node.updates),
        );
        f(Shapes {
            inputs: &inputs,
            outputs: &outputs,
            updates: &updates,
        })
    }

    fn finish(&self, name: &str) -> Plan {
        let mut plan = Plan {
            name: name.to_owned(),
            arena: self.arena,
            ..Plan::default()
        };
        let mut places = Places::default();
        for (index, value) in self.inner.values.iter().enumerate() {
            if let Source::Feed(feed) = &value.source {
                let slot = self.slot(&mut plan, &mut places, Var(index as u32));
                plan.feeds.push(Named {
                    name: feed.clone(),
                    slot,
                });
            }
        }
        for &index in self.order {
            let launch = self.launch(&mut plan, &mut places, index);
            if self.version[index] {
                for slot in &launch.inputs {
                    if let Place::State(s) = slot.place
                        && !plan.version_states.contains(&s)
                    {
                        plan.version_states.push(s);
                    }
                }
                plan.per_version.push(launch);
            } else {
                plan.per_step.push(launch);
            }
        }
        for (output, v) in &self.inner.outputs {
            let slot = self.slot(&mut plan, &mut places, *v);
            plan.outputs.push(Named {
                name: output.clone(),
                slot,
            });
        }
        plan
    }

    fn launch(&self, plan: &mut Plan, places: &mut Places, index: usize) -> Launch {
        let node = &self.inner.nodes[index];
        let mut slots = |vars: &[Var]| -> Vec<Slot> {
            vars.iter().map(|v| self.slot(plan, places, *v)).collect()
        };
        let (inputs, outputs, updates) = (
            slots(&node.inputs),
            slots(&node.outputs),
            slots(&node.updates),
        );
        let workspace = match self.workspaces.get(&index) {
            Some(&b) => Slot {
                place: Place::Arena(self.blocks[b].offset),
                shape: Shape::new(&[self.blocks[b].size]),
            },
            None => Slot {
                place: Place::Arena(0),
                shape: Shape::new(&[0]),
            },
        };
        let cost: Cost = self.with_shapes(node, |shapes| node.op.cost(shapes));
        Launch {
            kernel: node.op.clone(),
            label: node.label.clone(),
            inputs,
            outputs,
            updates,
            workspace,
            cost,
        }
    }

    fn slot(&self, plan: &mut Plan, places: &mut Places, var: Var) -> Slot {
        let value = &self.inner.values[var.0 as usize];
        let place = match &value.source {
            Source::Constant(data) => {
                Place::Constant(*places.constants.entry(var).or_insert_with(|| {
                    plan.constants.push((value.shape, Arc::clone(data)));
                    plan.constants.len() - 1
                }))
            }
            Source::State(name) => Place::State(*places.states.entry(var).or_insert_with(|| {
                plan.states.push(StateRef {
                    name: name.clone(),
                    shape: value.shape,
                    written: value.last_write.is_some(),
                });
                plan.states.len() - 1
            })),
            Source::Feed(_) | Source::Node(_) => {
                Place::Arena(self.blocks[self.block_of[&var]].offset)
            }
        };
        Slot {
            place,
            shape: value.shape,
        }
    }
}

#[derive(Default)]
struct Places {
    constants: HashMap<Var, usize>,
    states: HashMap<Var, usize>,
}
