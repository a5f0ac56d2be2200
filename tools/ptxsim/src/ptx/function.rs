//! A kernel body under construction: scopes, registers, constants, variables, labels.

use std::collections::HashMap;
use std::rc::Rc;

use super::calls::Callable;
use super::flow;
use super::isa::{Code, Inst, Op, Pred, Reg, Routine, SharedVar, Special, Ty};
use super::parse::{Fault, Operand, Statement, Variable};
use crate::module::{Global, Param};

/// Gap between shared variables in bytes; a multiple of 128 keeps banks as they are.
const SHARED_GAP: u32 = 128;
/// No chip has more shared memory per block, nor local memory per thread.
const SHARED_LIMIT: u64 = 1 << 20;
const LOCAL_LIMIT: u64 = 512 << 10;
/// Register slots per bank: what fits the decoded form, and bounds the memory of a warp.
const SLOT_LIMIT: usize = 1 << 16;

/// What a name stands for in address expressions.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Symbol {
    Shared(u32),
    Local(u32),
    /// In the frame of the function that is decoded.
    Frame(u32),
    Param(u32),
    Module(usize),
}

/// A declared register, its slot given at first use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declared {
    pub reg: Reg,
    pub bits: u32,
}

#[derive(Default)]
pub(super) struct Scope<'a> {
    parent: usize,
    /// Exact names, and prefixes of `name<n>` with their count.
    single: HashMap<&'a str, Ty>,
    ranges: HashMap<&'a str, (u32, Ty)>,
    slots: HashMap<&'a str, Declared>,
    symbols: HashMap<String, Symbol>,
    /// `.param` variables of calls, and their sizes.
    pub arguments: HashMap<&'a str, (u32, u32)>,
    /// Where the local variables of the scopes around it end.
    local_top: u32,
    labels: HashMap<&'a str, u32>,
    tables: HashMap<&'a str, Vec<&'a str>>,
}

/// A raw instruction with its place.
pub(crate) struct Raw {
    pub inst: Inst,
    pub line: u32,
    pub loc: u32,
}

pub(crate) struct Function<'a> {
    pub(super) scopes: Vec<Scope<'a>>,
    pub(super) current: usize,
    pub code: Code,
    raw: Vec<Raw>,
    /// The functions of the module by name, and those called so far, in the order of `code.routines`.
    pub(super) functions: Rc<HashMap<&'a str, Callable<'a>>>,
    pub(super) called: Vec<&'a str>,
    /// Where the kernel and each function begin in `raw`.
    entries: Vec<usize>,
    /// The function that is decoded; none for the kernel.
    pub(super) owner: Option<usize>,
    /// End of the local variables in scope.
    local_top: u32,
    /// Branch targets by name, with the scope and line of the branch; `Op::Bra` holds the index until `finish`.
    references: Vec<(usize, &'a str, u32)>,
    constants32: HashMap<u32, Reg>,
    constants64: HashMap<u64, Reg>,
    specials: HashMap<Special, Reg>,
    externals: Vec<(String, u64)>,
    dynamic_align: u32,
    line: u32,
}

impl<'a> Function<'a> {
    pub fn new(
        params: &[Param],
        globals: &[Global],
        shared: &[(String, u64, Option<u64>)],
        functions: &Rc<HashMap<&'a str, Callable<'a>>>,
    ) -> Function<'a> {
        let mut top = Scope::default();
        let mut kernel = Scope::default();
        for (index, global) in globals.iter().enumerate() {
            top.symbols
                .insert(global.name.clone(), Symbol::Module(index));
        }
        for param in params {
            kernel
                .symbols
                .insert(param.name.clone(), Symbol::Param(param.offset));
        }
        let mut function = Function {
            scopes: vec![top, kernel],
            current: 1,
            // Predicate 0 is always true, predicate 1 is the carry flag.
            code: Code {
                preds: 2,
                ..Code::default()
            },
            raw: Vec::new(),
            functions: Rc::clone(functions),
            called: Vec::new(),
            entries: vec![0],
            owner: None,
            local_top: 0,
            references: Vec::new(),
            constants32: HashMap::new(),
            constants64: HashMap::new(),
            specials: HashMap::new(),
            externals: Vec::new(),
            dynamic_align: 16,
            line: 0,
        };
        // Only what the body names counts; demoted variables stand in bodies, so these are rare.
        for (name, align, bytes) in shared {
            match bytes {
                Some(bytes) => {
                    let offset = function.place_shared(name, *align, *bytes).unwrap_or(0);
                    function.scopes[0]
                        .symbols
                        .insert(name.clone(), Symbol::Shared(offset));
                }
                None => function.externals.push((name.clone(), *align)),
            }
        }
        function
    }

    pub fn open_scope(&mut self) {
        self.scopes.push(Scope {
            parent: self.current,
            local_top: self.local_top,
            ..Scope::default()
        });
        self.current = self.scopes.len() - 1;
    }

    pub fn close_scope(&mut self) {
        self.local_top = self.scopes[self.current].local_top;
        self.current = self.scopes[self.current].parent;
    }

    /// The present scope and those around it, innermost first.
    pub(super) fn chain(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(from), |scope| {
            (*scope != 0).then(|| self.scopes[*scope].parent)
        })
    }

    pub fn register(&mut self, name: &'a str, count: Option<u32>, ty: Ty) {
        let scope = &mut self.scopes[self.current];
        match count {
            Some(count) => {
                scope.ranges.insert(name, (count, ty));
            }
            None => {
                scope.single.insert(name, ty);
                scope.slots.remove(name);
            }
        }
    }

    fn place_shared(&mut self, name: &str, align: u64, bytes: u64) -> Result<u32, String> {
        if bytes > SHARED_LIMIT {
            return Err(format!(
                "{name} has {bytes} bytes; shared memory holds at most {SHARED_LIMIT}"
            ));
        }
        let align = (align as u32).max(1);
        let real = self.code.static_shared.next_multiple_of(align);
        // A whole number of gaps further on, beyond the variable before.
        let least = match self.code.shared_vars.last() {
            Some(last) => last.offset + last.size + SHARED_GAP,
            None => 0,
        };
        let shift = least.saturating_sub(real);
        let offset = real + shift.next_multiple_of(align.max(SHARED_GAP));
        self.code.static_shared = real + bytes as u32;
        if u64::from(self.code.static_shared) > SHARED_LIMIT || offset > 1 << 22 {
            return Err(format!("{name} does not fit into shared memory"));
        }
        self.code.dynamic_offset = offset + bytes as u32;
        self.code.shared_vars.push(SharedVar {
            name: name.to_owned(),
            offset,
            size: bytes as u32,
        });
        Ok(offset)
    }

    pub fn shared_variable(&mut self, variable: &Variable<'a>) -> Result<(), String> {
        let Some(bytes) = variable.bytes else {
            return Err(format!("{} has no size", variable.name));
        };
        let offset = self.place_shared(variable.name, variable.align, bytes)?;
        self.scopes[self.current]
            .symbols
            .insert(variable.name.to_owned(), Symbol::Shared(offset));
        Ok(())
    }

    /// Places a variable in local memory: the kernel's at a fixed address, a function's in its frame.
    pub fn local_variable(&mut self, variable: &Variable<'a>) -> Result<u32, String> {
        let bytes = variable.bytes.unwrap_or(0);
        let offset = u64::from(self.local_top).next_multiple_of(variable.align.max(1));
        if bytes > LOCAL_LIMIT || offset + bytes > LOCAL_LIMIT {
            return Err(format!(
                "{} does not fit into {LOCAL_LIMIT} bytes of local memory",
                variable.name
            ));
        }
        self.local_top = (offset + bytes) as u32;
        let offset = offset as u32;
        let (most, symbol) = match self.owner {
            None => (&mut self.code.local_bytes, Symbol::Local(offset)),
            Some(routine) => (
                &mut self.code.routines[routine].frame,
                Symbol::Frame(offset),
            ),
        };
        *most = (*most).max(self.local_top);
        self.scopes[self.current]
            .symbols
            .insert(variable.name.to_owned(), symbol);
        Ok(offset)
    }

    pub fn label(&mut self, name: &'a str) -> Result<(), String> {
        let at = self.raw.len() as u32;
        match self.scopes[self.current].labels.insert(name, at) {
            Some(_) => Err(format!("label {name} is defined twice")),
            None => Ok(()),
        }
    }

    pub fn branch_targets(&mut self, name: &'a str, targets: Vec<&'a str>) {
        self.scopes[self.current].tables.insert(name, targets);
    }

    /// The `.branchtargets` table of that name.
    pub fn table(&self, name: &str) -> Option<Vec<&'a str>> {
        self.chain(self.current)
            .find_map(|scope| self.scopes[scope].tables.get(name).cloned())
    }

    /// A reference to a label that may come later.
    pub fn reference(&mut self, label: &'a str) -> u32 {
        self.references.push((self.current, label, self.line));
        self.references.len() as u32 - 1
    }

    /// The register of that name; its slot is given at first use.
    pub fn declared(&mut self, name: &'a str) -> Result<Option<Declared>, String> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = name[stem.len()..].parse().ok();
        let mut found = None;
        for scope in self.chain(self.current) {
            let scope_ref = &self.scopes[scope];
            if let Some(declared) = scope_ref.slots.get(name) {
                return Ok(Some(*declared));
            }
            if let Some(ty) = scope_ref.single.get(name) {
                found = Some((scope, *ty));
                break;
            }
            if let (Some((count, ty)), Some(number)) = (scope_ref.ranges.get(stem), number)
                && number < *count
            {
                found = Some((scope, *ty));
                break;
            }
        }
        let Some((scope, ty)) = found else {
            return Ok(None);
        };
        let reg = match ty.bytes() {
            0 => self.new_pred(),
            8 => self.new_wide(),
            _ => self.new_narrow(),
        };
        if self.code.narrow.max(self.code.wide).max(self.code.preds) >= SLOT_LIMIT {
            return Err(format!("more than {SLOT_LIMIT} registers of one kind"));
        }
        if let Some(routine) = self.owner {
            self.code.routines[routine].registers.push(reg);
        }
        let declared = Declared {
            reg,
            bits: ty.bytes() * 8,
        };
        self.scopes[scope].slots.insert(name, declared);
        Ok(Some(declared))
    }

    fn new_narrow(&mut self) -> Reg {
        self.code.narrow += 1;
        Reg::narrow(self.code.narrow - 1)
    }

    fn new_wide(&mut self) -> Reg {
        self.code.wide += 1;
        Reg::wide(self.code.wide - 1)
    }

    fn new_pred(&mut self) -> Reg {
        self.code.preds += 1;
        Reg::pred(self.code.preds - 1)
    }

    /// The predicate register of that name as a guard or operand.
    pub fn predicate(&mut self, name: &'a str, negated: bool) -> Result<Pred, String> {
        match self.declared(name)? {
            Some(Declared { reg, .. }) if reg.is_pred() => Ok(Pred {
                index: reg.index() as u16,
                negated,
            }),
            Some(_) => Err(format!("{name} is not a predicate")),
            None => Err(format!("predicate {name} is not declared")),
        }
    }

    /// A constant of the pool, in the 64-bit bank if `wide`.
    pub fn constant(&mut self, bits: u64, wide: bool) -> Reg {
        if wide {
            let pool = &mut self.code.constants64;
            *self.constants64.entry(bits).or_insert_with(|| {
                pool.push(bits);
                Reg::constant(pool.len() - 1, true)
            })
        } else {
            let pool = &mut self.code.constants32;
            *self.constants32.entry(bits as u32).or_insert_with(|| {
                pool.push(bits as u32);
                Reg::constant(pool.len() - 1, false)
            })
        }
    }

    /// The slot that holds a special register from a warp's start on.
    pub fn special(&mut self, special: Special) -> Reg {
        if let Some(reg) = self.specials.get(&special) {
            return *reg;
        }
        let reg = self.new_narrow();
        self.specials.insert(special, reg);
        self.code.specials.push((special, reg.index()));
        reg
    }

    /// The variable of that name.
    pub fn symbol(&mut self, name: &str) -> Option<Symbol> {
        let known = self
            .chain(self.current)
            .find_map(|scope| self.scopes[scope].symbols.get(name).copied());
        if known.is_some() {
            return known;
        }
        // Dynamic shared memory begins after everything static, which is not known yet: see `finish`.
        let align = self
            .externals
            .iter()
            .find(|(external, _)| external == name)?
            .1 as u32;
        self.dynamic_align = self.dynamic_align.max(align);
        Some(Symbol::Shared(u32::MAX))
    }

    /// A constant holding a variable's address plus `offset` (an offset within its space, except for module
    /// variables, which have addresses once loaded).
    pub fn address_constant(
        &mut self,
        symbol: Symbol,
        offset: i64,
        wide: bool,
    ) -> Result<Reg, String> {
        let plain = match symbol {
            Symbol::Shared(u32::MAX) => {
                // A constant of its own, patched when the static variables are all known.
                let pool = if wide {
                    self.code.constants64.len()
                } else {
                    self.code.constants32.len()
                };
                if wide {
                    self.code.constants64.push(offset as u64);
                } else {
                    self.code.constants32.push(offset as u32);
                }
                let reg = Reg::constant(pool, wide);
                self.code.dynamic_constants.push(reg);
                return Ok(reg);
            }
            Symbol::Shared(base) | Symbol::Local(base) | Symbol::Param(base) => u64::from(base),
            Symbol::Frame(_) => {
                return Err("only mov takes the address of a variable of a function".into());
            }
            Symbol::Module(index) => {
                if !wide {
                    return Err("the address of a module variable needs 64 bits".into());
                }
                self.code.constants64.push(0);
                let constant = self.code.constants64.len() - 1;
                self.code.relocations.push((constant, index, offset));
                return Ok(Reg::constant(constant, true));
            }
        };
        Ok(self.constant(plain.wrapping_add(offset as u64), wide))
    }

    /// Decodes a statement and appends it.
    pub fn add(&mut self, statement: &Statement<'a>, guard: Pred, loc: u32) -> Result<(), String> {
        self.line = statement.line;
        let op = self.decode(statement)?;
        self.raw.push(Raw {
            inst: Inst { op, guard },
            line: statement.line,
            loc,
        });
        Ok(())
    }

    fn resolve(&self, reference: u32) -> Result<u32, Fault> {
        let (scope, label, line) = self.references[reference as usize];
        self.chain(scope)
            .find_map(|scope| self.scopes[scope].labels.get(label).copied())
            .ok_or_else(|| (line, format!("label {label} is not defined")))
    }

    /// Ends the body of the kernel or of a function: falling off the end is an exit or a return, and labels at the end
    /// have an instruction too.
    pub fn end_body(&mut self, line: u32) {
        let start = self.entries.last().copied().unwrap_or(0);
        let last = self.raw[start.min(self.raw.len())..].last();
        let (line, loc) = last.map_or((line, 0), |raw| (raw.line, raw.loc));
        let op = if self.owner.is_some() {
            Op::Return
        } else {
            Op::Exit
        };
        let inst = Inst {
            op,
            guard: Pred::TRUE,
        };
        self.raw.push(Raw { inst, line, loc });
    }

    /// The index of a function among those that the kernel calls; its body is decoded later.
    pub(super) fn routine(&mut self, name: &'a str) -> usize {
        if let Some(index) = self.called.iter().position(|called| *called == name) {
            return index;
        }
        self.called.push(name);
        let base = self.new_wide();
        self.code.routines.push(Routine {
            name: name.to_owned(),
            entry: 0,
            frame: 0,
            base,
            registers: vec![base],
        });
        self.called.len() - 1
    }

    /// Begins the body of a called function, in a scope beside the kernel's.
    pub(super) fn open_function(&mut self, index: usize, callable: &Callable<'a>) {
        self.entries.push(self.raw.len());
        self.owner = Some(index);
        let mut scope = Scope::default();
        for param in callable.results.iter().chain(&callable.params) {
            scope
                .symbols
                .insert(param.name.clone(), Symbol::Frame(param.offset));
        }
        self.local_top = callable.frame;
        self.code.routines[index].frame = callable.frame;
        self.scopes.push(scope);
        self.current = self.scopes.len() - 1;
    }

    /// Instructions decoded so far.
    pub(super) fn length(&self) -> usize {
        self.raw.len()
    }

    /// Resolves labels and orders the code; yields it with the register estimate.
    pub fn finish(mut self) -> Result<(Code, u32), Fault> {
        let mut raw = std::mem::take(&mut self.raw);
        for instruction in &mut raw {
            match &mut instruction.inst.op {
                Op::Bra { to } => *to = self.resolve(*to)?,
                Op::BranchIndexed { targets, .. } => {
                    for target in targets.iter_mut() {
                        *target = self.resolve(*target)?;
                    }
                }
                _ => {}
            }
        }
        let gap = if self.code.shared_vars.is_empty() {
            0
        } else {
            SHARED_GAP
        };
        let dynamic = (self.code.dynamic_offset + gap).next_multiple_of(self.dynamic_align.max(16));
        self.code.dynamic_offset = dynamic;
        for reg in std::mem::take(&mut self.code.dynamic_constants) {
            if reg.is_wide() {
                let slot = &mut self.code.constants64[reg.index()];
                *slot = slot.wrapping_add(u64::from(dynamic));
            } else {
                let slot = &mut self.code.constants32[reg.index()];
                *slot = slot.wrapping_add(dynamic);
            }
        }
        let estimate = flow::arrange(raw, &self.entries, &mut self.code);
        Ok((self.code, estimate))
    }

    /// The operands of a statement, of which there must be between `least` and `most`.
    pub fn count<'s>(
        &self,
        statement: &'s Statement<'a>,
        least: usize,
        most: usize,
    ) -> Result<&'s [Operand<'a>], String> {
        let n = statement.operands.len();
        if (least..=most).contains(&n) {
            return Ok(&statement.operands);
        }
        let expected = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        Err(format!(
            "{} takes {expected} operands, not {n}",
            statement.opcode
        ))
    }
}
