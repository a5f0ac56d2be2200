//! The checkpoints of a run: names, pointers, and which are kept.

use super::atomic::{remove_unfinished, replace_file, sync_folder};
use super::error::CheckpointError;
use super::file::{Header, NamedTensor, write};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The pointers, by the endings of their names.
const LAST: &str = "last";
const BEST: &str = "best";
const GOOD: &str = "good";
const BEST_AT_GOOD: &str = "best-at-good";

/// Which checkpoints stay besides those that are pointed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many (at least one).
    pub last: usize,
    /// And every one whose step is a multiple of this; 0 for none.
    pub every: u64,
}

/// A folder with the checkpoints of one stage: `vae-000001500.safetensors` and so on, and the pointers `vae.last`, `vae.best`,
/// `vae.good` (where a run that diverges goes back to) and `vae.best-at-good` (what was the best there), small files that hold a
/// checkpoint's name, so that copying the folder keeps them right.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    stage: String,
    retention: Retention,
}

impl Store {
    /// Opens the folder, makes it if there is none, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// A folder that cannot be made or read.
    pub fn open(folder: &Path, stage: &str, retention: Retention) -> Result<Self, CheckpointError> {
        fs::create_dir_all(folder).map_err(CheckpointError::io(folder))?;
        remove_unfinished(folder, "").map_err(CheckpointError::io(folder))?;
        Ok(Self::view(folder, stage, retention))
    }

    /// Looks at a folder without touching it: for readers beside a running trainer.
    pub fn view(folder: &Path, stage: &str, retention: Retention) -> Self {
        Self {
            folder: folder.into(),
            stage: stage.into(),
            retention,
        }
    }

    /// Where the checkpoint of that step lies, or would lie.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder
            .join(format!("{}-{step:09}.safetensors", self.stage))
    }

    /// Steps of all checkpoints that are there, ascending.
    ///
    /// # Errors
    /// A folder that cannot be read; one that is not there has no checkpoints.
    pub fn steps(&self) -> Result<BTreeSet<u64>, CheckpointError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeSet::new());
            }
            Err(error) => return Err(CheckpointError::io(&self.folder)(error)),
        };
        let mut steps = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(CheckpointError::io(&self.folder))?;
            steps.extend(self.step_of(&entry.file_name().to_string_lossy()));
        }
        Ok(steps)
    }

    fn step_of(&self, name: &str) -> Option<u64> {
        let digits = name
            .strip_prefix(&self.stage)?
            .strip_prefix('-')?
            .strip_suffix(".safetensors")?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// Saves a checkpoint, points `last` at it, and removes those that need not be kept. The previous `last` stays
    /// usable until the new one is durable.
    ///
    /// # Errors
    /// As [`write()`]; a header of another stage.
    pub fn save(
        &self,
        header: &Header,
        tensors: &[NamedTensor<'_>],
    ) -> Result<PathBuf, CheckpointError> {
        if header.stage != self.stage {
            return Err(CheckpointError::Unsaveable(format!(
                "the header is of stage `{}` and the folder of `{}`",
                header.stage, self.stage
            )));
        }
        let path = self.path(header.step);
        write(&path, header, tensors)?;
        self.point(LAST, header.step)?;
        self.prune()?;
        Ok(path)
    }

    /// Points `best` at the checkpoint of that step, which from then on is kept.
    ///
    /// # Errors
    /// No such checkpoint; a folder that cannot be written.
    pub fn mark_best(&self, step: u64) -> Result<(), CheckpointError> {
        self.point(BEST, step)?;
        if self.pointed(GOOD)? == Some(step) {
            self.point(BEST_AT_GOOD, step)?;
        }
        self.prune()
    }

    /// Keeps the checkpoint of that step, to which a run would go back, in place of the one before; with it the one that is the best
    /// now, which would be the best again.
    ///
    /// # Errors
    /// No such checkpoint; a folder that cannot be written.
    pub fn mark_good(&self, step: u64) -> Result<(), CheckpointError> {
        self.point(GOOD, step)?;
        match self.pointed(BEST)? {
            Some(best) => self.point(BEST_AT_GOOD, best)?,
            None => self.unpoint(BEST_AT_GOOD)?,
        }
        self.prune()
    }

    /// The newest checkpoint, if there is any.
    ///
    /// # Errors
    /// A pointer that is damaged or points at nothing.
    pub fn last(&self) -> Result<Option<PathBuf>, CheckpointError> {
        match self.pointed(LAST)? {
            Some(step) => Ok(Some(self.path(step))),
            // Killed between the very first checkpoint and its pointer.
            None => Ok(self.steps()?.last().map(|&step| self.path(step))),
        }
    }

    /// The checkpoint with the best validation, if one was marked.
    ///
    /// # Errors
    /// As [`Store::last`].
    pub fn best(&self) -> Result<Option<PathBuf>, CheckpointError> {
        Ok(self.pointed(BEST)?.map(|step| self.path(step)))
    }

    /// Goes back to the checkpoint of that step: points `last` at it, removes all later ones, and marks as the best what was the best
    /// there.
    ///
    /// # Errors
    /// No such checkpoint; a folder that cannot be written.
    pub fn roll_back(&self, step: u64) -> Result<(), CheckpointError> {
        self.point(LAST, step)?;
        if self.pointed(BEST)?.is_some_and(|at| at > step) {
            match self.pointed(BEST_AT_GOOD)?.filter(|at| *at <= step) {
                Some(before) => self.point(BEST, before)?,
                None => self.unpoint(BEST)?,
            }
        }
        for which in [GOOD, BEST_AT_GOOD] {
            if self.pointed(which)?.is_some_and(|at| at > step) {
                self.unpoint(which)?;
            }
        }
        for later in self.steps()?.into_iter().filter(|&later| later > step) {
            self.remove(&self.path(later))?;
        }
        sync_folder(&self.path(step)).map_err(CheckpointError::io(&self.folder))
    }

    /// Goes back to the start, where none is the best. The checkpoints themselves stay until their steps come again: of a run that
    /// dies now they are what is left.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn start_over(&self) -> Result<(), CheckpointError> {
        [BEST, BEST_AT_GOOD]
            .iter()
            .try_for_each(|p| self.unpoint(p))
    }

    fn unpoint(&self, which: &str) -> Result<(), CheckpointError> {
        let pointer = self.pointer(which);
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CheckpointError::io(pointer)(error))
            }
            _ => Ok(()),
        }
    }

    fn pointer(&self, which: &str) -> PathBuf {
        self.folder.join(format!("{}.{which}", self.stage))
    }

    fn point(&self, which: &str, step: u64) -> Result<(), CheckpointError> {
        let path = self.path(step);
        if !path.is_file() {
            return Err(CheckpointError::Unsaveable(format!(
                "there is no checkpoint {}",
                path.display()
            )));
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
            + "\n";
        let pointer = self.pointer(which);
        replace_file(&pointer, name.as_bytes()).map_err(CheckpointError::io(pointer))
    }

    fn pointed(&self, which: &str) -> Result<Option<u64>, CheckpointError> {
        let pointer = self.pointer(which);
        let name = match fs::read_to_string(&pointer) {
            Ok(name) => name,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CheckpointError::io(pointer)(error)),
        };
        match self.step_of(name.trim()) {
            Some(step) if self.path(step).is_file() => Ok(Some(step)),
            _ => Err(CheckpointError::Corrupt {
                path: pointer,
                detail: format!(
                    "it names `{}`, which is not there; name a checkpoint file yourself",
                    name.trim()
                ),
            }),
        }
    }

    fn prune(&self) -> Result<(), CheckpointError> {
        let steps = self.steps()?;
        let newest: BTreeSet<u64> = steps
            .iter()
            .rev()
            .take(self.retention.last.max(1))
            .copied()
            .collect();
        let pointed = [LAST, BEST, GOOD, BEST_AT_GOOD].map(|which| self.pointed(which));
        let pointed: Vec<Option<u64>> = pointed.into_iter().collect::<Result<_, _>>()?;
        for &step in &steps {
            let multiple = self.retention.every > 0 && step.is_multiple_of(self.retention.every);
            if !newest.contains(&step) && !multiple && !pointed.contains(&Some(step)) {
                self.remove(&self.path(step))?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), CheckpointError> {
        fs::remove_file(path).map_err(CheckpointError::io(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use std::collections::BTreeMap;

    fn header(step: u64) -> Header {
        Header {
            stage: "vae".into(),
            step,
            epoch: 0,
            seed: 1,
            config: String::new(),
            ints: BTreeMap::new(),
            floats: BTreeMap::new(),
        }
    }

    fn save(store: &Store, step: u64) {
        let data = [step as f32];
        store
            .save(
                &header(step),
                &[NamedTensor {
                    name: "w",
                    shape: &[1],
                    data: &data,
                }],
            )
            .unwrap();
    }

    fn kept(store: &Store) -> Vec<u64> {
        store.steps().unwrap().into_iter().collect()
    }

    #[test]
    fn the_last_ones_every_kth_and_the_best_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "vae", Retention { last: 2, every: 40 }).unwrap();
        assert_eq!(store.last().unwrap(), None);
        for step in (10..=100).step_by(10) {
            save(&store, step);
            if step == 30 {
                store.mark_best(step).unwrap();
            }
        }
        assert_eq!(kept(&store), [30, 40, 80, 90, 100]);
        assert_eq!(store.last().unwrap(), Some(store.path(100)));
        assert_eq!(store.best().unwrap(), Some(store.path(30)));
        store.mark_best(90).unwrap();
        assert_eq!(kept(&store), [40, 80, 90, 100]);
    }

    #[test]
    fn rolling_back_removes_what_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "vae", Retention { last: 9, every: 0 }).unwrap();
        for step in [1, 2, 3] {
            save(&store, step);
        }
        store.mark_best(3).unwrap();
        store.roll_back(2).unwrap();
        assert_eq!((kept(&store), store.best().unwrap()), (vec![1, 2], None));
        assert_eq!(store.last().unwrap(), Some(store.path(2)));
        assert!(store.roll_back(7).is_err());
    }

    #[test]
    fn what_was_the_best_at_the_good_one_is_kept_and_is_the_best_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "vae", Retention { last: 1, every: 0 }).unwrap();
        for step in 1..=9 {
            save(&store, step);
            match step {
                2 | 5 | 8 => store.mark_best(step).unwrap(),
                4 | 6 => store.mark_good(step).unwrap(),
                _ => (),
            }
        }
        // The best at step 6 was 5; since then 8 is.
        assert_eq!(kept(&store), [5, 6, 8, 9]);
        store.roll_back(6).unwrap();
        assert_eq!(kept(&store), [5, 6]);
        assert_eq!(store.best().unwrap(), Some(store.path(5)));
        // A good one that is the best itself, however it came to be both.
        save(&store, 7);
        store.mark_good(7).unwrap();
        store.mark_best(7).unwrap();
        for step in [8, 9] {
            save(&store, step);
            store.mark_best(step).unwrap();
        }
        store.roll_back(7).unwrap();
        assert_eq!(
            (kept(&store), store.best().unwrap()),
            (vec![7], Some(store.path(7)))
        );
        store.start_over().unwrap();
        assert_eq!((kept(&store), store.best().unwrap()), (vec![7], None));
    }

    #[test]
    fn leftovers_go_and_strangers_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "vae", Retention { last: 2, every: 0 }).unwrap();
        save(&store, 5);
        for name in [
            ".unfinished-vae-000000006.safetensors",
            "ebm-000000009.safetensors",
            "vae-notes.safetensors",
        ] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let store = Store::open(folder.path(), "vae", Retention { last: 2, every: 0 }).unwrap();
        assert!(
            !folder
                .path()
                .join(".unfinished-vae-000000006.safetensors")
                .exists()
        );
        assert_eq!(kept(&store), [5]);
        for step in 6..9 {
            save(&store, step);
        }
        assert!(folder.path().join("ebm-000000009.safetensors").exists());
        assert!(folder.path().join("vae-notes.safetensors").exists());
        let last = Checkpoint::open(&store.last().unwrap().unwrap()).unwrap();
        assert_eq!(last.header().step, 8);
    }

    #[test]
    fn a_pointer_to_nothing_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "vae", Retention { last: 2, every: 0 }).unwrap();
        save(&store, 5);
        for text in ["vae-000000099.safetensors\n", "../../etc/passwd", ""] {
            fs::write(folder.path().join("vae.last"), text).unwrap();
            assert!(
                store.last().unwrap_err().to_string().contains("vae.last"),
                "{text}"
            );
        }
        // Killed before the first pointer was written: the newest file counts.
        fs::remove_file(folder.path().join("vae.last")).unwrap();
        assert_eq!(store.last().unwrap(), Some(store.path(5)));
    }
}
