//! The run folder: `config.toml`, `machine.json`, `metrics.jsonl`, `samples/`, `checkpoints/`.

use super::machine;
use super::metrics::MetricsWriter;
use crate::checkpoint::{
    CheckpointError, Retention, Store, remove_unfinished, replace_file, way_out,
};
use crate::config::{Config, ConfigError, Stage};
use crate::device::Device;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What is wrong with a run folder.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file system refused.
    #[error("run folder: {}: {source}{}", path.display(), way_out(source))]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes into it.
    #[error(
        "{} is in use by another vaebm process{}; wait for it, or name another folder with --out",
        path.display(),
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Which, as far as it has said.
        pid: Option<u32>,
    },
    /// A fresh start where a run is.
    #[error(
        "{} already holds a run with stage `{stage}` at step {step}: go on with --resume, or name another folder with \
         --out",
        path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The stage asked for.
        stage: &'static str,
        /// Its last checkpoint.
        step: u64,
    },
    /// Nothing there to resume.
    #[error("{} holds no checkpoint of stage `{stage}` to resume from; leave --resume out to start", path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
        /// The stage asked for.
        stage: &'static str,
    },
    /// No checkpoint is marked as the best.
    #[error(
        "{} has no best checkpoint of stage `{stage}`: none was scored there (train_ebm.score_every); take --checkpoint last, or name a \
         checkpoint file",
        path.display()
    )]
    NoBest {
        /// The folder.
        path: PathBuf,
        /// The stage asked for.
        stage: &'static str,
    },
    /// A checkpoint problem.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A configuration problem.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl RunError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// The replay buffer's ring file, beside the checkpoints.
pub const BUFFER_FILE: &str = "buffer.ring";

/// How a stage begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From nothing; a run of that stage must not be there.
    Fresh,
    /// From the last checkpoint, which must be there.
    Resume,
}

/// Which of a run's checkpoints a reader takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The best, if one is marked, else the last.
    #[default]
    Usual,
    /// The one that is marked as the best.
    Best,
    /// The newest.
    Last,
    /// This file.
    File(PathBuf),
}

impl From<&str> for Which {
    /// `best`, `last`, or else the path of a file.
    fn from(text: &str) -> Self {
        match text {
            "best" => Self::Best,
            "last" => Self::Last,
            path => Self::File(path.into()),
        }
    }
}

/// An open run folder. While it is open no other process can open it for writing.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    stage: Stage,
    store: Store,
    /// Held for its lock, which ends with the process, however that ends.
    _lock: File,
}

impl RunFolder {
    /// Opens or makes the folder `config.run.out` for a stage; a fresh start writes the resolved configuration into it.
    ///
    /// # Errors
    /// A folder in use, occupied, or with nothing to resume; whatever the file system reports.
    pub fn open(config: &Config, stage: Stage, start: Start) -> Result<Self, RunError> {
        let root = config.run.out.clone();
        for folder in [
            root.clone(),
            root.join("samples"),
            Self::checkpoints_of(&root),
        ] {
            fs::create_dir_all(&folder).map_err(RunError::io(&folder))?;
        }
        let lock_path = root.join(".lock");
        let lock = match take_lock(&lock_path).map_err(RunError::io(&lock_path))? {
            Ok(lock) => lock,
            Err(pid) => return Err(RunError::InUse { path: root, pid }),
        };
        // The folder is ours now: what a killed process left in it is nobody's.
        remove_unfinished(&root, "").map_err(RunError::io(&root))?;
        // Of the pictures only this stage's own: somebody may be drawing samples into that folder.
        let samples = root.join("samples");
        remove_unfinished(&samples, stage.name()).map_err(RunError::io(&samples))?;
        let retention = Retention {
            last: config.run.keep_last,
            every: config.run.keep_every,
        };
        let store = Store::open(&Self::checkpoints_of(&root), stage.name(), retention)?;
        match (start, store.steps()?.last()) {
            (Start::Fresh, Some(&step)) => {
                return Err(RunError::Occupied {
                    path: root,
                    stage: stage.name(),
                    step,
                });
            }
            (Start::Resume, None) => {
                return Err(RunError::NothingToResume {
                    path: root,
                    stage: stage.name(),
                });
            }
            _ => {}
        }
        let folder = Self {
            root,
            stage,
            store,
            _lock: lock,
        };
        if start == Start::Fresh {
            folder.keep(config)?;
        }
        Ok(folder)
    }

    /// Writes the resolved configuration. A resumed run does so only when its checkpoint has turned out to fit: a wrong flag must not
    /// change what the folder was started with.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn keep(&self, config: &Config) -> Result<(), RunError> {
        let path = Self::config_of(&self.root);
        replace_file(&path, config.to_toml()?.as_bytes()).map_err(RunError::io(&path))
    }

    /// Notes what the stage runs on: `machine.json`.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn note_machine(&self, device: &dyn Device) -> Result<(), RunError> {
        machine::note(&self.root, self.stage, device)
            .map_err(RunError::io(self.root.join(machine::MACHINE_FILE)))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checkpoints of this stage.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where the sample grid of a step goes: `samples/vae-000001500.png`.
    pub fn sample_path(&self, step: u64) -> PathBuf {
        self.root
            .join("samples")
            .join(format!("{}-{step:09}.png", self.stage.name()))
    }

    /// The ring file of the replay buffer.
    pub fn buffer_path(&self) -> PathBuf {
        Self::checkpoints_of(&self.root).join(BUFFER_FILE)
    }

    /// The metrics, going on after `from_step`; of the steps, every `every`-th is written.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn metrics(&self, from_step: u64, every: u64) -> Result<MetricsWriter, RunError> {
        let path = self.root.join("metrics.jsonl");
        MetricsWriter::open(&path, self.stage.name(), from_step, every).map_err(RunError::io(&path))
    }

    /// Where a run folder keeps its configuration.
    pub fn config_of(root: &Path) -> PathBuf {
        root.join("config.toml")
    }

    /// Where a run folder keeps its checkpoints.
    pub fn checkpoints_of(root: &Path) -> PathBuf {
        root.join("checkpoints")
    }

    /// The checkpoint of a stage that a reader should take: the best by validation, else the last. `at` is a run folder
    /// or a checkpoint file itself.
    ///
    /// # Errors
    /// No checkpoint of that stage there, damaged pointers.
    pub fn checkpoint_at(at: &Path, stage: Stage) -> Result<PathBuf, RunError> {
        if at.is_file() {
            return Ok(at.into());
        }
        let store = Self::view(at, stage);
        let found = match store.best()? {
            Some(best) => Some(best),
            None => store.last()?,
        };
        found.ok_or_else(|| Self::no_checkpoint(at, stage))
    }

    /// The checkpoint of a stage that was asked for. `at` is a run folder or a checkpoint file itself, which a choice overrides.
    ///
    /// # Errors
    /// As [`RunFolder::checkpoint_at`], and none that is marked as the best.
    pub fn find(at: &Path, stage: Stage, which: &Which) -> Result<PathBuf, RunError> {
        match which {
            Which::Usual => Self::checkpoint_at(at, stage),
            Which::Last => Self::last_checkpoint_at(at, stage),
            Which::File(path) => Ok(path.clone()),
            Which::Best => {
                // The better message for a folder without any.
                Self::last_checkpoint_at(at, stage)?;
                let best = Self::view(at, stage).best()?;
                best.ok_or_else(|| RunError::NoBest {
                    path: at.into(),
                    stage: stage.name(),
                })
            }
        }
    }

    /// The newest checkpoint of a stage, from which it goes on.
    ///
    /// # Errors
    /// As [`RunFolder::checkpoint_at`].
    pub fn last_checkpoint_at(at: &Path, stage: Stage) -> Result<PathBuf, RunError> {
        Self::view(at, stage)
            .last()?
            .ok_or_else(|| Self::no_checkpoint(at, stage))
    }

    fn view(root: &Path, stage: Stage) -> Store {
        // Retention matters to a writer alone.
        let retention = Retention { last: 1, every: 0 };
        Store::view(&Self::checkpoints_of(root), stage.name(), retention)
    }

    fn no_checkpoint(at: &Path, stage: Stage) -> RunError {
        let missing = format!("no checkpoint of stage `{}` here", stage.name());
        RunError::io(at)(io::Error::new(io::ErrorKind::NotFound, missing))
    }
}

/// Takes a lock file and writes this process's number into it; if another process has it, that one's number. The lock is the system's,
/// which takes it back from a process however that ends: a number that a dead process left holds nobody up.
fn take_lock(path: &Path) -> io::Result<Result<File, Option<u32>>> {
    let mut lock = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Where a locked file cannot be read, the number stays unknown.
            let _ = lock.read_to_string(&mut text);
            return Ok(Err(text.trim().parse().ok()));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(Ok(lock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Header, NamedTensor};

    fn config(root: &Path) -> Config {
        let mut config = Config::preset("toy").unwrap();
        config.run.out = root.join("run");
        config
    }

    fn save(folder: &RunFolder, step: u64) {
        let header = Header {
            stage: "vae".into(),
            step,
            epoch: 0,
            seed: 1,
            config: String::new(),
            ints: [].into(),
            floats: [].into(),
        };
        let data = [1.0];
        folder
            .store()
            .save(
                &header,
                &[NamedTensor {
                    name: "w",
                    shape: &[1],
                    data: &data,
                }],
            )
            .unwrap();
    }

    #[test]
    fn a_run_starts_once_and_resumes_when_there_is_something() {
        let temporary = tempfile::tempdir().unwrap();
        let config = config(temporary.path());
        let told = RunFolder::open(&config, Stage::Vae, Start::Resume)
            .unwrap_err()
            .to_string();
        assert!(told.contains("leave --resume out"), "{told}");
        let folder = RunFolder::open(&config, Stage::Vae, Start::Fresh).unwrap();
        let told = RunFolder::open(&config, Stage::Ebm, Start::Fresh)
            .unwrap_err()
            .to_string();
        let own = format!(
            "in use by another vaebm process (pid {})",
            std::process::id()
        );
        assert!(told.contains(&own), "{told}");
        assert!(RunFolder::checkpoint_at(folder.root(), Stage::Vae).is_err());
        save(&folder, 5);
        save(&folder, 6);
        drop(folder);
        // What a process left that is no more: no process has so high a number.
        fs::write(config.run.out.join(".lock"), "4194305\n").unwrap();
        let leftover = config.run.out.join(".unfinished-config.toml");
        fs::write(&leftover, "x").unwrap();
        let told = RunFolder::open(&config, Stage::Vae, Start::Fresh)
            .unwrap_err()
            .to_string();
        assert!(told.contains("at step 6: go on with --resume"), "{told}");
        let folder = RunFolder::open(&config, Stage::Vae, Start::Resume).unwrap();
        assert!(!leftover.exists());
        folder.store().mark_best(5).unwrap();
        assert_eq!(
            RunFolder::last_checkpoint_at(folder.root(), Stage::Vae).unwrap(),
            folder.store().path(6)
        );
        assert_eq!(
            RunFolder::checkpoint_at(folder.root(), Stage::Vae).unwrap(),
            folder.store().path(5)
        );
        for (which, step) in [("best", 5), ("last", 6)] {
            let found = RunFolder::find(folder.root(), Stage::Vae, &which.into()).unwrap();
            assert_eq!(found, folder.store().path(step));
        }
        let told = RunFolder::find(folder.root(), Stage::Ebm, &Which::Best).unwrap_err();
        assert!(
            told.to_string().contains("no checkpoint of stage `ebm`"),
            "{told}"
        );
        assert_eq!(
            Config::load(&RunFolder::config_of(folder.root())).unwrap(),
            config
        );
        drop(folder);
        RunFolder::open(&config, Stage::Ebm, Start::Fresh).unwrap();
    }
}
