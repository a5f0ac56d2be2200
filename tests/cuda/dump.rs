//! Results of the ops' cases bit for bit, for holding one driver against another: a GPU against the simulator.
//!
//! ```text
//! cuda-... dump gpu.json                        on a GPU
//! ptxsim exec -- cuda-... dump sim.json         on the simulator
//! cuda-... compare gpu.json sim.json
//! ```
//!
//! Kernels that consist of IEEE operations alone must give the same bits. Those with approximate instructions (`ex2.approx` within `expf`
//! and so on) or matrix units, whose order of sums is the hardware's own, are compared by how far they are apart, without a verdict:
//! the check against the reference gives that.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vaebm::device::cuda::{Cuda, modules};
use vaebm::ops::registry::entries;
use vaebm::program::gpu::Precision;

use crate::Outcome;

/// One program of one case in one precision.
#[derive(Serialize, Deserialize)]
struct Record {
    kernels: Vec<String>,
    /// Tensors by name, as the bits of their numbers.
    tensors: BTreeMap<String, Vec<u32>>,
}

type Records = BTreeMap<String, Record>;

/// Runs every case and writes its results.
pub fn dump(path: &Path) -> Outcome {
    let mut records = Records::new();
    for entry in entries() {
        for case in (entry.cases)() {
            let tapes = [
                ("values", case.value_tape()),
                ("gradients", case.gradient_tape()),
            ];
            for (what, tape) in tapes {
                for precision in Precision::ALL {
                    let mut device = Cuda::new(0, precision).map_err(|e| e.to_string())?;
                    let results = case.run(&tape, &mut device).map_err(|e| e.to_string())?;
                    let bits = |t: vaebm::ops::testing::Tensor| {
                        (
                            t.name,
                            t.data.iter().map(|v| (*v as f32).to_bits()).collect(),
                        )
                    };
                    let record = Record {
                        kernels: device.launches().into_keys().collect(),
                        tensors: results.into_iter().map(bits).collect(),
                    };
                    let name = format!(
                        "{}/{}/{what}/{}",
                        entry.folder,
                        case.name,
                        precision.suffix()
                    );
                    records.insert(name, record);
                }
            }
        }
    }
    let json = serde_json::to_vec(&records).map_err(|e| e.to_string())?;
    std::fs::write(path, json).map_err(|e| format!("{}: {e}", path.display()))
}

/// Whether a kernel's PTX has nothing but IEEE operations in a fixed order.
fn is_exact(kernel: &str) -> bool {
    let head = format!(".visible .entry {kernel}(");
    let texts = modules::PTX
        .iter()
        .filter_map(|(_, text)| text.split_once(&head));
    let mut bodies = texts.map(|(_, rest)| rest.split(".visible .entry ").next().unwrap_or(rest));
    bodies.all(|body| !body.contains(".approx") && !body.contains("mma.sync"))
}

/// Compares two files of [`dump`] and prints what differs.
pub fn compare(a: &Path, b: &Path) -> Outcome {
    let read = |path: &Path| -> Result<Records, String> {
        let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let (a, b) = (read(a)?, read(b)?);
    if !a.keys().eq(b.keys()) {
        return Err("the two files are of different builds: their cases differ".into());
    }
    let (mut exact, mut wrong, mut apart) = (0, Vec::new(), 0.0f64);
    for (name, first) in &a {
        let must_agree = first.kernels.iter().all(|k| is_exact(k));
        exact += usize::from(must_agree);
        for (tensor, bits) in &first.tensors {
            let other = b[name].tensors.get(tensor).map_or(&[][..], Vec::as_slice);
            let differing = bits.iter().zip(other).filter(|(x, y)| x != y).count();
            if bits.len() != other.len() || (must_agree && differing > 0) {
                wrong.push(format!(
                    "{name}, {tensor}: {differing} of {} numbers differ; kernels {:?}",
                    bits.len(),
                    first.kernels
                ));
            }
            let value = |bits: &u32| f64::from(f32::from_bits(*bits));
            let largest = bits.iter().map(|v| value(v).abs()).fold(1e-30, f64::max);
            let distance = bits
                .iter()
                .zip(other)
                .map(|(x, y)| (value(x) - value(y)).abs() / largest);
            apart = distance.fold(apart, f64::max);
        }
    }
    println!(
        "{} programs, {exact} of IEEE operations alone; the largest difference relative to a tensor is {apart:.2e}",
        a.len()
    );
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}
