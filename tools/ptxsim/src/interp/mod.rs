//! The interpreter: runs decoded kernels warp by warp, 32 lanes at a time.

mod access;
mod async_copy;
mod atomics;
mod barrier;
pub(crate) mod block;
mod call;
mod collective;
mod cvt;
pub(crate) mod findings;
mod float;
pub(crate) mod global;
mod happens;
mod int;
mod local;
pub(crate) mod machine;
mod matrix;
mod race;
mod rare;
pub(crate) mod registers;
mod run;
mod scalar;
mod shared;
mod soft;
mod traffic;
pub(crate) mod warp;
