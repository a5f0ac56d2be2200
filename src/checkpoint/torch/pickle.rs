//! The pickle stack machine, reading only.
//!
//! Opcodes of protocols 2 to 5 that data needs are known; every other (the text opcodes of protocol 0, `INST`, `OBJ`,
//! extension codes, out-of-band buffers) is an error that names it. `GLOBAL` and `STACK_GLOBAL` make a name. `REDUCE`
//! and `NEWOBJ` know a handful of names by heart; for any other they note down what would have been called with what.

use super::document::{Document, Id, Node};
use super::storage::{Dtype, StorageRef, View};
use std::collections::HashMap;

/// Longest pickle that is read. The largest model's has some megabytes; a hostile one costs about 60 bytes of memory per
/// byte.
const LONGEST: usize = 1 << 24;
/// Bytes that may be copied per byte of pickle: of names, keys and references to what was noted down. Honest pickles need less than
/// two; one that recalls a long text or tuple over and over would otherwise take the square of its length.
const MOST_COPIES: usize = 16;
const FREE_COPIES: usize = 1 << 16;

/// Parses one pickle; tells also how many bytes it took.
pub(super) fn parse(bytes: &[u8]) -> Result<(Document, usize), String> {
    let mut machine = Machine {
        input: bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
    };
    let root = machine
        .run()
        .map_err(|detail| format!("pickle, byte {}: {detail}", machine.at))?;
    Ok((Document::new(machine.nodes, root, machine.at)?, machine.at))
}

struct Machine<'p> {
    input: &'p [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Bytes copied out of earlier values.
    copied: usize,
}

type Step<T = ()> = Result<T, String>;

impl<'p> Machine<'p> {
    fn run(&mut self) -> Step<Id> {
        loop {
            if self.at > LONGEST {
                return Err(format!("longer than {LONGEST} bytes"));
            }
            let opcode = self.byte()?;
            match opcode {
                b'.' => return self.pop(),
                // PROTO, FRAME
                0x80 => match self.byte()? {
                    2..=5 => {}
                    other => return Err(format!("protocol {other}; 2 to 5 are supported")),
                },
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'K' | b'M' | b'J' | 0x8a | 0x8b | b'G' => self.number(opcode)?,
                b'X' | 0x8c | 0x8d | b'T' | b'U' => self.text(opcode)?,
                b'B' | b'C' | 0x8e => {
                    let bytes = self.sized(opcode)?.to_vec();
                    self.push(Node::Bytes(bytes))?;
                }
                b']' | 0x8f => self.push(Node::List(Vec::new()))?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                0x91 => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::List(items))?;
                }
                0x85..=0x87 => {
                    let count = usize::from(opcode - 0x84);
                    let items = self.pop_many(count)?;
                    self.push(Node::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                b'q' | b'r' | 0x94 | b'h' | b'j' => self.memory(opcode)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Class(class_name(module, name)))?;
                }
                0x93 => {
                    let names = self.pop_many(2)?;
                    let [Node::Str(module), Node::Str(name)] =
                        [self.node(names[0]), self.node(names[1])]
                    else {
                        return Err("a class is named by something else than texts".into());
                    };
                    let class = class_name(module, name);
                    self.copy(class.len())?;
                    self.push(Node::Class(class))?;
                }
                b'R' | 0x81 => {
                    let parts = self.pop_many(2)?;
                    self.make(parts[0], parts[1])?;
                }
                0x92 => {
                    // Named arguments come as a dictionary, which is kept as one more argument.
                    let parts = self.pop_many(3)?;
                    self.copy(self.class(parts[0])?.len() + self.size(parts[1]))?;
                    let mut args = self.tuple(parts[1])?.to_vec();
                    args.push(parts[2]);
                    let class = self.class(parts[0])?.to_string();
                    self.push(Node::Object {
                        class,
                        args,
                        state: None,
                    })?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let target = self.top()?;
                    // Dictionaries and tensors have attributes at most that say nothing about their contents.
                    if let Node::Object { state: slot, .. } = &mut self.nodes[target as usize] {
                        *slot = Some(state);
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(Node::Storage(storage))?;
                }
                other => return Err(format!("opcode {} is refused", opcode_name(other))),
            }
        }
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Step<&'p [u8]> {
        let end = self
            .at
            .checked_add(count)
            .filter(|&end| end <= self.input.len())
            .ok_or("it ends in the middle")?;
        let taken = &self.input[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Step<&'p str> {
        let rest = &self.input[self.at..];
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("it ends in the middle")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a name is not UTF-8".into())
    }

    /// A text or byte string with its length before it, as the opcode has it.
    fn sized(&mut self, opcode: u8) -> Step<&'p [u8]> {
        let length = match opcode {
            0x8c | b'U' | b'C' => u64::from(self.byte()?),
            0x8d | 0x8e => u64::from_le_bytes(self.array()?),
            _ => u64::from(u32::from_le_bytes(self.array()?)),
        };
        let length = usize::try_from(length).map_err(|_| "it ends in the middle")?;
        self.take(length)
    }

    fn text(&mut self, opcode: u8) -> Step {
        let bytes = self.sized(opcode)?;
        let node = match std::str::from_utf8(bytes) {
            Ok(text) => Node::Str(text.into()),
            // Python 2's strings are bytes.
            Err(_) if matches!(opcode, b'T' | b'U') => Node::Bytes(bytes.to_vec()),
            Err(_) => return Err("a text is not UTF-8".into()),
        };
        self.push(node)
    }

    fn number(&mut self, opcode: u8) -> Step {
        let node = match opcode {
            b'K' => Node::Int(self.byte()?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
            b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let length = match opcode {
                    0x8a => usize::from(self.byte()?),
                    _ => u32::from_le_bytes(self.array()?) as usize,
                };
                let bytes = self.take(length)?;
                if bytes.len() > 8 {
                    Node::Bytes(bytes.to_vec())
                } else {
                    let fill = if bytes.last().is_some_and(|&top| top >= 0x80) {
                        0xff
                    } else {
                        0
                    };
                    let mut wide = [fill; 8];
                    wide[..bytes.len()].copy_from_slice(bytes);
                    Node::Int(i64::from_le_bytes(wide))
                }
            }
        };
        self.push(node)
    }

    fn memory(&mut self, opcode: u8) -> Step {
        let slot = match opcode {
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len()).map_err(|_| "its memory is full")?,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = *self
                .memo
                .get(&slot)
                .ok_or_else(|| format!("it recalls {slot}, which it never noted"))?;
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(slot, top);
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Step {
        let id = Id::try_from(self.nodes.len()).map_err(|_| "it has too many values")?;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    /// Accounts for bytes that are copied out of earlier values.
    fn copy(&mut self, bytes: usize) -> Step {
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > MOST_COPIES * self.at + FREE_COPIES {
            return Err("its values would take far more memory than it has bytes: refused".into());
        }
        Ok(())
    }

    /// Bytes of a copy of a container's references.
    fn size(&self, id: Id) -> usize {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => size_of_val(&items[..]),
            _ => 0,
        }
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// Height below which nothing may be taken: that of the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err("it takes from an empty stack".into()),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Step<Vec<Id>> {
        let start = self
            .stack
            .len()
            .checked_sub(count)
            .filter(|&start| start >= self.floor());
        Ok(self
            .stack
            .split_off(start.ok_or("it takes from an empty stack")?))
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .ok_or("it goes back to a mark that it never set")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Id>) -> Step {
        let target = self.container(|| Node::List(Vec::new()))?;
        match &mut self.nodes[target as usize] {
            Node::List(list) => list.extend(items),
            other => return Err(format!("it appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Step {
        let (pairs, []) = items.as_chunks() else {
            return Err("a key has no value".into());
        };
        let target = self.container(|| Node::Dict(Vec::new()))?;
        match &mut self.nodes[target as usize] {
            Node::Dict(entries) => entries.extend(pairs.iter().map(|&[key, value]| (key, value))),
            other => return Err(format!("it sets items of {}", other.kind())),
        }
        Ok(())
    }

    /// What items go into: the top, or, for an object of an unknown class, a state made for it.
    fn container(&mut self, empty: impl Fn() -> Node) -> Step<Id> {
        let top = self.top()?;
        let Node::Object { state, .. } = self.node(top) else {
            return Ok(top);
        };
        if let Some(state) = *state {
            return Ok(state);
        }
        self.push(empty())?;
        let made = self.pop()?;
        if let Node::Object { state, .. } = &mut self.nodes[top as usize] {
            *state = Some(made);
        }
        Ok(made)
    }

    fn class(&self, id: Id) -> Step<&str> {
        match self.node(id) {
            Node::Class(class) => Ok(class),
            other => Err(format!(
                "it makes an object of {}, which is no class",
                other.kind()
            )),
        }
    }

    fn tuple(&self, id: Id) -> Step<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            other => Err(format!("{} stands where a tuple should", other.kind())),
        }
    }

    fn extents(&self, id: Id) -> Step<Vec<usize>> {
        self.tuple(id)?
            .iter()
            .map(|&item| self.extent(item))
            .collect()
    }

    fn extent(&self, id: Id) -> Step<usize> {
        match self.node(id) {
            Node::Int(number) => {
                usize::try_from(*number).map_err(|_| format!("{number} stands where a size should"))
            }
            other => Err(format!("{} stands where a size should", other.kind())),
        }
    }

    /// `class(*args)`, for the few classes that are data; any other is noted down.
    fn make(&mut self, class: Id, args: Id) -> Step {
        let name = self.class(class)?.len();
        // The contents of arguments are copied twice as wide at most: extents and pairs.
        let contents: usize = (self.tuple(args)?.iter())
            .map(|&arg| match self.node(arg) {
                Node::Storage(storage) => storage.key.len(),
                _ => 2 * self.size(arg),
            })
            .sum();
        self.copy(name + self.size(args) + contents)?;
        let class = self.class(class)?.to_string();
        let args = self.tuple(args)?.to_vec();
        let node = match (class.as_str(), &args[..]) {
            ("collections.OrderedDict" | "builtins.dict", []) => Node::Dict(Vec::new()),
            ("collections.OrderedDict" | "builtins.dict", &[pairs]) => {
                let pair = |&pair: &Id| match self.tuple(pair)? {
                    &[key, value] => Ok((key, value)),
                    other => Err(format!(
                        "an entry of a dictionary has {} parts",
                        other.len()
                    )),
                };
                Node::Dict(self.tuple(pairs)?.iter().map(pair).collect::<Step<_>>()?)
            }
            // Its first argument says what missing entries would be; there are none.
            ("collections.defaultdict", _) => Node::Dict(Vec::new()),
            ("builtins.set" | "builtins.frozenset", &[items]) => {
                Node::List(self.tuple(items)?.to_vec())
            }
            ("torch.Size", &[extents]) => Node::Tuple(self.tuple(extents)?.to_vec()),
            (
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
                &[storage, offset, shape, strides, ..],
            ) => {
                let Node::Storage(storage) = self.node(storage) else {
                    return Err("a tensor has no storage".into());
                };
                Node::Tensor(View {
                    key: storage.key.clone(),
                    offset: self.extent(offset)?,
                    shape: self.extents(shape)?,
                    strides: self.extents(strides)?,
                })
            }
            (
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                &[data, ..],
            ) => {
                self.stack.push(data);
                return Ok(());
            }
            _ => Node::Object {
                class,
                args,
                state: None,
            },
        };
        self.push(node)
    }

    /// `('storage', class, key, location, count)`, before PyTorch 1.6 with a view of another storage at the end.
    fn storage(&mut self, id: Id) -> Step<StorageRef> {
        if let Some(&key) = self.tuple(id)?.get(2)
            && let Node::Str(key) = self.node(key)
        {
            self.copy(key.len())?;
        }
        let parts = self.tuple(id)?;
        let &[kind, class, key, _, count, ref view @ ..] = parts else {
            return Err(format!("a persistent reference has {} parts", parts.len()));
        };
        match self.node(kind) {
            Node::Str(kind) if kind == "storage" => {}
            other => {
                return Err(format!(
                    "a persistent reference is to {}, not to a storage",
                    other.kind()
                ));
            }
        }
        if view
            .iter()
            .any(|&view| !matches!(self.node(view), Node::None))
        {
            return Err("a storage that is a view of another is not supported; save it again with PyTorch 1.6 or later".into());
        }
        let class = self.class(class)?;
        let dtype = Dtype::of_class(class)
            .ok_or_else(|| format!("storages of type {class} are not supported"))?;
        let Node::Str(key) = self.node(key) else {
            return Err("a storage's key is no text".into());
        };
        Ok(StorageRef {
            key: key.clone(),
            dtype,
            count: self.extent(count)?,
        })
    }
}

/// Module and name, with Python 2's module of built-ins called as in Python 3.
fn class_name(module: &str, name: &str) -> String {
    let module = if module == "__builtin__" {
        "builtins"
    } else {
        module
    };
    format!("{module}.{name}")
}

fn opcode_name(opcode: u8) -> String {
    if opcode.is_ascii_graphic() {
        format!("'{}' ({opcode:#04x})", char::from(opcode))
    } else {
        format!("{opcode:#04x}")
    }
}
