//! What a run meets in the world: a full disk, a folder that cannot be written, data that have gone, another process, a checkpoint of
//! another model. Each is one clear error, and nothing that was saved is lost: afterwards the run goes on and ends as one that met
//! nothing.

#![cfg(target_os = "linux")]

mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::{TempDir, tempdir};
use vaebm::config::{Config, DataSet, Stage};
use vaebm::run::{RunFolder, Start};

/// A run of so many steps of stage 1 that saves after every second one, with `name.toml`.
fn config(folder: &Path, name: &str, steps: u64) -> Config {
    let mut config = tiny::config(&folder.join(name));
    config.train_vae.steps = Some(steps);
    (config.train_vae.save_every, config.train_vae.eval_every) = (2, 3);
    tiny::write_config(&folder.join(format!("{name}.toml")), &config);
    config
}

/// Asserts that the binary refuses with one error that says all this, and without a panic.
fn refused(folder: &Path, args: &[&str], names: &[&str]) {
    let output = tiny::output(folder, args);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
    assert!(!told.contains("panicked"), "{told}");
    assert_eq!(
        told.lines().filter(|l| l.starts_with("error: ")).count(),
        1,
        "{told}"
    );
    for name in names {
        assert!(told.contains(name), "{args:?}: no `{name}` in: {told}");
    }
}

/// The files of a run that tell what was trained: all but the lock.
fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with(".lock") => {}
                false => {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
    }
    found
}

/// A file system in memory, of so many bytes, which goes when this is dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    /// `None`, said aloud, where this process may not mount.
    fn of(bytes: u64) -> Option<Tmpfs> {
        let folder = tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "vaebm-test"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Tmpfs(folder));
        }
        println!(
            "SKIPPED: this process may not mount a tmpfs, so the disk that it needs cannot be made"
        );
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, option: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(self.path())
            .status();
        assert!(status.unwrap().success(), "remount,{option}");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_disk_that_is_full_when_it_saves_costs_nothing_that_was_saved() {
    let Some(disk) = Tmpfs::of(64 << 20) else {
        return;
    };
    let folder = tempdir().unwrap();
    let whole = config(folder.path(), "whole", 8);
    tiny::train(&whole, Stage::Vae, Start::Fresh, None);
    let at = disk.path();
    let run = config(at, "run", 8);
    tiny::train_until(&run, Stage::Vae, Start::Fresh, None, 5);
    let last = RunFolder::last_checkpoint_at(&run.run.out, Stage::Vae).unwrap();
    let room = fs::metadata(&last).unwrap().len() / 2;

    // Half a checkpoint fits, and the lines of metrics.
    let path = at.join("filler");
    let mut filler = fs::File::create(&path).unwrap();
    let block = [0u8; 1 << 14];
    while filler.write_all(&block).is_ok() {}
    let full = filler.metadata().unwrap().len();
    filler.set_len(full - room).unwrap();
    let before = files(&run.run.out);
    let resume = ["train", "vae", "--resume", "run"];
    refused(
        at,
        &resume,
        &["run/", "No space left", "make room", "--resume"],
    );
    let after = files(&run.run.out);
    for (path, bytes) in &before {
        let checkpoint = path.extension().is_some_and(|e| e == "safetensors");
        assert!(
            !checkpoint || after.get(path) == Some(bytes),
            "{}",
            path.display()
        );
    }
    let unfinished = |p: &&PathBuf| p.to_string_lossy().contains(".unfinished-");
    assert_eq!(after.keys().find(unfinished), None);

    // Room again: it goes on, and ends as a run that met nothing.
    drop(filler);
    fs::remove_file(&path).unwrap();
    tiny::succeed(at, &resume);
    tiny::assert_same(&whole, &run, Stage::Vae);
}

#[test]
fn a_folder_that_cannot_be_written_is_named_and_left_as_it_was() {
    let Some(disk) = Tmpfs::of(64 << 20) else {
        return;
    };
    let at = disk.path();
    let run = config(at, "run", 3);
    tiny::succeed(at, &["train", "vae", "--config", "run.toml"]);
    disk.remount("ro");
    let before = files(&run.run.out);
    let names = ["run", "Read-only", "--out"];
    refused(
        at,
        &["train", "vae", "--resume", "run", "--steps", "5"],
        &names,
    );
    refused(
        at,
        &["train", "vae", "--config", "run.toml", "--out", "other"],
        &["other", "Read-only"],
    );
    refused(
        at,
        &["sample", "run", "--n", "2"],
        &["samples", "Read-only"],
    );
    // It can be read all the same.
    let out = tempdir().unwrap();
    let drawn = out.path().display().to_string();
    tiny::succeed(at, &["sample", "run", "--n", "2", "--out", &drawn]);
    let page = out.path().join("report.html").display().to_string();
    tiny::succeed(at, &["report", "run", "--out", &page]);
    assert!(files(&run.run.out) == before);
    disk.remount("rw");
    tiny::succeed(at, &["train", "vae", "--resume", "run", "--steps", "5"]);
}

#[test]
fn data_that_have_gone_since_the_start_are_named_and_may_lie_elsewhere() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    config(at, "source", 1);
    tiny::succeed(at, &["train", "vae", "--config", "source.toml"]);
    let export = [
        "sample",
        "source",
        "--n",
        "40",
        "--png-dir",
        "pictures",
        "--out",
        "look",
    ];
    tiny::succeed(at, &export);
    let pictures = |name: &str| {
        let mut config = config(at, name, 3);
        (config.data.dataset, config.data.path) = (DataSet::Images, Some("pictures".into()));
        tiny::write_config(&at.join(format!("{name}.toml")), &config);
        config
    };
    let (run, whole) = (pictures("run"), pictures("whole"));
    for name in ["run", "whole"] {
        tiny::succeed(at, &["train", "vae", "--config", &format!("{name}.toml")]);
    }
    fs::rename(at.join("pictures"), at.join("moved")).unwrap();
    let before = files(&run.run.out);
    let resume = ["train", "vae", "--resume", "run", "--steps", "6"];
    refused(at, &resume, &["pictures", "No such file", "check the path"]);
    refused(
        at,
        &["train", "ebm", "--vae", "run"],
        &["pictures", "No such file"],
    );
    assert!(files(&run.run.out) == before, "the folder is as it was");
    tiny::succeed(at, &[&resume[..], &["--data", "moved"]].concat());
    // Where the data lie does not change the run.
    fs::rename(at.join("moved"), at.join("pictures")).unwrap();
    tiny::succeed(at, &["train", "vae", "--resume", "whole", "--steps", "6"]);
    tiny::assert_same(&whole, &run, Stage::Vae);

    // One picture that is damaged when it is read.
    fs::write(at.join("pictures/00007.png"), b"no picture").unwrap();
    let resume = ["train", "vae", "--resume", "run", "--steps", "30"];
    let args = [&resume[..], &["--data", "pictures"]].concat();
    refused(at, &args, &["00007.png"]);
    let last = RunFolder::last_checkpoint_at(&run.run.out, Stage::Vae).unwrap();
    tiny::content(&last);
}

#[test]
fn a_second_process_in_a_folder_is_told_who_has_it() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let run = config(at, "run", 100_000);
    let mut first = tiny::vaebm(at, &["train", "vae", "--config", "run.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = first.id().to_string();
    let saved = || RunFolder::last_checkpoint_at(&run.run.out, Stage::Vae).is_ok();
    for _ in 0..6000 {
        if saved() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(saved(), "the first process does not come forward");
    let told = format!("(pid {pid})");
    let names = ["run is in use by another vaebm process", &told, "--out"];
    refused(at, &["train", "vae", "--resume", "run"], &names);
    refused(at, &["train", "vae", "--config", "run.toml"], &names);
    refused(
        at,
        &["train", "ebm", "--vae", "run", "--out", "run"],
        &names,
    );
    // Killed: its number stays in the lock file, and holds nobody up.
    first.kill().unwrap();
    first.wait().unwrap();
    let lock = fs::read_to_string(run.run.out.join(".lock")).unwrap();
    assert_eq!(lock.trim(), pid);
    let last = RunFolder::last_checkpoint_at(&run.run.out, Stage::Vae).unwrap();
    let step = vaebm::checkpoint::Checkpoint::open(&last)
        .unwrap()
        .header()
        .step;
    let steps = (step + 1).to_string();
    tiny::succeed(at, &["train", "vae", "--resume", "run", "--steps", &steps]);
}

#[test]
fn a_checkpoint_of_another_architecture_is_told_by_the_first_key_that_differs() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let run = config(at, "run", 2);
    tiny::succeed(at, &["train", "vae", "--config", "run.toml"]);
    tiny::succeed(at, &["train", "ebm", "--vae", "run", "--total-iter", "2"]);
    let before = files(&run.run.out);
    let vae = |set: &[&'static str], names: &[&str]| {
        refused(
            at,
            &[&["train", "vae", "--resume", "run"], set].concat(),
            names,
        );
    };
    let file = "vae-000000002.safetensors";
    vae(
        &["--num-channels-dec", "16", "--num-channels-enc", "16"],
        &[file, "vae.num_channels_enc = 8", "says 16", "--out"],
    );
    vae(
        &["--num-latent-scales", "1"],
        &[file, "vae.num_latent_scales = 2", "says 1"],
    );
    vae(
        &["--use-se=false"],
        &[file, "vae.use_se = true", "says false"],
    );
    let set = ["--set", "data.channels=1", "--set", "data.dataset=glyphs"];
    vae(&set, &[file, "data.channels = 3", "says 1"]);
    let ebm = ["train", "ebm", "--resume", "run", "--n-channel", "16"];
    refused(
        at,
        &ebm,
        &["ebm-000000002.safetensors", "ebm.n_channel = 8", "says 16"],
    );
    assert!(files(&run.run.out) == before, "the folder is as it was");
}
