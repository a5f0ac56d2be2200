//! All ops, described once: tests, benches and devices walk this table.

use super::testing::Case;

/// An op folder's entry.
pub struct Entry {
    /// The folder under `src/ops`.
    pub folder: &'static str,
    /// The names of the kernels it brings.
    pub kernels: &'static [&'static str],
    /// Its table of cases.
    pub cases: fn() -> Vec<Case>,
}

/// Every op folder.
pub fn entries() -> Vec<Entry> {
    macro_rules! entries {
        ($($folder:ident),* $(,)?) => {
            vec![$(Entry {
                folder: stringify!($folder),
                kernels: super::$folder::KERNELS,
                cases: super::$folder::cases::cases,
            }),*]
        };
    }
    entries![
        batch_norm,
        binary,
        conv2d,
        data_init,
        decoder,
        dwconv,
        guard,
        kl_balance,
        langevin,
        latent,
        layout,
        linear,
        loss,
        mala,
        mbconv,
        noise,
        optim,
        reduce,
        resample,
        residual_block,
        residual_cell,
        spectral,
        squeeze_excite,
        state,
        unary,
        weight_norm,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::device::host::{Cpu, Host, Plain32};

    /// Runs `check` over all cases of all ops and reports every failure at once.
    fn every_case(check: impl Fn(&Case) -> Result<(), String>) {
        let mut failures = Vec::new();
        for entry in entries() {
            for case in (entry.cases)() {
                if let Err(e) = check(&case) {
                    failures.push(format!("{}: {e}", entry.folder));
                }
            }
        }
        assert!(
            failures.is_empty(),
            "{} failures:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }

    #[test]
    fn native_values_match_the_reference() {
        every_case(|case| case.check_values(&mut Cpu::new()));
    }

    #[test]
    fn single_precision_reference_matches_double() {
        every_case(|case| case.check_values(&mut Host::<Plain32>::new()));
    }

    #[test]
    fn native_gradients_match_the_reference() {
        every_case(|case| case.check_gradients(&mut Cpu::new()));
    }

    #[test]
    fn gradient_rules_match_central_differences() {
        every_case(Case::check_gradient_rules);
    }

    /// A case's values and gradients on the native device, as bits, with so many threads.
    fn bits(case: &Case, threads: usize) -> Vec<Vec<u64>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().expect("threads");
        pool.install(|| {
            let tapes = [case.value_tape(), case.gradient_tape()];
            let results = tapes.iter().flat_map(|tape| {
                case.run(tape, &mut Cpu::new())
                    .unwrap_or_else(|e| panic!("case `{}`: {e}", case.name))
            });
            results
                .map(|t| t.data.iter().map(|v| v.to_bits()).collect())
                .collect()
        })
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        every_case(|case| match bits(case, 1) == bits(case, 3) {
            true => Ok(()),
            false => Err(format!("case `{}` depends on the threads", case.name)),
        });
    }

    #[test]
    fn every_kernel_of_every_folder_is_exercised() {
        let mut seen = HashSet::new();
        for entry in entries() {
            for case in (entry.cases)() {
                seen.extend(case.value_tape().op_names());
                seen.extend(case.gradient_tape().op_names());
            }
        }
        for entry in entries() {
            for kernel in entry.kernels {
                assert!(
                    seen.contains(kernel),
                    "no case of any op runs `{kernel}` of `{}`",
                    entry.folder
                );
            }
        }
    }

    #[test]
    fn every_folder_is_registered() {
        let registered: HashSet<_> = entries().iter().map(|e| e.folder.to_owned()).collect();
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops")).unwrap();
        for folder in folders
            .map(Result::unwrap)
            .filter(|f| f.file_type().unwrap().is_dir())
        {
            let name = folder.file_name().into_string().unwrap();
            assert!(
                registered.contains(&name),
                "src/ops/{name} is not in the registry"
            );
        }
    }
}
