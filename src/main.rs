//! The `vaebm` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    vaebm::cli::main()
}
