//! Every case of `shared/parity`: on the native cpu device within the tolerances of the files, and on the plain references in
//! double precision within the rounding of the files.

use vaebm::device::host::cpu;
use vaebm::parity::{Arithmetic, Options, Row, run, table};
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
    let report = &mut |name: &str, rows: &[Row], time: std::time::Duration| {
        println!("{name}: {} quantities in {time:.1?}", rows.len());
    };
    let summary = run(&dir, &options, report).expect("the folder of cases");
    assert!(summary.tests > 0, "no test is called `{only}`");
    let failures = &summary.failures;
    assert!(
        failures.is_empty(),
        "{} of {} quantities miss:\n{}",
        failures.len(),
        summary.compared,
        table::lines(failures, true)
    );
}

/// One Rust test for each part of a case, so that they run side by side.
macro_rules! parts {
    ($($part:ident: $only:literal,)*) => {
        const PARTS: &[&str] = &[$($only),*];
        mod single {
            $(#[test]
            fn $part() {
                super::passes(vaebm::parity::Arithmetic::Single, $only);
            })*
        }
        mod double {
            $(#[test]
            fn $part() {
                super::passes(vaebm::parity::Arithmetic::Double, $only);
            })*
        }
    };
}

parts! {
    a_stage1: "A/stage1",
    a_vae_sample: "A/vae_sample",
    a_energy: "A/ebm_data_init",
    a_energy_forward: "A/ebm_forward",
    a_langevin: "A/langevin",
    a_train_on_samples: "A/ebm_train_sample",
    a_train_on_means: "A/ebm_train_mu",
    b: "B/",
    unit: "unit/",
}

/// The parts together are everything: no test of the folder is left out.
#[test]
fn every_test_belongs_to_a_part() {
    let Some(dir) = require_shared("parity") else {
        return;
    };
    for case in std::fs::read_dir(dir).expect("the folder of cases") {
        let case = case.expect("an entry").path();
        if !case.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&case).expect("a case") {
            let file = file.expect("an entry").path();
            let name = file.strip_prefix(case.parent().expect("a folder"));
            let name = name.expect("a path below").to_string_lossy();
            assert!(
                !name.ends_with(".tol.json") || PARTS.iter().any(|part| name.contains(part)),
                "{name} runs nowhere"
            );
        }
    }
}
