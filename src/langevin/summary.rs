//! A study in words and columns, as JSON and as arrays.

use std::fmt::Write;

use serde_json::Value;

use super::study::{Quantity, Study, Trace};
use crate::data::arrays::Array;

/// Quantities that are listed; of more, the one that mixes worst is named.
const LISTED: usize = 24;
/// Chains whose traces are kept for a report.
const SHOWN: usize = 4;
/// Movements that a line holds.
const A_LINE: usize = 10;

/// Four significant digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    format!("{value:.decimals$}")
}

impl Study {
    /// The effective draws of what mixes worst, and its name.
    pub fn worst(&self) -> Option<&Quantity> {
        // What is not a number is the worst of all.
        let key = |q: &Quantity| if q.ess_bulk.is_nan() { 0.0 } else { q.ess_bulk };
        self.quantities
            .iter()
            .min_by(|a, b| key(a).total_cmp(&key(b)))
    }

    /// The traces as named arrays `[chains, draws]`.
    pub fn arrays(&self) -> Vec<Array> {
        let array = |trace: &Trace| Array {
            name: trace.name.clone(),
            shape: vec![self.chains, self.draws],
            values: trace.chains.concat(),
        };
        self.traces.iter().map(array).collect()
    }

    /// The study as JSON with the first chains' log-densities, for a report.
    ///
    /// # Errors
    /// What `serde_json` refuses; nothing in a study is of that kind.
    pub fn record(&self) -> serde_json::Result<Value> {
        let mut record = serde_json::to_value(self)?;
        if let Some(trace) = self.traces.first() {
            let shown = trace.chains.iter().take(SHOWN);
            record[&trace.name] = shown.cloned().collect();
        }
        Ok(record)
    }

    /// The study as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{} on {}", self.sampler, self.target)?;
        writeln!(
            out,
            "{} chains, {} warm-up steps, {} draws of {} step(s) each; seed {}; {}",
            self.chains, self.warmup, self.draws, self.thin, self.seed, self.device
        )?;
        let from = match self.first_step_size == self.step_size {
            true => String::new(),
            false => format!(" (from {})", number(self.first_step_size)),
        };
        write!(out, "step size {}{from}", number(self.step_size))?;
        if let Some(a) = &self.acceptance {
            write!(
                out,
                ", accepted {:.3} of the proposals ({:.3} to {:.3} by chain)",
                a.mean, a.lowest, a.highest
            )?;
        }
        writeln!(
            out,
            "\n{} s of wall time for the draws, {} chain-steps/s; the warm-up took {} s and is in no figure below\n",
            number(self.seconds),
            number(self.chain_steps_per_second),
            number(self.seconds_warmup)
        )?;
        writeln!(
            out,
            "{:<14}{:>12}{:>12}{:>12}{:>12}{:>12}{:>9}{:>12}{:>12}",
            "", "mean", "sd", "MCSE", "bulk ESS", "tail ESS", "R-hat", "tau steps", "ESS/s"
        )?;
        for q in self.quantities.iter().take(LISTED) {
            row(out, q)?;
        }
        if let Some(worst) = self.worst() {
            writeln!(
                out,
                "worst: {} with {} effective draws, {} a second",
                worst.name,
                number(worst.ess_bulk),
                number(worst.ess_per_second)
            )?;
        }
        writeln!(
            out,
            "\nwhere chains were after so many steps from the start:"
        )?;
        write!(out, "{:>10}", "steps")?;
        for name in &self.told {
            write!(out, "{name:>14}")?;
        }
        writeln!(out, "{:>14}", "moved (RMS)")?;
        for drift in &self.drift {
            write!(out, "{:>10}", drift.step)?;
            for mean in &drift.means {
                write!(out, "{:>14}", number(*mean))?;
            }
            let groups = drift.movement.len() as f64;
            let squares = drift.movement.iter().map(|m| m * m).sum::<f64>();
            writeln!(out, "{:>14}", number((squares / groups).sqrt()))?;
        }
        if let (Some(last), true) = (self.drift.last(), self.groups.len() > 1) {
            writeln!(out, "\nmoved by group after {} steps:", last.step)?;
            let moved: Vec<String> = (self.groups.iter().zip(&last.movement))
                .map(|(group, moved)| format!("{group} {}", number(*moved)))
                .collect();
            for line in moved.chunks(A_LINE) {
                writeln!(out, "  {}", line.join("  "))?;
            }
        }
        Ok(())
    }
}

fn row(out: &mut String, q: &Quantity) -> std::fmt::Result {
    writeln!(
        out,
        "{:<14}{:>12}{:>12}{:>12}{:>12}{:>12}{:>9.3}{:>12}{:>12}",
        q.name,
        number(q.mean),
        number(q.sd),
        number(q.mcse),
        number(q.ess_bulk),
        number(q.ess_tail),
        q.rhat,
        number(q.autocorrelation_steps),
        number(q.ess_per_second)
    )
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (12.3456, "12.35"),
            (-1234.56, "-1235"),
            (1.0e-5, "1.000e-5"),
            (0.012_346, "0.01235"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
