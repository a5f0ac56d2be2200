//! Executes PTX on the CPU.
