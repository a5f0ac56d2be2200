//! Parameters, functions (`.func`) and direct calls: heads, linking into the kernels that call them, and the decoding of `call`.
//!
//! Parameters and results of a function lie at the start of its frame in local memory; what a caller passes are local
//! variables of its own, which the call copies. A function is decoded anew for each kernel that reaches it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::decode::Mods;
use super::function::{Function, Symbol};
use super::isa::{Addr, CallSite, IntFn, Move, Op, Reg, Space, Ty};
use super::lex::Token;
use super::parse::{Fault, Operand, Parser, Statement, Variable, describe};
use crate::module::Param;

/// Decoded instructions of a file at most, functions counted once per kernel that reaches them.
const CODE_LIMIT: usize = 1 << 23;

/// A function as declared.
pub(crate) struct Callable<'a> {
    name: &'a str,
    line: u32,
    /// Results and parameters, with their offsets in the frame.
    pub results: Vec<Param>,
    pub params: Vec<Param>,
    /// Bytes of the frame that they take.
    pub frame: u32,
    /// Where the body begins, if the file has one.
    body: Option<usize>,
    external: bool,
}

fn sizes(params: &[Param]) -> Vec<u32> {
    params.iter().map(|param| param.size).collect()
}

impl<'a> Parser<'a> {
    /// Skips to behind the brace that closes a body.
    pub(super) fn skip_body(&mut self) -> Result<(), Fault> {
        let line = self.line();
        let mut depth = 1u32;
        while depth > 0 {
            match self.next() {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                Token::End => return Err((line, "the file ends inside a body".into())),
                _ => {}
            }
        }
        Ok(())
    }

    /// A list of parameters, and the bytes that they take; their offsets begin at 0.
    pub(super) fn params(&mut self) -> Result<(Vec<Param>, u32), Fault> {
        let mut params: Vec<Param> = Vec::new();
        let mut end = 0u64;
        if !self.accept('(') || self.accept(')') {
            return Ok((params, 0));
        }
        loop {
            let line = self.line();
            if self.next() != Token::Dotted("param") {
                return Err((
                    line,
                    "expected .param: other parameters are not supported".into(),
                ));
            }
            let mut align = None;
            let ty = loop {
                match self.next() {
                    Token::Dotted("align") => align = Some(self.integer()?),
                    // `.ptr .global .align n` describes what a pointer points to.
                    Token::Dotted("ptr") => {
                        while let Token::Dotted(word) = self.peek() {
                            self.next();
                            if word == "align" {
                                self.integer()?;
                            }
                        }
                        break None;
                    }
                    Token::Dotted(word) => match Ty::named(word) {
                        Some(ty) if ty != Ty::Pred => {
                            if self.peek() == Token::Dotted("ptr") {
                                align = align.or(Some(u64::from(ty.bytes())));
                                continue;
                            }
                            break Some(ty);
                        }
                        _ => return Err((line, format!(".{word} is no type of a parameter"))),
                    },
                    other => {
                        return Err((line, format!("expected a type, found {}", describe(other))));
                    }
                }
            };
            let element = u64::from(ty.map_or(8, Ty::bytes));
            let name = self.name("a parameter name")?.to_owned();
            let mut size = element;
            if self.accept('[') {
                size = element.saturating_mul(self.integer()?);
                self.expect(']')?;
            }
            let align = align.unwrap_or(element);
            if !align.is_power_of_two() || align > 1 << 16 || size > 1 << 16 {
                return Err((
                    line,
                    format!("parameter {name} has an impossible size or alignment"),
                ));
            }
            let offset = end.next_multiple_of(align);
            end = offset + size;
            if end > 1 << 16 {
                return Err((line, "too many parameters".into()));
            }
            params.push(Param {
                name,
                offset: offset as u32,
                size: size as u32,
                align: align as u32,
            });
            if !self.accept(',') {
                break;
            }
        }
        self.expect(')')?;
        Ok((params, end as u32))
    }

    /// After `.func`: `(results) name (params)`, then a body or a semicolon.
    pub(super) fn function(&mut self, external: bool) -> Result<(), Fault> {
        let line = self.line();
        let (mut results, mut end) = (Vec::new(), 0);
        if self.peek() == Token::Mark('(') {
            (results, end) = self.params()?;
        }
        let name = self.name("a function name")?;
        let (mut params, params_end) = self.params()?;
        let first = end.next_multiple_of(16);
        params.iter_mut().for_each(|param| param.offset += first);
        let body = loop {
            let line = self.line();
            match self.next() {
                Token::Dotted("noreturn") => {}
                Token::Dotted("pragma") => self.pragma()?,
                Token::Mark(';') => break None,
                Token::Mark('{') => {
                    let body = self.at;
                    self.skip_body()?;
                    break Some(body);
                }
                other => {
                    return Err((
                        line,
                        format!("unexpected {} before the body of {name}", describe(other)),
                    ));
                }
            }
        };
        let frame = first + params_end;
        let new = Callable {
            name,
            line,
            results,
            params,
            frame,
            body,
            external,
        };
        let known = self.functions.entry(name);
        let std::collections::hash_map::Entry::Occupied(mut known) = known else {
            known.insert_entry(new);
            return Ok(());
        };
        let old = known.get_mut();
        if sizes(&old.results) != sizes(&new.results) || sizes(&old.params) != sizes(&new.params) {
            return Err((
                line,
                format!("{name} is declared otherwise in line {}", old.line),
            ));
        }
        if old.body.is_some() && body.is_some() {
            return Err((line, format!("function {name} is defined twice")));
        }
        if body.is_some() {
            *old = new;
        }
        Ok(())
    }

    /// Decodes all kernels with the functions that they call, and checks the functions that nobody calls.
    pub(super) fn decode_bodies(&mut self) -> Result<(), Fault> {
        let functions = Rc::new(std::mem::take(&mut self.functions));
        let mut total = 0;
        let mut decoded: HashSet<&'a str> = HashSet::new();
        for index in 0..self.kernels.len() {
            let params = &self.kernels[index].params;
            let mut function = Function::new(params, &self.globals, &self.shared, &functions);
            self.at = self.bodies[index];
            let line = self.line();
            self.body(&mut function)?;
            function.end_body(line);
            self.link(&mut function, &functions, &mut total)?;
            decoded.extend(&function.called);
            let (code, register_estimate) = function.finish()?;
            let kernel = &mut self.kernels[index];
            kernel.static_shared = code.static_shared;
            kernel.local_bytes = code.local_bytes;
            kernel.register_estimate = register_estimate;
            kernel.code = code;
        }
        let mut rest: Vec<&Callable<'a>> = functions
            .values()
            .filter(|callable| callable.body.is_some() && !decoded.contains(callable.name))
            .collect();
        rest.sort_by_key(|callable| callable.line);
        for callable in rest {
            if decoded.contains(callable.name) {
                continue;
            }
            let mut function = Function::new(&[], &self.globals, &self.shared, &functions);
            function.end_body(callable.line);
            function.routine(callable.name);
            self.link(&mut function, &functions, &mut total)?;
            decoded.extend(&function.called);
            function.finish()?;
        }
        Ok(())
    }

    /// Decodes the bodies of all functions that `function` calls, directly or not.
    fn link(
        &mut self,
        function: &mut Function<'a>,
        functions: &HashMap<&'a str, Callable<'a>>,
        total: &mut usize,
    ) -> Result<(), Fault> {
        let mut next = 0;
        while let Some(name) = function.called.get(next).copied() {
            let callable = functions.get(name);
            let Some((callable, body)) = callable.and_then(|c| Some((c, c.body?))) else {
                return Err((self.line(), format!("function {name} has no body")));
            };
            function.open_function(next, callable);
            self.at = body;
            self.body(function)?;
            function.end_body(callable.line);
            next += 1;
            if *total + function.length() > CODE_LIMIT {
                return Err((
                    callable.line,
                    format!(
                        "more than {CODE_LIMIT} instructions, functions counted once per kernel"
                    ),
                ));
            }
        }
        *total += function.length();
        Ok(())
    }
}

/// Why a function without a body cannot be called.
fn external(name: &str) -> String {
    match name {
        "vprintf" => "device printf is not supported: take it out, or write to a buffer".into(),
        "__assertfail" => "device assert is not supported: compile with NDEBUG defined".into(),
        "malloc" | "free" => format!("device {name} is not supported: allocate on the host"),
        _ => format!("{name} has no body in this file, and nothing is linked to it"),
    }
}

impl<'a> Function<'a> {
    /// A `.param` variable of a body: what a call passes or yields.
    pub(super) fn argument(&mut self, variable: &Variable<'a>) -> Result<(), String> {
        let Some(bytes) = variable.bytes else {
            return Err(format!("{} has no size", variable.name));
        };
        let offset = self.local_variable(variable)?;
        self.scopes[self.current]
            .arguments
            .insert(variable.name, (offset, bytes as u32));
        Ok(())
    }

    /// Where `ld.param` and `st.param` really go: only the kernel's own parameters are in parameter space.
    pub(super) fn param_space(&mut self, space: Space, operand: &Operand<'a>) -> Space {
        if space != Space::Param {
            return space;
        }
        let kernels = match operand {
            Operand::Address(Some(name), _) => match self.symbol(name) {
                Some(symbol) => matches!(symbol, Symbol::Param(_)),
                None => self.owner.is_none(),
            },
            _ => true,
        };
        if kernels { Space::Param } else { Space::Local }
    }

    /// The address of a variable of the function that is decoded.
    pub(super) fn in_frame(&mut self, at: u32, offset: i64) -> Result<Addr, String> {
        let Some(routine) = self.owner else {
            return Err("a variable of a function outside it".into());
        };
        let base = self.code.routines[routine].base;
        let offset = offset.wrapping_add(i64::from(at));
        Ok(Addr { base, offset })
    }

    /// `mov` of such an address; none if the source is something else.
    pub(super) fn frame_address(
        &mut self,
        d: Reg,
        source: &Operand<'a>,
        ty: Ty,
    ) -> Result<Option<Op>, String> {
        let (name, offset) = match source {
            Operand::Name(name) => (*name, 0),
            Operand::Sum(name, offset) => (*name, *offset),
            _ => return Ok(None),
        };
        if self.declared(name)?.is_some() {
            return Ok(None);
        }
        let Some(Symbol::Frame(at)) = self.symbol(name) else {
            return Ok(None);
        };
        if ty.bytes() != 8 {
            return Err(format!("the address of {name} needs 64 bits"));
        }
        let Addr { base, offset } = self.in_frame(at, offset)?;
        let offset = self.constant(offset as u64, true);
        Ok(Some(Op::Int {
            f: IntFn::Add,
            ty: Ty::U64,
            d,
            a: base,
            b: offset,
            c: Reg::NONE,
            e: Reg::NONE,
        }))
    }

    /// `call (result), name, (arguments)`
    pub(super) fn call(
        &mut self,
        statement: &Statement<'a>,
        mods: &mut Mods<'a>,
    ) -> Result<Op, String> {
        mods.flag("uni");
        let (results, rest) = match statement.operands.split_first() {
            Some((Operand::List(list), rest)) => (list.as_slice(), rest),
            _ => (&[][..], statement.operands.as_slice()),
        };
        let (name, arguments) = match rest {
            [Operand::Name(name)] => (*name, &[][..]),
            [Operand::Name(name), Operand::List(list)] => (*name, list.as_slice()),
            [Operand::Name(name), ..] if self.declared(name)?.is_some() => {
                return Err(format!(
                    "indirect call through {name}: only direct calls are supported"
                ));
            }
            _ => return Err("call needs a function and a list of arguments".into()),
        };
        if self.declared(name)?.is_some() {
            return Err(format!(
                "indirect call through {name}: only direct calls are supported"
            ));
        }
        let functions = Rc::clone(&self.functions);
        let Some(callable) = functions.get(name) else {
            return Err(format!("function {name} is not declared"));
        };
        if callable.body.is_none() {
            let why = external(name);
            return Err(if callable.external || why.starts_with("device") {
                why
            } else {
                format!("function {name} is declared, but has no body in this file")
            });
        }
        let arguments = self.moves(name, "argument", arguments, &callable.params)?;
        let results = self.moves(name, "result", results, &callable.results)?;
        let routine = self.routine(callable.name);
        self.code.calls.push(CallSite {
            routine,
            arguments,
            results,
        });
        Ok(Op::Call {
            site: self.code.calls.len() as u32 - 1,
        })
    }

    /// Pairs what a call names with what the function declares.
    fn moves(
        &self,
        name: &str,
        what: &str,
        given: &[Operand<'a>],
        taken: &[Param],
    ) -> Result<Vec<Move>, String> {
        if given.len() != taken.len() {
            let (given, taken) = (given.len(), taken.len());
            return Err(format!("{given} {what}s, but {name} has {taken}"));
        }
        let pair = |(operand, param): (&Operand<'a>, &Param)| {
            let Operand::Name(variable) = operand else {
                return Err(format!("{what}s of a call must be .param variables"));
            };
            let found = self
                .chain(self.current)
                .find_map(|scope| self.scopes[scope].arguments.get(variable));
            match found {
                Some((caller, bytes)) if *bytes == param.size => Ok(Move {
                    caller: *caller,
                    callee: param.offset,
                    bytes: *bytes,
                }),
                Some((_, bytes)) => Err(format!(
                    "{variable} has {bytes} bytes, but {} of {name} has {}",
                    param.name, param.size
                )),
                None => Err(format!("{variable} is no .param variable of this body")),
            }
        };
        given.iter().zip(taken).map(pair).collect()
    }
}
