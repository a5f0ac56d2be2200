//! Decoding: modifiers, operands, and the instructions that move data and control.

use super::function::{Function, Symbol};
use super::isa::{Addr, Cmp, Op, Pred, Reg, Special, Ty};
use super::parse::{Operand, Statement};

/// The modifiers of an opcode, taken out one by one; what is left over is an error.
pub(crate) struct Mods<'a> {
    opcode: &'a str,
    list: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    pub fn new(statement: &Statement<'a>) -> Mods<'a> {
        Mods {
            opcode: statement.opcode,
            list: statement.modifiers.clone(),
        }
    }

    /// Takes the modifier out if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.list.iter().position(|word| *word == name);
        if let Some(at) = found {
            self.list.remove(at);
        }
        found.is_some()
    }

    /// Takes out the first of the choices that is there.
    pub fn pick<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices
            .iter()
            .find(|(name, _)| self.flag(name))
            .map(|(_, value)| *value)
    }

    /// As `pick`, but one must be there.
    pub fn need<T: Copy>(&mut self, what: &str, choices: &[(&str, T)]) -> Result<T, String> {
        self.pick(choices).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!(".{name}")).collect();
            format!("{} needs {what}: one of {}", self.opcode, names.join(" "))
        })
    }

    /// Takes out the first type among the modifiers; it must be one of `allowed`.
    pub fn ty(&mut self, allowed: &[Ty]) -> Result<Ty, String> {
        let found = self
            .list
            .iter()
            .enumerate()
            .find_map(|(at, word)| Ty::named(word).map(|ty| (at, ty)));
        let Some((at, ty)) = found else {
            return Err(format!("{} needs a type", self.opcode));
        };
        let word = self.list.remove(at);
        if allowed.contains(&ty) {
            return Ok(ty);
        }
        Err(format!("{} has no form for type .{word}", self.opcode))
    }

    /// Takes out the first modifier for which `read` gives something.
    pub fn find<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self
            .list
            .iter()
            .enumerate()
            .find_map(|(at, word)| read(word).map(|value| (at, value)))?;
        self.list.remove(at);
        Some(value)
    }

    /// All modifiers must have been taken.
    pub fn done(&self) -> Result<(), String> {
        match self.list.first() {
            None => Ok(()),
            Some(word) => Err(format!(
                "modifier .{word} of {} is not known here",
                self.opcode
            )),
        }
    }
}

/// How an operand's register may differ from the instruction's type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Exactly as wide.
    Exact,
    /// As wide or wider (ld, st, cvt).
    Wider,
}

impl<'a> Function<'a> {
    fn check_width(name: &str, bits: u32, ty: Ty, fit: Fit) -> Result<(), String> {
        let wanted = ty.bytes() * 8;
        let fits = match fit {
            Fit::Exact => bits == wanted || (wanted == 8 && bits == 16),
            Fit::Wider => bits >= wanted,
        };
        if fits && bits != 0 {
            return Ok(());
        }
        Err(format!(
            "{name} has {bits} bits, which does not fit a .{} operand",
            format!("{ty:?}").to_lowercase()
        ))
    }

    /// A source operand of type `ty`: register, special register, literal or variable address.
    pub fn source(&mut self, operand: &Operand<'a>, ty: Ty, fit: Fit) -> Result<Reg, String> {
        let wide = ty.bytes() == 8;
        match operand {
            Operand::Name("WARP_SZ") => Ok(self.constant(32, wide)),
            Operand::Name(name) => {
                if let Some(declared) = self.declared(name)? {
                    Self::check_width(name, declared.bits, ty, fit)?;
                    return Ok(declared.reg);
                }
                if let Some(special) = special(name, "") {
                    return self.special_source(special, wide, name);
                }
                match self.symbol(name) {
                    Some(symbol) => self.address_constant(symbol, 0, wide),
                    None => Err(format!("{name} is not declared")),
                }
            }
            Operand::Sum(name, offset) => match self.symbol(name) {
                Some(symbol) => self.address_constant(symbol, *offset, wide),
                None => Err(format!("{name} is not a variable")),
            },
            Operand::Component(name, component) => match special(name, component) {
                Some(special) => self.special_source(special, wide, name),
                None => Err(format!("{name}.{component} is not a special register")),
            },
            Operand::Integer(value) if ty == Ty::Pred => Err(format!("{value} is not a predicate")),
            Operand::Integer(value)
                if ty.is_float() && ty.bytes() >= 4 && ty != Ty::F16x2 && ty != Ty::BF16x2 =>
            {
                Err(format!(
                    "{value} is an integer; a floating-point literal is needed"
                ))
            }
            Operand::Integer(value) => {
                let mask = if wide {
                    u64::MAX
                } else {
                    u64::MAX >> (64 - 8 * ty.bytes())
                };
                Ok(self.constant(value & mask, wide))
            }
            Operand::F32(bits) if ty.bytes() == 4 => Ok(self.constant(u64::from(*bits), false)),
            Operand::F64(bits) if wide => Ok(self.constant(*bits, true)),
            Operand::F64(bits) if ty == Ty::F32 => {
                Ok(self.constant(u64::from((f64::from_bits(*bits) as f32).to_bits()), false))
            }
            other => Err(format!("{other:?} does not fit a .{ty:?} operand")),
        }
    }

    fn special_source(&mut self, which: Special, wide: bool, name: &str) -> Result<Reg, String> {
        if wide {
            return Err(format!(
                "{name} has 32 bits, which does not fit a 64-bit operand"
            ));
        }
        Ok(self.special(which))
    }

    /// A destination register of type `ty`, or `_`.
    pub fn destination(&mut self, operand: &Operand<'a>, ty: Ty, fit: Fit) -> Result<Reg, String> {
        match operand {
            Operand::Name("_") => Ok(Reg::NONE),
            Operand::Name(name) => match self.declared(name)? {
                Some(declared) if ty == Ty::Pred && declared.reg.is_pred() => Ok(declared.reg),
                Some(declared) => {
                    Self::check_width(name, declared.bits, ty, fit)?;
                    Ok(declared.reg)
                }
                None => Err(format!("{name} is not a register")),
            },
            other => Err(format!("{other:?} cannot be a destination")),
        }
    }

    /// A predicate operand, negated or not.
    pub fn predicate_operand(&mut self, operand: &Operand<'a>) -> Result<Pred, String> {
        match operand {
            Operand::Name(name) => self.predicate(name, false),
            Operand::Not(name) => self.predicate(name, true),
            // Some instructions take a constant; slot 0 is always true.
            Operand::Integer(value) => Ok(Pred {
                index: 0,
                negated: *value == 0,
            }),
            other => Err(format!("{other:?} is not a predicate")),
        }
    }

    /// An optional `d|p` destination pair.
    pub fn pair(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<(Reg, Reg), String> {
        match operand {
            Operand::Pair(d, p) => {
                let d = self.destination(&Operand::Name(d), ty, Fit::Exact)?;
                Ok((
                    d,
                    self.destination(&Operand::Name(p), Ty::Pred, Fit::Exact)?,
                ))
            }
            other => Ok((self.destination(other, ty, Fit::Exact)?, Reg::NONE)),
        }
    }

    /// The parts of a vector operand; a scalar is a vector of one.
    pub fn parts<'o>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
        match operand {
            Operand::Vector(parts) => parts,
            scalar => std::slice::from_ref(scalar),
        }
    }

    /// A memory operand.
    pub fn address(&mut self, operand: &Operand<'a>) -> Result<Addr, String> {
        let Operand::Address(base, offset) = operand else {
            return Err(format!("{operand:?} is not an address"));
        };
        let Some(name) = base else {
            return Ok(Addr {
                base: self.constant(0, true),
                offset: *offset,
            });
        };
        if let Some(declared) = self.declared(name)? {
            if declared.bits < 32 {
                return Err(format!(
                    "{name} has {} bits and cannot hold an address",
                    declared.bits
                ));
            }
            return Ok(Addr {
                base: declared.reg,
                offset: *offset,
            });
        }
        match self.symbol(name) {
            Some(Symbol::Frame(at)) => self.in_frame(at, *offset),
            Some(symbol) => Ok(Addr {
                base: self.address_constant(symbol, *offset, true)?,
                offset: 0,
            }),
            None => Err(format!("{name} is not declared")),
        }
    }

    /// Decodes one statement.
    pub fn decode(&mut self, statement: &Statement<'a>) -> Result<Op, String> {
        let mut mods = Mods::new(statement);
        let op = match statement.opcode {
            "bra" => self.branch(statement, &mut mods)?,
            "brx" => self.branch_indexed(statement, &mut mods)?,
            "ret" | "exit" => {
                mods.flag("uni");
                self.count(statement, 0, 0)?;
                if statement.opcode == "ret" && self.owner.is_some() {
                    Op::Return
                } else {
                    Op::Exit
                }
            }
            "trap" | "brkpt" => {
                self.count(statement, 0, 0)?;
                if statement.opcode == "trap" {
                    Op::Trap
                } else {
                    Op::Nop
                }
            }
            "nanosleep" => {
                mods.ty(&[Ty::U32])?;
                self.count(statement, 1, 1)?;
                Op::Nanosleep
            }
            "pmevent" => Op::Nop,
            "mov" => self.mov(statement, &mut mods)?,
            "call" => self.call(statement, &mut mods)?,
            _ => match self.decode_arithmetic(statement, &mut mods)? {
                Some(op) => op,
                None => match self.decode_conversion(statement, &mut mods)? {
                    Some(op) => op,
                    None => match self.decode_memory(statement, &mut mods)? {
                        Some(op) => op,
                        None => match self.decode_warp(statement, &mut mods)? {
                            Some(op) => op,
                            None => match self.decode_hopper(statement, &mut mods)? {
                                Some(op) => op,
                                None => {
                                    let name = full_name(statement);
                                    return Err(format!("unknown instruction {name}"));
                                }
                            },
                        },
                    },
                },
            },
        };
        mods.done()
            .map_err(|message| format!("{message} (in {})", full_name(statement)))?;
        Ok(op)
    }

    fn branch(&mut self, statement: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        mods.flag("uni");
        match self.count(statement, 1, 1)? {
            [Operand::Name(label)] => Ok(Op::Bra {
                to: self.reference(label),
            }),
            _ => Err("bra needs a label".into()),
        }
    }

    fn branch_indexed(
        &mut self,
        statement: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Op, String> {
        mods.need("its kind", &[("idx", ())])?;
        mods.flag("uni");
        let [index, Operand::Name(name)] = self.count(statement, 2, 2)? else {
            return Err("brx.idx needs an index and the label of a .branchtargets list".into());
        };
        let index = self.source(index, Ty::U32, Fit::Exact)?;
        let Some(table) = self.table(name) else {
            return Err(format!(
                "{name} is no .branchtargets list in front of this instruction"
            ));
        };
        let targets = table
            .into_iter()
            .map(|label| self.reference(label))
            .collect();
        Ok(Op::BranchIndexed { index, targets })
    }

    fn mov(&mut self, statement: &Statement<'a>, mods: &mut Mods<'a>) -> Result<Op, String> {
        use Ty::*;
        let ty = mods.ty(&[
            Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, F16x2, BF16, BF16x2, F32, F64,
        ])?;
        let [d, a] = self.count(statement, 2, 2)? else {
            return Err("mov takes two operands".into());
        };
        if ty == Pred {
            let d = self.destination(d, Pred, Fit::Exact)?;
            if let Operand::Name("%is_explicit_cluster") = a {
                return Ok(Op::Setp {
                    cmp: Cmp::Ne,
                    ty: U32,
                    ftz: false,
                    a: self.special(Special::ExplicitCluster),
                    b: self.constant(0, false),
                    d,
                    q: Reg::NONE,
                    combine: None,
                });
            }
            return Ok(Op::CopyPred {
                d,
                a: self.predicate_operand(a)?,
            });
        }
        if let Operand::Vector(parts) = a {
            let part = part_type(ty, parts.len())?;
            let mut regs = [Reg::NONE; 4];
            for (reg, part_operand) in regs.iter_mut().zip(parts) {
                *reg = self.source(part_operand, part, Fit::Exact)?;
            }
            let d = self.destination(d, ty, Fit::Exact)?;
            return Ok(Op::Pack {
                d,
                parts: regs,
                part_bits: part.bytes() * 8,
            });
        }
        if let Operand::Vector(parts) = d {
            let part = part_type(ty, parts.len())?;
            let mut regs = [Reg::NONE; 4];
            for (reg, part_operand) in regs.iter_mut().zip(parts) {
                *reg = self.destination(part_operand, part, Fit::Exact)?;
            }
            return Ok(Op::Unpack {
                d: regs,
                part_bits: part.bytes() * 8,
                a: self.source(a, ty, Fit::Exact)?,
            });
        }
        let d = self.destination(d, ty, Fit::Exact)?;
        if let Operand::Name(
            "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo",
        ) = a
        {
            return Ok(Op::Clock { d });
        }
        if let Some(op) = self.frame_address(d, a, ty)? {
            return Ok(op);
        }
        Ok(Op::Mov {
            d,
            a: self.source(a, ty, Fit::Exact)?,
        })
    }
}

/// The opcode with all modifiers.
fn full_name(statement: &Statement<'_>) -> String {
    let mut name = statement.opcode.to_owned();
    for modifier in &statement.modifiers {
        name.push('.');
        name.push_str(modifier);
    }
    name
}

fn part_type(ty: Ty, parts: usize) -> Result<Ty, String> {
    match (ty.bytes() as usize, parts) {
        (8, 2) => Ok(Ty::B32),
        (8, 4) | (4, 2) => Ok(Ty::B16),
        (4, 4) | (2, 2) => Ok(Ty::B8),
        (bytes, n) => Err(format!("{} bits cannot be split into {n} parts", bytes * 8)),
    }
}

/// The special register of that name.
fn special(name: &str, component: &str) -> Option<Special> {
    let axis = match component {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    Some(match (name, axis) {
        ("%tid", Some(axis)) => Special::Tid(axis),
        ("%ntid", Some(axis)) => Special::Ntid(axis),
        ("%ctaid", Some(axis)) => Special::Ctaid(axis),
        ("%nctaid", Some(axis)) => Special::Nctaid(axis),
        ("%laneid", None) => Special::LaneId,
        ("%warpid", None) => Special::WarpId,
        ("%nwarpid", None) => Special::NWarpId,
        ("%smid", None) => Special::SmId,
        ("%nsmid", None) => Special::NSmId,
        ("%gridid", None) => Special::GridId,
        ("%lanemask_eq", None) => Special::LaneMaskEq,
        ("%lanemask_lt", None) => Special::LaneMaskLt,
        ("%lanemask_le", None) => Special::LaneMaskLe,
        ("%lanemask_gt", None) => Special::LaneMaskGt,
        ("%lanemask_ge", None) => Special::LaneMaskGe,
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size", None) => Special::TotalShared,
        ("%cluster_ctaid", Some(axis)) => Special::ClusterCtaid(axis),
        ("%cluster_nctaid", Some(axis)) => Special::ClusterNctaid(axis),
        ("%cluster_ctarank", None) => Special::ClusterRank,
        ("%cluster_nctarank", None) => Special::ClusterBlocks,
        ("%clusterid", Some(axis)) => Special::ClusterId(axis),
        ("%nclusterid", Some(axis)) => Special::NClusterId(axis),
        _ => return None,
    })
}
