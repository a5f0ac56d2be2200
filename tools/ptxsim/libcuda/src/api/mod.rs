//! The exported functions. Names, arguments and meaning are those of the CUDA driver API; where the stand-in knows less
//! than a driver, the function says so.
#![allow(non_snake_case, reason = "the driver's names")]

mod context;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod memory_pool;
mod module;
mod occupancy;
mod proc_address;
mod profiler;
mod stream;
mod unsupported;
