//! Every case of `shared/parity`: on the native cpu device within the tolerances of the files, and on the plain references in
//! double precision within the rounding of the files.

use vaebm::device::host::cpu;
use vaebm::parity::{Arithmetic, Options, run};
use vaebm::shared::require_shared;

/// Runs the tests whose names contain `only` and fails with every quantity that misses.
fn passes(arithmetic: Arithmetic, only: &str) {
    let Some(dir) = require_shared("parity") else {
        return;
    };
    let options = Options {
        arithmetic,
        device: &|| Ok(cpu()),
        only: Some(only.to_owned()),
    };
    let mut report = |name: &str, rows: &[vaebm::parity::Row], time: std::time::Duration| {
        let failed = rows.iter().filter(|r| r.failure.is_some()).count();
        println!(
            "{name}: {} quantities, {failed} failed, {time:.1?}",
            rows.len()
        );
    };
    let summary = run(&dir, &options, &mut report).expect("the folder of cases");
    assert!(summary.tests > 0, "no test is called `{only}`");
    let misses: Vec<String> = (summary.failures.iter())
        .map(|r| {
            let reason = r.failure.as_deref().unwrap_or_default();
            format!(
                "{} {}: {:.2e} of {:.2e}: {reason}",
                r.test, r.quantity, r.max_error, r.tolerance
            )
        })
        .collect();
    assert!(
        summary.passed(),
        "{} of {} quantities miss:\n{}",
        misses.len(),
        summary.compared,
        misses.join("\n")
    );
}

#[test]
fn a_double() {
    passes(
        Arithmetic::Double,
        &std::env::var("ONLY").unwrap_or_default(),
    );
}

#[test]
fn a_single() {
    passes(
        Arithmetic::Single,
        &std::env::var("ONLY").unwrap_or_default(),
    );
}
