//! `wgmma`: products that the four warps of a warpgroup order from the tensor cores, and their registers meanwhile.
//!
//! Each warp executes its part, 16 of the 64 rows, when it comes to the instruction. Shared memory is read then and noted again
//! when the warp waits, so that what changes it in between shows as a race. The sums are there at once, but using
//! them before the wait is a finding; a plain `mov` hands on what holds for its source, as the assembler removes those.
//!
//! A factor in shared memory consists of chunks of 16 bytes. Eight chunks, one from each of eight lines, make a core matrix. A line is
//! a row of A or a column of B (`across` false: a chunk holds eight steps of k) or one step of k (`across`: a chunk holds eight
//! rows or columns). The descriptor says how far core matrices lie apart, and whether the chunks of 2, 4 or 8
//! neighbours lie together in lines of 32, 64 or 128 bytes whose chunks are permuted: bits 4 and on of an address by those
//! from 7 on.

use std::collections::BTreeMap;

use super::cluster::{Common, Stop};
use super::float::canonical;
use super::machine::{Site, Worker};
use super::registers::{Lanes32, lanes};
use super::soft;
use super::traffic::bank_passes;
use super::warp::Warp;
use crate::finding::{Access, FindingKind};
use crate::ptx::isa::{Factor, Hopper, Inst, Meta, MmaTy, Op, Reg, Round, Wgmma};

/// Steps of k of an instruction, rows of a warp, elements and bytes of a chunk.
const K: usize = 16;
const ROWS: usize = 16;
const CHUNK: usize = 8;
const CHUNK_BYTES: u32 = 16;

/// A product that runs.
#[derive(Debug)]
struct Running {
    group: u32,
    pc: u32,
    /// Chunks of shared memory that it reads.
    chunks: Vec<u64>,
}

/// How the registers of a warp stand to its products. One entry per 32-bit register.
#[derive(Debug, Default)]
pub(crate) struct Products {
    running: Vec<Running>,
    committed: u32,
    /// Instructions executed at the last `wgmma.fence`.
    fenced: u64,
    /// Registers that running products use: the group plus one, and whether they are sums.
    busy: Vec<(u32, bool)>,
    /// Instructions executed when something else than `wgmma` last wrote.
    touched: Vec<u64>,
}

impl Products {
    pub fn reset(&mut self, registers: usize) {
        self.running.clear();
        (self.committed, self.fenced) = (0, 0);
        self.busy.clear();
        self.busy.resize(registers, (0, false));
        self.touched.clear();
        self.touched.resize(registers, 0);
    }

    pub fn fence(&mut self, executed: u64) {
        self.fenced = executed;
    }

    pub fn commit(&mut self) {
        self.committed += 1;
    }

    /// The products of all but the last `pending` groups.
    fn retire(&mut self, pending: u32) -> Vec<Running> {
        let until = self.committed.saturating_sub(pending);
        let running = std::mem::take(&mut self.running);
        let (ended, rest) = running.into_iter().partition(|one| one.group < until);
        self.running = rest;
        for busy in &mut self.busy {
            if busy.0 <= until {
                *busy = (0, false);
            }
        }
        ended
    }
}

/// What the warps of a warpgroup must execute together: instruction and descriptors by number, and who was there.
#[derive(Debug, Default)]
pub(crate) struct Together {
    log: BTreeMap<u64, (u32, [u64; 2], u32)>,
    executed: [u64; 4],
}

impl Together {
    pub fn clear(&mut self) {
        self.log.clear();
        self.executed = [0; 4];
    }

    /// An instruction that not all four warps executed, and those that did.
    pub fn unfinished(&self) -> Option<(u32, u32)> {
        let first = self.log.values().next();
        first.map(|(pc, _, warps)| (*pc, *warps))
    }
}

/// A factor in shared memory, as its descriptor says.
#[derive(Debug, Clone, Copy)]
struct Tile {
    start: u64,
    leading: u64,
    stride: u64,
    /// Chunks of a line that lie together.
    width: u64,
    across: bool,
}

impl Tile {
    fn new(descriptor: u64, across: bool) -> Result<Tile, String> {
        let field = |at: u32| (descriptor >> at & 0x3fff) << 4;
        if descriptor >> 49 & 7 != 0 {
            return Err("a wgmma descriptor with a base offset, which is not supported".into());
        }
        Ok(Tile {
            start: field(0),
            leading: field(16),
            stride: field(32),
            width: [1, 8, 4, 2][(descriptor >> 62) as usize],
            across,
        })
    }

    /// Where chunk `part` of line `line` lies.
    fn chunk(&self, line: usize, part: usize) -> u64 {
        let (eights, line) = (line as u64 / 8, line as u64 % 8);
        let part = part as u64;
        let bytes = u64::from(CHUNK_BYTES);
        let at = match (self.width, self.across) {
            (1, false) => self.start + eights * self.stride + part * self.leading + line * bytes,
            (1, true) => self.start + eights * self.leading + part * self.stride + line * bytes,
            (w, across) => {
                let along = if across { part / w * self.leading } else { 0 };
                let part = if across { part % w } else { part };
                self.start + eights * self.stride + line * w * bytes + along + part * bytes
            }
        };
        at ^ (at >> 7 & (self.width - 1)) << 4
    }

    /// The chunks that hold 16 steps of k of `count` rows or columns from `first` on: (line, part).
    fn chunks(&self, first: usize, count: usize) -> Vec<(usize, usize)> {
        let (lines, parts) = if self.across {
            (0..K, first / CHUNK..(first + count) / CHUNK)
        } else {
            (first..first + count, 0..K / CHUNK)
        };
        // Eight lines of a part follow each other: a core matrix.
        let eights = lines.clone().step_by(8);
        eights
            .flat_map(|from| parts.clone().map(move |part| (from, part)))
            .flat_map(|(from, part)| (from..from + 8).map(move |line| (line, part)))
            .collect()
    }
}

fn value(ty: MmaTy, bits: u32) -> f64 {
    match ty {
        MmaTy::F16 => f64::from_bits(soft::convert(
            u64::from(bits & 0xffff),
            soft::F16,
            soft::F64,
            Round::Nearest,
        )),
        _ => f64::from(f32::from_bits(bits << 16)),
    }
}

impl Worker<'_> {
    /// Checks that the four warps of a warpgroup execute this, all lanes, with the same descriptors.
    pub fn together(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        descriptors: [u64; 2],
        active: u32,
        what: &str,
    ) {
        if !self.m.check {
            return;
        }
        self.check_full(warp, active, what);
        let (group, member) = ((warp.index / 4) as usize, (warp.index % 4) as usize);
        if (warp.index / 4 + 1) * 128 > self.m.threads {
            self.report(warp.site(0), FindingKind::WarpgroupDivergence, || {
                format!(
                    "{what} by a warp of no full warpgroup: four warps from a multiple of four on"
                )
            });
            return;
        }
        let together = &mut common.engines.groups[8 * warp.cta as usize + group];
        let number = together.executed[member];
        together.executed[member] += 1;
        let entry = together
            .log
            .entry(number)
            .or_insert((warp.pc, descriptors, 0));
        entry.2 |= 1 << member;
        let (pc, theirs, warps) = *entry;
        if warps == 15 {
            together.log.remove(&number);
        }
        let code = self.m.code;
        if pc != warp.pc {
            let line = code.meta[pc as usize].line;
            self.report(warp.site(0), FindingKind::WarpgroupDivergence, || {
                format!("{what} while another warp of the warpgroup is at PTX line {line}")
            });
        } else if theirs != descriptors {
            self.report(warp.site(0), FindingKind::WarpgroupDivergence, || {
                format!("{what} with other descriptors than in another warp of the warpgroup")
            });
        }
    }

    /// Reads 16 steps of k of some rows or columns: `[row or column][k]`.
    #[allow(clippy::too_many_arguments)]
    fn read_tile(
        &mut self,
        common: &mut Common,
        warp: &Warp,
        tile: Tile,
        ty: MmaTy,
        [first, count]: [usize; 2],
        counted: bool,
        read: &mut Vec<u64>,
    ) -> Vec<[f64; K]> {
        let mut values = vec![[0f64; K]; count];
        let chunks = tile.chunks(first, count);
        for core in chunks.chunks(8) {
            let mut addresses = [0u64; 32];
            for ((line, part), address) in core.iter().zip(&mut addresses) {
                *address = warp.shared(tile.chunk(*line, *part), false);
            }
            if counted {
                let (passes, needed) = bank_passes(&addresses, 0xff, CHUNK_BYTES);
                self.counters.shared_requests += 1;
                self.counters.shared_wavefronts += passes;
                self.counters.bank_conflicts += passes - needed;
            }
            for ((line, part), address) in core.iter().zip(addresses) {
                if !self.has_shared(common, warp, 0, address, CHUNK_BYTES, Access::Read) {
                    continue;
                }
                self.engine_reads(common, warp, address, CHUNK_BYTES, warp.site(0));
                read.push(address);
                for i in 0..CHUNK {
                    let word = common.shared.get(address + 4 * (i as u64 / 2), 4);
                    let x = value(ty, word >> (16 * (i % 2)) & 0xffff);
                    if tile.across {
                        values[part * CHUNK + i - first][*line] = x;
                    } else {
                        values[line - first][part * CHUNK + i] = x;
                    }
                }
            }
        }
        values
    }

    /// Executes a product; returns the lanes whose sums count as written.
    pub fn wgmma(
        &mut self,
        common: &mut Common,
        warp: &mut Warp,
        wgmma: &Wgmma,
        active: u32,
    ) -> Result<u32, Stop> {
        let k = &self.m.constants;
        let first = lanes(active).next().unwrap_or(0);
        let mut uniform = true;
        let mut tile = |factor: &Factor| match factor {
            Factor::Registers(_) => Ok((0, None)),
            Factor::Shared { descriptor, across } => {
                let values = warp.regs.r64(k, *descriptor);
                uniform &= lanes(active).all(|lane| values[lane] == values[first]);
                Tile::new(values[first], *across).map(|tile| (values[first], Some(tile)))
            }
        };
        let stop = |message| {
            let Site { pc, thread } = warp.site(first);
            Stop {
                pc,
                thread,
                message,
            }
        };
        let ((of_a, a), (of_b, b)) = match (tile(&wgmma.a), tile(&wgmma.b)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(message), _) | (_, Err(message)) => return Err(stop(message)),
        };
        self.together(common, warp, [of_a, of_b], active, "wgmma");
        if self.m.check && !uniform {
            self.report(warp.site(first), FindingKind::WarpgroupDivergence, || {
                "wgmma with different descriptors in the lanes of a warp".into()
            });
        }
        let sums = warp.regs.pred(wgmma.accumulate);
        self.check_factors(warp, wgmma, sums & active);
        let (mut chunks, member) = (Vec::new(), (warp.index % 4) as usize);
        let mut left = match (a, &wgmma.a) {
            (Some(tile), _) => {
                let rows = [member * ROWS, ROWS];
                self.read_tile(common, warp, tile, wgmma.ty, rows, true, &mut chunks)
            }
            (None, Factor::Registers(list)) => {
                let regs: Vec<Lanes32> = list.iter().map(|reg| *warp.regs.r32(k, *reg)).collect();
                fragment(wgmma.ty, &regs)
            }
            (None, Factor::Shared { .. }) => vec![[0.0; K]; ROWS],
        };
        let Some(b) = b else {
            return Ok(active);
        };
        // The four warps share what is read of B.
        let (columns, counted) = ([0, wgmma.n], member == 0);
        let right = self.read_tile(common, warp, b, wgmma.ty, columns, counted, &mut chunks);
        if wgmma.negate[0] != wgmma.negate[1] {
            left.iter_mut().flatten().for_each(|x| *x = -*x);
        }
        let products = multiply(&left, &right);
        for (r, reg) in wgmma.d.iter().enumerate() {
            let old = if reg.is_none() {
                [0; 32]
            } else {
                *warp.regs.r32(&self.m.constants, *reg)
            };
            let new: Lanes32 = std::array::from_fn(|lane| {
                let row = lane / 4 + r / 2 % 2 * 8;
                let column = r / 4 * 8 + lane % 4 * 2 + r % 2;
                let start = if sums >> lane & 1 == 1 {
                    f64::from(f32::from_bits(old[lane]))
                } else {
                    0.0
                };
                canonical((products[row][column] + start) as f32)
            });
            warp.regs.set32(*reg, &new, active);
        }
        if self.m.check {
            let group = warp.wgmma.committed;
            let mut mark = |reg: &Reg, sum: bool| {
                if !reg.is_none() && !reg.is_const() {
                    warp.wgmma.busy[reg.index()] = (group + 1, sum);
                }
            };
            if let Factor::Registers(list) = &wgmma.a {
                list.iter().for_each(|reg| mark(reg, false));
            }
            wgmma.d.iter().for_each(|reg| mark(reg, true));
            let pc = warp.pc;
            warp.wgmma.running.push(Running { group, pc, chunks });
        }
        Ok(active)
    }

    /// Sums and the factor in registers must have been written, and before a `wgmma.fence`.
    fn check_factors(&mut self, warp: &mut Warp, wgmma: &Wgmma, sums: u32) {
        if !self.m.check {
            return;
        }
        let a = match &wgmma.a {
            Factor::Registers(list) => &list[..],
            Factor::Shared { .. } => &[],
        };
        let plain = |reg: &&Reg| !reg.is_none() && !reg.is_const();
        for reg in wgmma.d.iter().chain(a).filter(plain) {
            if warp.wgmma.touched[reg.index()] > warp.wgmma.fenced {
                self.report(warp.site(0), FindingKind::WgmmaRegisters, || {
                    "a register of this wgmma was written with no wgmma.fence after".into()
                });
                break;
            }
        }
        for reg in wgmma.d.iter().filter(plain) {
            let slot = reg.index() as u32;
            let bad = sums & !warp.regs.is_written(slot);
            if bad != 0 {
                self.unwritten(warp, slot, bad);
            }
        }
    }

    /// `wgmma.wait_group`: all but the last `pending` groups are complete.
    pub fn wait_wgmma(&mut self, common: &mut Common, warp: &mut Warp, pending: u32) {
        if !self.m.check {
            return;
        }
        for product in warp.wgmma.retire(pending) {
            let site = Site {
                pc: product.pc,
                ..warp.site(0)
            };
            for address in product.chunks {
                self.engine_reads(common, warp, address, CHUNK_BYTES, site);
            }
        }
        // All lanes are here, and know that the products have read what they read.
        common.order.meet(warp.number);
    }

    /// Checks an instruction against the products that run, and keeps what it writes; before it is executed.
    pub fn check_registers(&mut self, warp: &mut Warp, inst: &Inst, meta: &Meta) {
        let narrow = self.m.code.narrow;
        let own = |slots: &[u32]| -> Vec<usize> {
            let slots = slots.iter().map(|slot| *slot as usize);
            slots.filter(|slot| *slot < narrow).collect()
        };
        let now = warp.executed;
        match &inst.op {
            Op::Mov { d, a } if !d.is_none() && !d.is_wide() => {
                // The assembler puts constants where it wants them.
                let (from, touched) = if a.is_const() {
                    ((0, false), 0)
                } else {
                    let from = warp.wgmma.busy[a.index()];
                    let from = if from.1 { from } else { (0, false) };
                    (from, warp.wgmma.touched[a.index()])
                };
                let busy = std::mem::replace(&mut warp.wgmma.busy[d.index()], from);
                warp.wgmma.touched[d.index()] = touched;
                if busy.0 != 0 && !(busy.1 && from.1) {
                    self.used_early(warp, "written");
                }
            }
            Op::Hopper(hopper) if matches!(**hopper, Hopper::Wgmma(_)) => {
                // Of a fragment; sums may be added to again.
                let early = |slot: &usize| warp.wgmma.busy[*slot].1;
                if own(&meta.observed).iter().any(early) {
                    self.used_early(warp, "read");
                }
            }
            _ => {
                let wgmma = &mut warp.wgmma;
                let mut read = false;
                for slot in meta.sources.iter().chain(&meta.observed) {
                    let slot = *slot as usize;
                    read |= slot < narrow && std::mem::take(&mut wgmma.busy[slot].1);
                }
                let mut written = false;
                for slot in &meta.destinations {
                    let slot = *slot as usize;
                    if slot < narrow {
                        written |= std::mem::take(&mut wgmma.busy[slot].0) != 0;
                        wgmma.touched[slot] = now;
                    }
                }
                if read {
                    self.used_early(warp, "read");
                } else if written {
                    self.used_early(warp, "written");
                }
            }
        }
    }

    #[cold]
    fn used_early(&mut self, warp: &Warp, how: &str) {
        self.report(
            warp.first_site(warp.mask),
            FindingKind::WgmmaRegisters,
            || format!("a register of a running wgmma is {how} before wgmma.wait_group"),
        );
    }
}

/// A in registers: the fragment of an `mma` of 16 rows and 16 steps.
fn fragment(ty: MmaTy, regs: &[Lanes32]) -> Vec<[f64; K]> {
    let mut rows = vec![[0f64; K]; ROWS];
    for (r, reg) in regs.iter().enumerate() {
        for (lane, word) in reg.iter().enumerate() {
            for half in 0..2 {
                let row = lane / 4 + r % 2 * 8;
                rows[row][lane % 4 * 2 + half + r / 2 * 8] = value(ty, word >> (16 * half));
            }
        }
    }
    rows
}

/// Products are exact; the sums are formed in f64.
fn multiply(left: &[[f64; K]], right: &[[f64; K]]) -> Vec<Vec<f64>> {
    let steps: [Vec<f64>; K] = std::array::from_fn(|k| right.iter().map(|row| row[k]).collect());
    let row = |row: &[f64; K]| {
        let mut sums = vec![0f64; right.len()];
        for (x, step) in row.iter().zip(&steps) {
            for (sum, y) in sums.iter_mut().zip(step) {
                *sum += x * y;
            }
        }
        sums
    };
    left.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor of these fields in bytes; the mode is that of the instruction.
    fn tile(start: u64, leading: u64, stride: u64, mode: u64, across: bool) -> Tile {
        Tile::new(
            start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62,
            across,
        )
        .unwrap()
    }

    #[test]
    fn core_matrices_lie_where_the_descriptor_says() {
        let plain = tile(4096, 128, 256, 0, false);
        assert_eq!(plain.chunk(0, 0), 4096);
        assert_eq!(plain.chunk(3, 1), 4096 + 128 + 48);
        assert_eq!(plain.chunk(17, 0), 4096 + 2 * 256 + 16);
        let across = tile(4096, 1024, 128, 0, true);
        assert_eq!(across.chunk(3, 2), 4096 + 2 * 128 + 48);
        assert_eq!(across.chunk(9, 0), 4096 + 1024 + 16);
    }

    #[test]
    fn swizzles_permute_the_chunks_of_a_line() {
        let wide = tile(8192, 0, 1024, 1, false);
        assert_eq!(wide.chunk(0, 1), 8192 + 16);
        assert_eq!(wide.chunk(5, 1), 8192 + 5 * 128 + 4 * 16);
        assert_eq!(wide.chunk(8, 0), 8192 + 1024);
        let half = tile(8192, 0, 512, 2, false);
        assert_eq!(half.chunk(2, 0), 8192 + 128 + 16);
        let quarter = tile(8192, 0, 256, 3, false);
        assert_eq!(
            [3, 4].map(|line| quarter.chunk(line, 0)),
            [8192 + 96, 8192 + 128 + 16]
        );
        // Nine eights of columns: the ninth in the next block.
        let across = tile(8192, 4096, 1024, 1, true);
        assert_eq!(across.chunk(1, 8), 8192 + 4096 + 128 + 16);
    }
}
