//! Module-level syntax: directives, variables, heads of kernels.

use std::collections::HashMap;

use super::calls::Callable;
use super::isa::{Code, Op, Space, Ty};
use super::lex::{Lexeme, Token, lex};
use super::lines::Lines;
use crate::module::{Global, GlobalSpace, Kernel, Module, ParseError};

/// Size limit of one variable; a larger one cannot be meant.
const VARIABLE_LIMIT: u64 = 1 << 32;
/// Initialised bytes are held in the module, so they are limited further.
const INITIAL_LIMIT: u64 = 1 << 28;

/// A line and what is wrong there.
pub(crate) type Fault = (u32, String);

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand<'a> {
    /// Register, label, variable or `_`.
    Name(&'a str),
    /// `%tid.x`
    Component(&'a str, &'a str),
    Integer(u64),
    F32(u32),
    F64(u64),
    /// `[base + offset]`; no base for an absolute address.
    Address(Option<&'a str>, i64),
    /// `variable + offset`
    Sum(&'a str, i64),
    Vector(Vec<Operand<'a>>),
    /// Arguments or results of a call.
    List(Vec<Operand<'a>>),
    /// `d|p`
    Pair(&'a str, &'a str),
    /// `!p`
    Not(&'a str),
}

/// An instruction as written.
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    pub line: u32,
    pub opcode: &'a str,
    pub modifiers: Vec<&'a str>,
    pub operands: Vec<Operand<'a>>,
}

/// A variable as declared.
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub align: u64,
    /// None for `[]` of unknown length.
    pub bytes: Option<u64>,
    pub initial: Vec<u8>,
}

pub(crate) struct Parser<'a> {
    lexemes: Vec<Lexeme<'a>>,
    pub(super) at: usize,
    pub(super) globals: Vec<Global>,
    pub(super) kernels: Vec<Kernel>,
    pub(super) functions: HashMap<&'a str, Callable<'a>>,
    /// Where the bodies of `kernels` begin.
    pub(super) bodies: Vec<usize>,
    /// Shared variables declared outside kernels; `.extern` ones have no size.
    pub(super) shared: Vec<(String, u64, Option<u64>)>,
    pub(super) lines: Lines,
    target: String,
    version: Option<(u32, u32)>,
}

/// Parses and decodes a whole file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Module, ParseError> {
    let fail = |(line, message): Fault| ParseError {
        file: file.to_owned(),
        line,
        message,
    };
    let lexemes = lex(text).map_err(fail)?;
    let mut parser = Parser {
        lexemes,
        at: 0,
        globals: Vec::new(),
        kernels: Vec::new(),
        functions: HashMap::new(),
        bodies: Vec::new(),
        shared: Vec::new(),
        lines: Lines::default(),
        target: String::new(),
        version: None,
    };
    parser.module().map_err(fail)?;
    parser.decode_bodies().map_err(fail)?;
    let Some(version) = parser.version else {
        return Err(fail((1, "no .version directive: is this PTX?".into())));
    };
    for kernel in &parser.kernels {
        for (inst, meta) in kernel.code.insts.iter().zip(&kernel.code.meta) {
            let needs = match &inst.op {
                Op::Hopper(op) => op.needs(),
                Op::StMatrix { .. }
                | Op::Ld {
                    space: Space::Cluster,
                    ..
                }
                | Op::St {
                    space: Space::Cluster,
                    ..
                }
                | Op::Atom {
                    space: Space::Cluster,
                    ..
                } => (90, false),
                _ => continue,
            };
            allowed(&parser.target, needs).map_err(|m| fail((meta.line, m)))?;
        }
    }
    Ok(Module {
        file: file.to_owned(),
        target: parser.target,
        version,
        kernels: parser.kernels,
        globals: parser.globals,
        lines: parser.lines,
    })
}

/// Whether a target has an instruction that needs at least `least`, or exactly its `a` form.
fn allowed(target: &str, (least, exact): (u32, bool)) -> Result<(), String> {
    let number = target.strip_prefix("sm_").unwrap_or(target);
    let plain = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let has = plain.parse().is_ok_and(|target: u32| target >= least);
    if has && (!exact || number == format!("{least}a")) {
        return Ok(());
    }
    let suffix = if exact { "a" } else { "" };
    Err(format!(
        "this needs .target sm_{least}{suffix}, the file is for {target}"
    ))
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Token<'a> {
        // The list ends with End, which is never passed.
        self.lexemes[self.at.min(self.lexemes.len() - 1)].token
    }

    pub fn line(&self) -> u32 {
        self.lexemes[self.at.min(self.lexemes.len() - 1)].line
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(super) fn accept(&mut self, mark: char) -> bool {
        let found = self.peek() == Token::Mark(mark);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, mark: char) -> Result<(), Fault> {
        if self.accept(mark) {
            return Ok(());
        }
        Err((
            self.line(),
            format!("expected {mark:?}, found {}", describe(self.peek())),
        ))
    }

    pub(super) fn name(&mut self, what: &str) -> Result<&'a str, Fault> {
        let line = self.line();
        match self.next() {
            Token::Name(name) => Ok(name),
            other => Err((line, format!("expected {what}, found {}", describe(other)))),
        }
    }

    pub(super) fn integer(&mut self) -> Result<u64, Fault> {
        let line = self.line();
        match self.next() {
            Token::Integer(value) => Ok(value),
            other => Err((
                line,
                format!("expected an integer, found {}", describe(other)),
            )),
        }
    }

    pub(super) fn small(&mut self) -> Result<u32, Fault> {
        let line = self.line();
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| (line, format!("{value} is too large")))
    }

    fn module(&mut self) -> Result<(), Fault> {
        loop {
            let line = self.line();
            match self.next() {
                Token::End => return Ok(()),
                Token::Dotted("version") => {
                    // Lexed as a decimal with a point.
                    let version = match self.next() {
                        Token::F64(bits) => f64::from_bits(bits),
                        other => {
                            return Err((
                                line,
                                format!("expected a version, found {}", describe(other)),
                            ));
                        }
                    };
                    let (major, minor) = (version.trunc(), (version.fract() * 10.0).round());
                    if !(1.0..100.0).contains(&version) {
                        return Err((line, format!("PTX version {version} does not exist")));
                    }
                    self.version = Some((major as u32, minor as u32));
                }
                Token::Dotted("target") => {
                    self.target = self.name("a target")?.to_owned();
                    while self.accept(',') {
                        self.name("a target option")?;
                    }
                }
                Token::Dotted("address_size") => {
                    if self.integer()? != 64 {
                        return Err((line, "only .address_size 64 is supported".into()));
                    }
                }
                Token::Dotted("visible" | "weak" | "common") => {}
                Token::Dotted("extern") => self.external()?,
                Token::Dotted("entry") => self.kernel()?,
                Token::Dotted("global") => self.global(GlobalSpace::Global)?,
                Token::Dotted("const") => self.global(GlobalSpace::Const)?,
                Token::Dotted("shared") => {
                    let variables = self.variables()?;
                    self.shared.extend(
                        variables
                            .into_iter()
                            .map(|v| (v.name.to_owned(), v.align, v.bytes)),
                    );
                }
                Token::Dotted("file") => self.file()?,
                Token::Dotted("section") => self.section()?,
                Token::Dotted("pragma") => self.pragma()?,
                Token::Dotted("func") => self.function(false)?,
                other => {
                    return Err((
                        line,
                        format!("unexpected {} outside a kernel", describe(other)),
                    ));
                }
            }
        }
    }

    fn external(&mut self) -> Result<(), Fault> {
        let line = self.line();
        match self.next() {
            Token::Dotted("shared") => {
                let variables = self.variables()?;
                self.shared.extend(
                    variables
                        .into_iter()
                        .map(|v| (v.name.to_owned(), v.align, v.bytes)),
                );
                Ok(())
            }
            Token::Dotted("func") => self.function(true),
            Token::Dotted(word @ ("global" | "const")) => Err((
                line,
                format!(".extern .{word} needs linking, which is not supported"),
            )),
            other => Err((
                line,
                format!("unexpected {} after .extern", describe(other)),
            )),
        }
    }

    fn file(&mut self) -> Result<(), Fault> {
        let line = self.line();
        let number = self.small()?;
        let Token::Text(name) = self.next() else {
            return Err((line, "expected a file name after .file".into()));
        };
        // Optional time stamp and size.
        while self.accept(',') {
            self.integer()?;
        }
        self.lines.add_file(number, name);
        Ok(())
    }

    pub(super) fn pragma(&mut self) -> Result<(), Fault> {
        let line = self.line();
        loop {
            let Token::Text(_) = self.next() else {
                return Err((line, "expected a string after .pragma".into()));
            };
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    /// Debug sections are skipped, except for the strings that name inlined functions.
    fn section(&mut self) -> Result<(), Fault> {
        let line = self.line();
        self.next();
        self.expect('{')?;
        let mut label: Option<&str> = None;
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            match self.next() {
                Token::Mark('}') => break,
                Token::End => return Err((line, "a section that does not end".into())),
                Token::Name(name) if self.peek() == Token::Mark(':') => {
                    if let Some(label) = label.replace(name) {
                        self.lines.add_string(label, &bytes);
                    }
                    bytes.clear();
                }
                Token::Integer(value) => bytes.push(value as u8),
                _ => {}
            }
        }
        if let Some(label) = label {
            self.lines.add_string(label, &bytes);
        }
        Ok(())
    }

    fn global(&mut self, space: GlobalSpace) -> Result<(), Fault> {
        let line = self.line();
        for variable in self.variables()? {
            let Some(size) = variable.bytes else {
                return Err((line, format!("{} has no size", variable.name)));
            };
            if size > INITIAL_LIMIT {
                return Err((
                    line,
                    format!(
                        "{} has {size} bytes; the limit is {INITIAL_LIMIT}",
                        variable.name
                    ),
                ));
            }
            if self
                .globals
                .iter()
                .any(|global| global.name == variable.name)
            {
                return Err((line, format!("{} is declared twice", variable.name)));
            }
            let mut initial = variable.initial;
            initial.resize(size as usize, 0);
            let name = variable.name.to_owned();
            self.globals.push(Global {
                name,
                space,
                size,
                align: variable.align,
                initial,
            });
        }
        Ok(())
    }

    /// After the state space: `.align n`, type, names with dimensions and initialisers, `;`.
    pub(super) fn variables(&mut self) -> Result<Vec<Variable<'a>>, Fault> {
        let mut align = None;
        let mut lanes = 1u64;
        let (ty, line) = loop {
            let line = self.line();
            match self.next() {
                Token::Dotted("align") => {
                    let value = self.integer()?;
                    if !value.is_power_of_two() || value > 1 << 16 {
                        return Err((line, format!("{value} is no alignment")));
                    }
                    align = Some(value);
                }
                Token::Dotted("v2") => lanes = 2,
                Token::Dotted("v4") => lanes = 4,
                Token::Dotted(word) => match Ty::named(word) {
                    Some(ty) if ty != Ty::Pred => break (ty, line),
                    _ => return Err((line, format!(".{word} is no type of a variable"))),
                },
                other => return Err((line, format!("expected a type, found {}", describe(other)))),
            }
        };
        let element = u64::from(ty.bytes()) * lanes;
        let align = align.unwrap_or(element);
        let mut variables = Vec::new();
        loop {
            let name = self.name("a variable name")?;
            let mut count = Some(1u64);
            let mut first = true;
            while self.accept('[') {
                if first && self.accept(']') {
                    count = None;
                } else {
                    let n = self.integer()?;
                    count = count.map(|c| c.saturating_mul(n));
                    self.expect(']')?;
                }
                first = false;
            }
            let mut initial = Vec::new();
            if self.accept('=') {
                self.initialiser(ty, &mut initial)?;
                count = count.or(Some(initial.len() as u64 / element.max(1)));
            }
            let bytes = count.map(|c| c.saturating_mul(element));
            if bytes.is_some_and(|b| b > VARIABLE_LIMIT || initial.len() as u64 > b) {
                return Err((
                    line,
                    format!("{name} is too large or has too many initial values"),
                ));
            }
            variables.push(Variable {
                name,
                align,
                bytes,
                initial,
            });
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(variables)
    }

    fn initialiser(&mut self, ty: Ty, out: &mut Vec<u8>) -> Result<(), Fault> {
        // Braces may nest, one level per dimension; PTX pads each row, which compilers never rely on.
        let mut depth = 0u32;
        loop {
            let line = self.line();
            let negative = self.accept('-');
            match self.next() {
                Token::Mark('{') if !negative => {
                    depth += 1;
                    continue;
                }
                Token::Mark('}') if !negative && depth > 0 => depth -= 1,
                Token::Integer(value) if !ty.is_float() || ty.bytes() == 2 => {
                    let value = if negative {
                        value.wrapping_neg()
                    } else {
                        value
                    };
                    out.extend_from_slice(&value.to_le_bytes()[..ty.bytes() as usize]);
                }
                Token::F32(bits) if ty.bytes() == 4 => {
                    out.extend_from_slice(&(bits ^ u32::from(negative) << 31).to_le_bytes());
                }
                Token::F64(bits) if ty.bytes() == 8 => {
                    out.extend_from_slice(&(bits ^ u64::from(negative) << 63).to_le_bytes());
                }
                Token::F64(bits) if ty == Ty::F32 => {
                    let value = f64::from_bits(bits) as f32;
                    out.extend_from_slice(&if negative { -value } else { value }.to_le_bytes());
                }
                Token::Name(name) => {
                    return Err((
                        line,
                        format!("initialising with the address of {name} is not supported"),
                    ));
                }
                other => {
                    return Err((
                        line,
                        format!("{} cannot initialise a .{ty:?}", describe(other)),
                    ));
                }
            }
            if out.len() as u64 > INITIAL_LIMIT {
                return Err((line, "too many initial values".into()));
            }
            if depth == 0 {
                return Ok(());
            }
            if !self.accept(',') && self.peek() != Token::Mark('}') {
                return Err((
                    self.line(),
                    format!("expected ',' or '}}', found {}", describe(self.peek())),
                ));
            }
        }
    }

    fn triple(&mut self) -> Result<[u32; 3], Fault> {
        let mut triple = [self.small()?, 1, 1];
        for dimension in &mut triple[1..] {
            if self.accept(',') {
                *dimension = self.small()?;
            }
        }
        Ok(triple)
    }

    fn kernel(&mut self) -> Result<(), Fault> {
        let start = self.line();
        let name = self.name("a kernel name")?;
        if self.kernels.iter().any(|kernel| kernel.name == name) {
            return Err((start, format!("kernel {name} is defined twice")));
        }
        let (params, param_bytes) = self.params()?;
        let (mut max_ntid, mut required_ntid, mut min_blocks) = (None, None, None);
        let (mut cluster, mut explicit_cluster) = (None, false);
        loop {
            let line = self.line();
            match self.next() {
                Token::Dotted("maxntid") => max_ntid = Some(self.triple()?),
                Token::Dotted("reqntid") => required_ntid = Some(self.triple()?),
                Token::Dotted("minnctapersm") => min_blocks = Some(self.small()?),
                Token::Dotted("maxnctapersm" | "maxnreg") => {
                    self.small()?;
                }
                Token::Dotted(
                    word @ ("reqnctapercluster" | "explicitcluster" | "maxclusterrank"),
                ) => {
                    allowed(&self.target, (90, false)).map_err(|why| (line, why))?;
                    match word {
                        "reqnctapercluster" => cluster = Some(self.triple()?),
                        "explicitcluster" => explicit_cluster = true,
                        _ => {
                            self.small()?;
                        }
                    }
                }
                Token::Dotted("pragma") => self.pragma()?,
                Token::Mark('{') => break,
                other => {
                    return Err((
                        line,
                        format!("unexpected {} before the body of {name}", describe(other)),
                    ));
                }
            }
        }
        self.bodies.push(self.at);
        self.skip_body()?;
        self.kernels.push(Kernel {
            name: name.to_owned(),
            params,
            param_bytes,
            static_shared: 0,
            local_bytes: 0,
            max_ntid,
            required_ntid,
            min_blocks_per_sm: min_blocks,
            cluster,
            explicit_cluster,
            register_estimate: 0,
            code: Code::default(),
        });
        Ok(())
    }
}

pub(super) fn describe(token: Token<'_>) -> String {
    match token {
        Token::Name(name) => format!("{name:?}"),
        Token::Dotted(word) => format!("\".{word}\""),
        Token::Integer(value) => value.to_string(),
        Token::F32(bits) => f32::from_bits(bits).to_string(),
        Token::F64(bits) => f64::from_bits(bits).to_string(),
        Token::Text(text) => format!("{text:?}"),
        Token::Mark(mark) => format!("{mark:?}"),
        Token::End => "the end of the file".into(),
    }
}
