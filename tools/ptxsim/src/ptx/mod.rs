//! From PTX text to decoded kernels: tokens, statements, decoding, control flow.

mod arithmetic;
mod convert;
mod decode;
mod flow;
mod function;
pub(crate) mod isa;
mod lex;
mod lines;
mod memory;
mod parse;
mod warp;

pub(crate) use lines::Lines;
pub(crate) use parse::parse;
