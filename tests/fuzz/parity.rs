//! The files of parity cases: tensors, tolerances, ceilings, schedules.

use std::path::Path;

use vaebm::device::Device;
use vaebm::device::host::Cpu;
use vaebm::parity::{Arithmetic, Options, run};

use super::harness::{Target, fuzz};
use super::{BASE, form, place, refused, seed};

const CEILINGS: &str = r#"[["*/x*", "*", 2e-05], ["unit/*", "y", null]]"#;
const TOLERANCES: &str = r#"{"y": {"abs": 1e-7, "max": 1.5}}"#;
const SCHEDULES: &str = r#"[{"epochs": 4, "warmup_epochs": 1, "iters_per_epoch": 2, "learning_rate": 0.01, "learning_rate_min": 0.0001,
"kl_anneal_portion": 0.3, "kl_const_portion": 0.0001, "kl_const_coeff": 0.0001, "wdn_init": 10.0, "wdn": 0.01,
"lr": [0.0, 0.005], "kl_coeff": [0.0001], "wdn_coeff_annealed": [10.0, 5.0]}]"#;

fn tensors() -> Vec<u8> {
    let json = br#"{"__metadata__":{"inputs":"x","it":"3"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}"#;
    [&(json.len() as u64).to_le_bytes()[..], json, &[0; 16]].concat()
}

/// Forms: which of the four files is damaged.
fn read(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let (form, contents) = form(input);
    let unit = folder.join("unit");
    std::fs::create_dir_all(&unit).expect("the scratch folder");
    let pick = |number: u8, good: &[u8]| {
        if form % 4 == number {
            contents.to_vec()
        } else {
            good.to_vec()
        }
    };
    place(folder, "ceilings.json", &pick(0, CEILINGS.as_bytes()));
    place(&unit, "x.tol.json", &pick(1, TOLERANCES.as_bytes()));
    place(&unit, "x.safetensors", &pick(2, &tensors()));
    place(&unit, "schedules.json", &pick(3, SCHEDULES.as_bytes()));
    let options = Options {
        arithmetic: Arithmetic::Single,
        device: &|| Ok(Box::new(Cpu::new()) as Box<dyn Device>),
        only: None,
    };
    let summary = match run(folder, &options, &mut |_, _, _| {}) {
        Ok(summary) => summary,
        Err(error) => return refused(&error, folder),
    };
    let mut accepted = true;
    for row in summary
        .failures
        .iter()
        .filter(|row| row.quantity == "(test)")
    {
        let failure = row.failure.clone().unwrap_or_default();
        // `x` is no test of this build: that is how it tells that all files were read.
        if !failure.contains("no test called") {
            accepted = refused(&failure, folder)?;
        }
    }
    Ok(accepted)
}

#[test]
fn parity_files() {
    fuzz(&Target {
        name: "parity",
        seeds: || {
            vec![
                seed(0, CEILINGS.as_bytes()),
                seed(1, TOLERANCES.as_bytes()),
                seed(2, &tensors()),
                seed(3, SCHEDULES.as_bytes()),
            ]
        },
        text: true,
        allowed: |length| BASE + 400 * length,
        read,
    });
}
