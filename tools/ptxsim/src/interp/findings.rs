//! Collects findings of one host thread, by site.

use std::collections::BTreeMap;

use crate::finding::{Access, FindingKind};

/// The first occurrence of a finding at a site, and how often it occurred.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub block: u64,
    pub thread: u32,
    pub access: Option<Access>,
    pub address: Option<u64>,
    pub place: Option<(String, i64)>,
    pub message: String,
    pub count: u64,
}

/// Findings by kind and instruction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub records: BTreeMap<(u32, FindingKind), Record>,
}

impl Findings {
    /// Counts an occurrence; `describe` is called when it is the first of the lowest block so far.
    pub fn add(&mut self, site: (u32, FindingKind), block: u64, describe: impl FnOnce() -> Record) {
        match self.records.get_mut(&site) {
            Some(record) if record.block <= block => record.count += 1,
            Some(record) => {
                let count = record.count;
                *record = Record {
                    count: count + 1,
                    ..describe()
                };
            }
            None => {
                self.records.insert(site, describe());
            }
        }
    }

    /// Joins another thread's findings; the lowest block's description stays.
    pub fn merge(&mut self, other: Findings) {
        for (site, record) in other.records {
            match self.records.get_mut(&site) {
                None => {
                    self.records.insert(site, record);
                }
                Some(mine) => {
                    let count = mine.count + record.count;
                    if record.block < mine.block {
                        *mine = record;
                    }
                    mine.count = count;
                }
            }
        }
    }
}
