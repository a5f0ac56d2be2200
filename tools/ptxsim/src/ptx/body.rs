//! The statements of a kernel's body.

use super::function::Function;
use super::isa::{Pred, Ty};
use super::lex::Token;
use super::parse::{Fault, Operand, Parser, Statement, describe};

/// Scopes nest at most this deep.
const SCOPE_LIMIT: u32 = 100;

impl<'a> Parser<'a> {
    /// The body of a kernel, up to its closing brace.
    pub(super) fn body(&mut self, function: &mut Function<'a>) -> Result<(), Fault> {
        let mut depth = 1;
        let mut loc = 0;
        // Labels seen, to find `.branchtargets` tables by.
        let mut label = None;
        loop {
            let line = self.line();
            match self.next() {
                Token::Mark('{') => {
                    function.open_scope();
                    depth += 1;
                    if depth > SCOPE_LIMIT {
                        return Err((line, format!("more than {SCOPE_LIMIT} nested scopes")));
                    }
                }
                Token::Mark('}') => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                    function.close_scope();
                }
                Token::Mark(';') => {}
                Token::Dotted("reg") => self.registers(function)?,
                Token::Dotted("shared") => {
                    for variable in self.variables()? {
                        function
                            .shared_variable(&variable)
                            .map_err(|message| (line, message))?;
                    }
                }
                Token::Dotted("local") => {
                    for variable in self.variables()? {
                        function
                            .local_variable(&variable)
                            .map_err(|message| (line, message))?;
                    }
                }
                Token::Dotted("param") => {
                    for variable in self.variables()? {
                        function
                            .argument(&variable)
                            .map_err(|message| (line, message))?;
                    }
                }
                Token::Dotted(word @ ("callprototype" | "calltargets")) => {
                    return Err((
                        line,
                        format!(".{word}: indirect calls are not supported, only direct ones"),
                    ));
                }
                Token::Dotted("loc") => loc = self.loc()?,
                Token::Dotted("pragma") => self.pragma()?,
                Token::Dotted("branchtargets") => {
                    let mut targets = Vec::new();
                    loop {
                        targets.push(self.name("a label")?);
                        if !self.accept(',') {
                            break;
                        }
                    }
                    self.expect(';')?;
                    let Some(name) = label else {
                        return Err((line, ".branchtargets without a label".into()));
                    };
                    function.branch_targets(name, targets);
                }
                Token::Mark('@') => {
                    let negated = self.accept('!');
                    let predicate = self.name("a predicate")?;
                    let guard = function
                        .predicate(predicate, negated)
                        .map_err(|message| (line, message))?;
                    let statement = self.statement()?;
                    function
                        .add(&statement, guard, loc)
                        .map_err(|message| (line, message))?;
                }
                Token::Name(name) if self.peek() == Token::Mark(':') => {
                    self.next();
                    function.label(name).map_err(|message| (line, message))?;
                    label = Some(name);
                }
                Token::Name(_) => {
                    self.at -= 1;
                    let statement = self.statement()?;
                    function
                        .add(&statement, Pred::TRUE, loc)
                        .map_err(|message| (line, message))?;
                }
                Token::End => return Err((line, "the file ends inside a kernel".into())),
                other => return Err((line, format!("unexpected {} in a kernel", describe(other)))),
            }
        }
    }

    fn registers(&mut self, function: &mut Function<'a>) -> Result<(), Fault> {
        let line = self.line();
        let ty = match self.next() {
            Token::Dotted(word) => Ty::named(word),
            _ => None,
        };
        let Some(ty) = ty else {
            return Err((line, "expected a scalar type after .reg".into()));
        };
        loop {
            let name = self.name("a register name")?;
            let count = if self.accept('<') {
                let count = self.small()?;
                self.expect('>')?;
                Some(count)
            } else {
                None
            };
            function.register(name, count, ty);
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    /// `.loc file line column[, function_name label[+offset], inlined_at file line column]`
    fn loc(&mut self) -> Result<u32, Fault> {
        let place = [self.small()?, self.small()?, self.small()?];
        let (mut function, mut inlined_at) = (None, None);
        while self.accept(',') {
            let line = self.line();
            match self.name("function_name or inlined_at")? {
                "function_name" => {
                    function = Some(self.name("a label")?);
                    if self.accept('+') {
                        self.integer()?;
                    }
                }
                "inlined_at" => inlined_at = Some([self.small()?, self.small()?, self.small()?]),
                other => return Err((line, format!("{other} in .loc is not known"))),
            }
        }
        Ok(self.lines.add_place(place, function, inlined_at))
    }

    fn statement(&mut self) -> Result<Statement<'a>, Fault> {
        let line = self.line();
        let opcode = self.name("an instruction")?;
        let mut modifiers = Vec::new();
        while let Token::Dotted(word) = self.peek() {
            modifiers.push(word);
            self.next();
        }
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                operands.push(self.operand(0)?);
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(';')?;
        }
        Ok(Statement {
            line,
            opcode,
            modifiers,
            operands,
        })
    }

    fn signed(&mut self) -> Result<i64, Fault> {
        let negative = self.accept('-');
        let value = self.integer()? as i64;
        Ok(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    }

    /// After a name: `+ n`, `- n`, or nothing.
    fn offset(&mut self) -> Result<Option<i64>, Fault> {
        if self.accept('+') || self.peek() == Token::Mark('-') {
            return self.signed().map(Some);
        }
        Ok(None)
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>, Fault> {
        let line = self.line();
        match self.next() {
            Token::Name(name) => {
                if let Token::Dotted(component) = self.peek() {
                    self.next();
                    return Ok(Operand::Component(name, component));
                }
                if self.accept('|') {
                    return Ok(Operand::Pair(name, self.name("a predicate")?));
                }
                Ok(match self.offset()? {
                    Some(offset) => Operand::Sum(name, offset),
                    None => Operand::Name(name),
                })
            }
            Token::Integer(value) => Ok(Operand::Integer(value)),
            Token::F32(bits) => Ok(Operand::F32(bits)),
            Token::F64(bits) => Ok(Operand::F64(bits)),
            Token::Mark('!') => Ok(Operand::Not(self.name("a predicate")?)),
            Token::Mark('-') => match self.next() {
                Token::Integer(value) => Ok(Operand::Integer(value.wrapping_neg())),
                Token::F32(bits) => Ok(Operand::F32(bits ^ 1 << 31)),
                Token::F64(bits) => Ok(Operand::F64(bits ^ 1 << 63)),
                other => Err((line, format!("unexpected {} after '-'", describe(other)))),
            },
            Token::Mark('[') => {
                let address = if let Token::Name(base) = self.peek() {
                    self.next();
                    Operand::Address(Some(base), self.offset()?.unwrap_or(0))
                } else {
                    Operand::Address(None, self.signed()?)
                };
                self.expect(']')?;
                Ok(address)
            }
            Token::Mark('{') if depth == 0 => {
                let mut parts = Vec::new();
                loop {
                    parts.push(self.operand(1)?);
                    if !self.accept(',') {
                        break;
                    }
                }
                self.expect('}')?;
                Ok(Operand::Vector(parts))
            }
            Token::Mark('(') if depth == 0 => {
                let mut list = Vec::new();
                if self.accept(')') {
                    return Ok(Operand::List(list));
                }
                loop {
                    list.push(self.operand(1)?);
                    if !self.accept(',') {
                        break;
                    }
                }
                self.expect(')')?;
                Ok(Operand::List(list))
            }
            other => Err((
                line,
                format!("unexpected {} as an operand", describe(other)),
            )),
        }
    }
}
