//! A stand-in for libcuda: the driver functions that host code calls, with kernels run by `ptxsim` on the CPU.
//!
//! Built as a shared library and put in front of the real one by `ptxsim exec`, which also sets the environment
//! variables that configure it (`ptxsim::exec::settings`).
//!
//! * [`ffi`] holds the pointer types of the C interface; all dereferencing of a caller's pointers is there.
//! * [`status`] is the table of error codes, names and descriptions.
//! * [`driver`] is the state of the one simulated device, behind one lock.
//! * [`work`] is what a stream can be given: launches, copies, fills, host functions.
//! * [`queue`] decides when work is done.
//! * [`capture`] records work into graphs, with the rules that stream capture has.
//! * [`api`] has the exported functions, by group.
//!
//! Streams run their work when it is submitted, or, on request, as late as the program's waits allow; a program sees one of
//! the orders that a GPU allows. What the stand-in cannot do it refuses with `CUDA_ERROR_NOT_SUPPORTED` and a note in the report.

mod api;
mod attributes;
mod capture;
mod driver;
mod ffi;
mod handles;
mod queue;
mod status;
mod work;
