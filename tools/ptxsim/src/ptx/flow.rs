//! Control flow: basic blocks, and the order in which they are laid out.
//!
//! Lanes of a warp that took different branches reconverge because the interpreter always runs the lanes with
//! the smallest instruction index. That is right when blocks lie in a weak topological order: every edge
//! goes forward except those back to a loop's head, and the blocks of a loop lie together. Then lanes that
//! wait at a join are met by all others that can still reach it, also where some lanes leave by `ret`, `break` or
//! `continue` (where a plain immediate post-dominator would be the end of the kernel and the lanes would stay apart).
//! Edges back to a head go through one latch at the end of the loop, or else the lanes that take one early would be
//! a round ahead of the others.

use std::collections::{HashMap, HashSet};

use super::function::Raw;
use super::isa::{AtomFn, Code, Inst, Meta, Op, Pred, Reg, Space};
use super::operands::Role;

/// Loops nested deeper than this are laid out as written.
const NESTING_LIMIT: usize = 64;
/// Bits of liveness beyond which the register estimate is not attempted.
const LIVENESS_LIMIT: usize = 1 << 28;

struct Block {
    /// Range in the raw code.
    start: usize,
    end: usize,
    successors: Vec<usize>,
    /// The successor reached by falling through.
    next: Option<usize>,
}

/// Lays the code out, fills `code.insts` and `code.meta`, and estimates the registers per thread.
/// `entries`: where the kernel and each function begin in `raw`.
pub(crate) fn arrange(mut raw: Vec<Raw>, entries: &[usize], code: &mut Code) -> u32 {
    trust_compare_and_swap(&mut raw);
    let (blocks, block_of) = split(&raw, entries);
    let roots: Vec<usize> = entries.iter().map(|at| block_of[*at]).collect();
    let layout = weak_topological_order(&blocks, &roots);
    let order: Vec<usize> = layout
        .items
        .iter()
        .filter_map(|item| {
            if let Item::Block(index) = item {
                Some(*index)
            } else {
                None
            }
        })
        .collect();
    let estimate = estimate_registers(&raw, &blocks, &order, code);

    // An edge from inside a loop to its head goes to the loop's latch.
    let target = |from: usize, to: usize| match layout.latches.get(&to) {
        Some(members) if members.binary_search(&from).is_ok() => Item::Latch(to),
        _ => Item::Block(to),
    };
    let falls_to = |rank: usize| match layout.items[rank] {
        Item::Block(index) => {
            let next = blocks[index].next.map(|next| target(index, next));
            next.filter(|next| layout.items.get(rank + 1) != Some(next))
        }
        Item::Latch(head) => Some(Item::Block(head)),
    };
    let mut position = HashMap::new();
    let mut length = 0u32;
    for (rank, item) in layout.items.iter().enumerate() {
        position.insert(*item, length);
        if let Item::Block(index) = item {
            length += (blocks[*index].end - blocks[*index].start) as u32;
        }
        length += u32::from(falls_to(rank).is_some());
    }
    for (routine, root) in code.routines.iter_mut().zip(&roots[1..]) {
        routine.entry = position[&Item::Block(*root)];
    }
    let mut last = (0, 0);
    for (rank, item) in layout.items.iter().enumerate() {
        if let Item::Block(index) = *item {
            let block = &blocks[index];
            for instruction in &mut raw[block.start..block.end] {
                let mut op = std::mem::replace(&mut instruction.inst.op, Op::Nop);
                let place = |to: &mut u32| *to = position[&target(index, block_of[*to as usize])];
                match &mut op {
                    Op::Bra { to } => place(to),
                    Op::BranchIndexed { targets, .. } => targets.iter_mut().for_each(place),
                    _ => {}
                }
                code.ordered |= is_ordered(&op);
                if let Op::Hopper(hopper) = &op {
                    let class = hopper.class();
                    code.mbarriers |= matches!(class, "mbarrier" | "bulk-copy");
                    code.wgmma |= class == "wgmma";
                    code.engines |= matches!(class, "bulk-copy" | "wgmma");
                }
                let inst = Inst {
                    op,
                    guard: instruction.inst.guard,
                };
                code.meta
                    .push(meta(&inst, instruction.line, instruction.loc, code));
                code.insts.push(inst);
                last = (instruction.line, instruction.loc);
            }
        }
        if let Some(to) = falls_to(rank) {
            let inst = Inst {
                op: Op::Jump { to: position[&to] },
                guard: Pred::TRUE,
            };
            code.meta.push(meta(&inst, last.0, last.1, code));
            code.insts.push(inst);
        }
    }
    estimate
}

/// Counts plain loads whose value is what a compare-and-swap compares with as strong. That is how a loop around
/// `atomicCAS` begins, and a value that is out of date does no harm there: the swap fails, and tells the new one.
fn trust_compare_and_swap(raw: &mut [Raw]) {
    let compared: HashSet<Reg> = raw
        .iter()
        .filter_map(|r| match &r.inst.op {
            Op::Atom {
                f: AtomFn::Cas, b, ..
            } => Some(*b),
            _ => None,
        })
        .collect();
    for r in raw {
        if let Op::Ld {
            lanes: 1,
            d,
            strong,
            ..
        } = &mut r.inst.op
            && compared.contains(&d[0])
        {
            *strong = true;
        }
    }
}

/// Whether the order of blocks can show in the results of a correct kernel.
fn is_ordered(op: &Op) -> bool {
    match op {
        Op::Atom {
            space, ty, d, f, ..
        } => {
            !matches!(space, Space::Shared | Space::Cluster)
                && (!d.is_none()
                    || ty.is_float()
                    || ty.bytes() != 4
                    || matches!(f, AtomFn::Inc | AtomFn::Dec))
        }
        Op::Ld { space, strong, .. } | Op::St { space, strong, .. } => {
            *strong && matches!(space, Space::Global | Space::Generic)
        }
        _ => false,
    }
}

fn meta(inst: &Inst, line: u32, loc: u32, code: &Code) -> Meta {
    let slot = |reg: Reg| {
        let base = if reg.is_pred() {
            code.narrow + code.wide
        } else if reg.is_wide() {
            code.narrow
        } else {
            0
        };
        (base + reg.index()) as u32
    };
    let (mut sources, mut observed, mut destinations) = (Vec::new(), Vec::new(), Vec::new());
    inst.op.visit(|reg, role| match role {
        Role::Source => sources.push(slot(reg)),
        Role::Observed => observed.push(slot(reg)),
        Role::Destination => destinations.push(slot(reg)),
    });
    Meta {
        line,
        loc,
        class: inst.op.class(),
        flops: inst.op.flops(),
        special_functions: inst.op.special_functions(),
        sources: sources.into(),
        observed: observed.into(),
        destinations: destinations.into(),
    }
}

/// Splits into basic blocks; also yields the block of each instruction.
fn split(raw: &[Raw], entries: &[usize]) -> (Vec<Block>, Vec<usize>) {
    let mut leader = vec![false; raw.len()];
    entries.iter().for_each(|at| leader[*at] = true);
    for (at, instruction) in raw.iter().enumerate() {
        let ends = match &instruction.inst.op {
            Op::Bra { to } => {
                leader[*to as usize] = true;
                true
            }
            Op::BranchIndexed { targets, .. } => {
                targets.iter().for_each(|to| leader[*to as usize] = true);
                true
            }
            Op::Exit | Op::Return | Op::Trap => true,
            _ => false,
        };
        if ends && at + 1 < raw.len() {
            leader[at + 1] = true;
        }
    }
    let mut block_of = Vec::with_capacity(raw.len());
    let mut starts = Vec::new();
    for (at, leads) in leader.iter().enumerate() {
        if *leads {
            starts.push(at);
        }
        block_of.push(starts.len() - 1);
    }
    let blocks = starts
        .iter()
        .enumerate()
        .map(|(index, start)| {
            let end = starts.get(index + 1).copied().unwrap_or(raw.len());
            let Inst { op, guard } = &raw[end - 1].inst;
            let guarded = *guard != Pred::TRUE;
            let mut successors = Vec::new();
            let falls = match op {
                Op::Bra { to } => {
                    successors.push(block_of[*to as usize]);
                    guarded
                }
                Op::BranchIndexed { targets, .. } => {
                    successors.extend(targets.iter().map(|to| block_of[*to as usize]));
                    guarded
                }
                Op::Exit | Op::Return => guarded,
                _ => true,
            };
            let next = (falls && index + 1 < starts.len()).then_some(index + 1);
            successors.extend(next);
            Block {
                start: *start,
                end,
                successors,
                next,
            }
        })
        .collect();
    (blocks, block_of)
}

/// Strongly connected components of the subgraph where `member[node] == level`, in reverse topological order
/// (Tarjan, without recursion).
fn components(
    blocks: &[Block],
    nodes: &[usize],
    member: &[usize],
    level: usize,
) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let mut index = vec![(UNSEEN, 0usize, false); blocks.len()];
    let mut counter = 0;
    let mut stack = Vec::new();
    let mut found = Vec::new();
    let mut work: Vec<(usize, usize)> = Vec::new();
    for root in nodes {
        if index[*root].0 != UNSEEN {
            continue;
        }
        work.push((*root, 0));
        while let Some((node, edge)) = work.pop() {
            if edge == 0 {
                index[node] = (counter, counter, true);
                counter += 1;
                stack.push(node);
            }
            if let Some(next) = blocks[node].successors.get(edge).copied() {
                work.push((node, edge + 1));
                if member[next] == level {
                    if index[next].0 == UNSEEN {
                        work.push((next, 0));
                    } else if index[next].2 {
                        index[node].1 = index[node].1.min(index[next].0);
                    }
                }
                continue;
            }
            if index[node].0 == index[node].1 {
                let mut component = Vec::new();
                while let Some(top) = stack.pop() {
                    index[top].2 = false;
                    component.push(top);
                    if top == node {
                        break;
                    }
                }
                found.push(component);
            }
            if let Some((parent, _)) = work.last() {
                index[*parent].1 = index[*parent].1.min(index[node].1);
            }
        }
    }
    found
}

/// A piece of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Item {
    Block(usize),
    /// The end of the loop with that head: a jump back to the head, where the lanes that go round again meet.
    Latch(usize),
}

/// The order of blocks, and the blocks (sorted) of each loop that has a latch.
struct Layout {
    items: Vec<Item>,
    latches: HashMap<usize, Vec<usize>>,
}

/// What is left to lay out.
enum Work {
    Blocks(Vec<usize>),
    /// The blocks of one loop, or a single block.
    Component(Vec<usize>),
    Latch(usize),
}

/// Orders the blocks reachable from each root, one root after the other: loops contiguous, edges forward except to loop
/// heads.
fn weak_topological_order(blocks: &[Block], roots: &[usize]) -> Layout {
    let mut reached = vec![false; blocks.len()];
    let mut predecessors = vec![Vec::new(); blocks.len()];
    // Last in, first out: the first root's blocks are ordered first.
    let mut functions = Vec::new();
    for root in roots {
        let mut all = Vec::new();
        let mut work = vec![*root];
        while let Some(node) = work.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                let next = &blocks[node].successors;
                next.iter().for_each(|next| predecessors[*next].push(node));
                work.extend(next);
                all.push(node);
            }
        }
        all.sort_unstable();
        functions.insert(0, Work::Blocks(all));
    }

    // Each set of nodes still to be ordered is marked with a number of its own.
    let mut member = vec![usize::MAX; blocks.len()];
    let mut level = 0;
    let mut layout = Layout {
        items: Vec::new(),
        latches: HashMap::new(),
    };
    let mut depth = 0;
    let mut work = functions;
    while let Some(next) = work.pop() {
        match next {
            Work::Latch(head) => {
                depth -= 1;
                layout.items.push(Item::Latch(head));
            }
            Work::Component(nodes) if nodes.len() == 1 || depth >= NESTING_LIMIT => {
                layout.items.extend(nodes.into_iter().map(Item::Block));
            }
            Work::Component(nodes) => {
                nodes.iter().for_each(|node| member[*node] = level);
                let inside = level;
                level += 1;
                // The head is entered from outside.
                let entered =
                    |node: &usize| predecessors[*node].iter().any(|p| member[*p] != inside);
                let head = nodes
                    .iter()
                    .copied()
                    .filter(entered)
                    .min()
                    .unwrap_or(nodes[0]);
                layout.items.push(Item::Block(head));
                work.push(Work::Latch(head));
                work.push(Work::Blocks(
                    nodes.iter().copied().filter(|node| *node != head).collect(),
                ));
                layout.latches.insert(head, nodes);
                depth += 1;
            }
            Work::Blocks(nodes) => {
                nodes.iter().for_each(|node| member[*node] = level);
                let found = components(blocks, &nodes, &member, level);
                level += 1;
                // Last in, first out: the components come in reverse topological order already.
                for mut component in found {
                    component.sort_unstable();
                    work.push(Work::Component(component));
                }
            }
        }
    }
    layout
}

/// The most 32-bit registers live at once, and what addressing and the ABI take, in units of 8.
fn estimate_registers(raw: &[Raw], blocks: &[Block], order: &[usize], code: &Code) -> u32 {
    let slots = code.narrow + code.wide;
    let clamp = |live: u32| (live + 6).next_multiple_of(8).clamp(16, 255);
    if slots.saturating_mul(blocks.len()) > LIVENESS_LIMIT {
        return 255;
    }
    let words = slots.div_ceil(64);
    let mut special = vec![false; slots];
    code.specials
        .iter()
        .for_each(|(_, slot)| special[*slot] = true);
    let slot = |reg: Reg| {
        if reg.is_wide() {
            code.narrow + reg.index()
        } else {
            reg.index()
        }
    };
    let weight = |slot: usize| if slot >= code.narrow { 2 } else { 1 };
    let step = |inst: &Inst, live: &mut [u64]| {
        let guarded = inst.guard != Pred::TRUE;
        inst.op.visit(|reg, role| {
            if role == Role::Destination && !reg.is_pred() && !guarded {
                live[slot(reg) / 64] &= !(1 << (slot(reg) % 64));
            }
        });
        inst.op.visit(|reg, role| {
            if role != Role::Destination && !reg.is_pred() && !special[slot(reg)] {
                live[slot(reg) / 64] |= 1 << (slot(reg) % 64);
            }
        });
    };
    let mut at_start = vec![vec![0u64; words]; blocks.len()];
    let leaving = |at_start: &[Vec<u64>], block: &Block| {
        let mut live = vec![0u64; words];
        for next in &block.successors {
            live.iter_mut()
                .zip(&at_start[*next])
                .for_each(|(l, n)| *l |= n);
        }
        live
    };
    // Backwards through the layout converges in one pass per loop depth, plus one.
    for _ in 0..NESTING_LIMIT {
        let mut changed = false;
        for index in order.iter().rev() {
            let mut live = leaving(&at_start, &blocks[*index]);
            raw[blocks[*index].start..blocks[*index].end]
                .iter()
                .rev()
                .for_each(|r| step(&r.inst, &mut live));
            changed |= live != at_start[*index];
            at_start[*index] = live;
        }
        if !changed {
            break;
        }
    }
    let mut most = 0;
    for index in order {
        let mut live = leaving(&at_start, &blocks[*index]);
        for instruction in raw[blocks[*index].start..blocks[*index].end].iter().rev() {
            step(&instruction.inst, &mut live);
            let mut count = 0;
            for (word, bits) in live.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    count += weight(word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }
            most = most.max(count);
        }
    }
    clamp(most)
}
