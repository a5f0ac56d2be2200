//! The kernels that a step of many chains takes, for steps of few: rules choose by size, and a kernel is counted on small batches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vaebm::program::variants::{self, Chooser, Site};

/// What the rules chose, by name.
#[derive(Debug, Default)]
pub struct Choices(Mutex<BTreeMap<Site, String>>);

impl Chooser for Choices {
    fn choose(&self, site: &Site, names: &[String], rule: usize) -> Option<usize> {
        let mut chosen = self.0.lock().expect("no op broke it");
        chosen.insert(site.clone(), names[rule].clone());
        None
    }
}

/// The choices of a batch that is `times` as large; the first extent of a site counts chains, or pixels of all.
#[derive(Debug)]
struct Smaller {
    whole: Arc<Choices>,
    times: usize,
}

impl Chooser for Smaller {
    fn choose(&self, site: &Site, names: &[String], _: usize) -> Option<usize> {
        let mut scaled = site.clone();
        scaled.shape[0] *= self.times;
        let chosen = self.whole.0.lock().expect("no op broke it");
        // What is made of weights is as large in any step.
        let name = chosen.get(&scaled).or_else(|| chosen.get(site));
        let name = name.expect("the larger step asks the same");
        names.iter().position(|n| n == name)
    }
}

impl Choices {
    /// Plans with the rules' choices, and keeps them.
    pub fn record<R>(self: &Arc<Self>, plan: impl FnOnce() -> R) -> R {
        variants::with(Some(Arc::clone(self) as Arc<dyn Chooser>), plan)
    }

    /// Plans a batch of which the recorded one is `times` as large.
    pub fn repeat<R>(self: &Arc<Self>, times: usize, plan: impl FnOnce() -> R) -> R {
        let whole = Arc::clone(self);
        variants::with(Some(Arc::new(Smaller { whole, times })), plan)
    }
}
