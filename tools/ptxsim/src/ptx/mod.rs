//! From PTX text to decoded kernels: tokens, statements, decoding, control flow.

mod arithmetic;
mod body;
mod calls;
mod code;
mod convert;
mod decode;
mod floats;
mod flow;
mod function;
mod hopper;
pub(crate) mod isa;
mod lex;
mod lines;
mod memory;
mod modes;
mod operands;
mod parse;
mod types;
mod warp;
mod wgmma;

pub(crate) use lines::Lines;
pub(crate) use parse::parse;
