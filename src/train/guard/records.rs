//! Verdicts as the device leaves them, and in words.

use crate::ops::guard::Layout;

/// What was wrong with one number of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NotFinite,
    Limit,
    Deviation,
}

/// One watched number of a step.
#[derive(Clone, Debug, PartialEq)]
struct Reading {
    name: &'static str,
    value: f64,
    deviation: f64,
    fault: Option<Fault>,
}

/// The verdict on one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The step, from 1.
    pub step: u64,
    readings: Vec<Reading>,
}

/// The records of steps after `after` up to `until`, in order.
pub(super) fn read(
    state: &[f32],
    layout: Layout,
    names: &[&'static str],
    after: u64,
    until: u64,
) -> Vec<Record> {
    let record = |place: usize| {
        let words = &state[layout.record(place)..][..layout.record_len()];
        let (values, deviations) = words[2..].split_at(layout.watches);
        let complaints = words[1] as u32;
        let reading = |(i, name): (usize, &&'static str)| Reading {
            name,
            value: f64::from(values[i]),
            deviation: f64::from(deviations[i]),
            fault: [
                (8, Fault::NotFinite),
                (16, Fault::Limit),
                (0, Fault::Deviation),
            ]
            .into_iter()
            .find(|(shift, _)| complaints & 1 << (shift + i) != 0)
            .map(|(_, fault)| fault),
        };
        Record {
            step: words[0] as u64,
            readings: names.iter().enumerate().map(reading).collect(),
        }
    };
    let mut records: Vec<Record> = (0..layout.records)
        .map(record)
        .filter(|r| r.step > after && r.step <= until)
        .collect();
    records.sort_by_key(|r| r.step);
    records
}

impl Record {
    /// Whether the step was applied.
    pub fn is_good(&self) -> bool {
        self.readings.iter().all(|r| r.fault.is_none())
    }

    /// Whether that number was at fault, and as a number: what is not finite blames nobody.
    pub fn blames(&self, name: &str) -> bool {
        let fault = |r: &&Reading| r.name == name && r.fault.is_some_and(|f| f != Fault::NotFinite);
        self.readings.iter().any(|r| fault(&r))
    }

    /// What was wrong, for people.
    pub fn complaint(&self) -> String {
        let told = self.readings.iter().filter_map(|r| {
            let name = r.name.replace('_', " ");
            Some(match r.fault? {
                Fault::NotFinite => format!("the {name} is not finite"),
                Fault::Limit => format!("the {name} of {:.3} is beyond any bound", r.value),
                Fault::Deviation => format!(
                    "the {name} of {:.4e} is {:.0} deviations from its median",
                    r.value, r.deviation
                ),
            })
        });
        told.collect::<Vec<_>>().join(", ")
    }

    /// The numbers with their deviations, for machines.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let figures = |r: &Reading| {
            let value = match r.fault {
                Some(Fault::NotFinite) => f64::NAN,
                _ => r.value,
            };
            [
                (r.name.to_owned(), value),
                (format!("{}_z", r.name), r.deviation),
            ]
        };
        self.readings.iter().flat_map(figures).collect()
    }
}
