//! Kills a process that saves checkpoints, at random moments, and looks at what it left.
//!
//! This test has its own `main`: started with a folder it is the victim, which saves without end; started plainly it is
//! the judge, which kills the victim with SIGKILL again and again and checks after every kill that the last checkpoint
//! is whole, that it is no older than the last one the victim reported, and that the replay buffer goes back to
//! exactly the records that the checkpoint speaks of. The next victim goes on from there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};
use vaebm::checkpoint::ring::{Ring, RingSpec};
use vaebm::checkpoint::{Checkpoint, Header, NamedTensor, Retention, Store};

const KILLS: u32 = 25;
const TENSORS: usize = 8;
/// Large enough that writing a checkpoint takes most of a victim's life.
const VALUES: usize = 1_000_000;
const RECORD: usize = 5_000;
const CAPACITY: usize = 20;
const BATCH: u64 = 3;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() {
    let mut args = std::env::args().skip(1);
    let outcome = match (args.next().as_deref(), args.next()) {
        (Some("victim"), Some(folder)) => save_without_end(Path::new(&folder)),
        _ => judge(),
    };
    if let Err(error) = outcome {
        eprintln!("checkpoint_kill: {error}");
        exit(1);
    }
}

fn spec() -> RingSpec {
    RingSpec::new(RECORD, CAPACITY, BATCH as usize)
}

/// What a tensor holds at a step: all values alike, so that a mixture of two steps shows.
fn value(step: u64, tensor: usize) -> f32 {
    step as f32 + tensor as f32 / 16.0
}

/// Opens the state that the folder holds, checked; the step is 0 when there is none.
fn recover(folder: &Path) -> Outcome<(Store, Ring, u64)> {
    let store = Store::open(folder, "ebm", Retention { last: 2, every: 0 })?;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Whatever name it had: nothing hidden belongs here.
        if name.starts_with('.') {
            return Err(format!("{name} was not cleaned up").into());
        }
    }
    let path = folder.join("buffer.ring");
    let Some(last) = store.last()? else {
        return Ok((store, Ring::create(&path, spec())?, 0));
    };
    let checkpoint = Checkpoint::open(&last)?;
    let step = checkpoint.header().step;
    for tensor in 0..TENSORS {
        let (_, values) = checkpoint.tensor(&format!("t{tensor}"))?;
        if values.len() != VALUES || values.iter().any(|&found| found != value(step, tensor)) {
            return Err(format!("tensor {tensor} of step {step} is not what was saved").into());
        }
    }
    // The earlier checkpoint is whole as well.
    for step in store.steps()? {
        Checkpoint::open(&store.path(step))?.tensor("t0")?;
    }
    let head = checkpoint.header().ints["ring.head"];
    if head != step * BATCH {
        return Err(format!("step {step} speaks of head {head}").into());
    }
    let mut ring = Ring::open(&path, spec(), head)?;
    let oldest = head.saturating_sub(CAPACITY as u64);
    let mut record = vec![0.0; RECORD];
    for index in 0..ring.len() {
        ring.read(index, &mut record)?;
        if record
            .iter()
            .any(|&found| found != (oldest + index as u64) as f32)
        {
            return Err(format!("record {index} of step {step} is not what was appended").into());
        }
    }
    if ring.len() as u64 != head - oldest {
        return Err(format!("{} records at head {head}", ring.len()).into());
    }
    Ok((store, ring, step))
}

fn save_without_end(folder: &Path) -> Outcome<()> {
    let (store, mut ring, mut step) = recover(folder)?;
    let names: Vec<String> = (0..TENSORS).map(|tensor| format!("t{tensor}")).collect();
    loop {
        step += 1;
        for _ in 0..BATCH {
            let record = vec![ring.head() as f32; RECORD];
            ring.append(&record)?;
        }
        let head = ring.mark()?;
        let data: Vec<Vec<f32>> = (0..TENSORS)
            .map(|tensor| vec![value(step, tensor); VALUES])
            .collect();
        let shape = [VALUES];
        let tensors: Vec<NamedTensor> = names
            .iter()
            .zip(&data)
            .map(|(name, data)| NamedTensor {
                name,
                shape: &shape,
                data,
            })
            .collect();
        let header = Header {
            stage: "ebm".into(),
            step,
            epoch: 0,
            seed: 1,
            config: String::new(),
            ints: [("ring.head".into(), head)].into(),
            floats: [].into(),
        };
        store.save(&header, &tensors)?;
        println!("{step}");
        std::io::stdout().flush()?;
        ring.release_before(head)?;
    }
}

/// Whether a checkpoint lies there unfinished.
fn is_writing(folder: &Path) -> Outcome<bool> {
    let mut names = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name());
    Ok(names.any(|name| name.to_string_lossy().starts_with(".unfinished-ebm")))
}

fn judge() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let (mut before, mut unfinished) = (0, 0);
    // A fixed walk over the moments: the interesting ones are everywhere in the 100 ms or so of a save.
    let mut chance: u64 = 0x9E37_79B9_7F4A_7C15;
    for kill in 0..KILLS {
        let mut victim = Command::new(std::env::current_exe()?)
            .arg("victim")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = victim.stdout.take().ok_or("the victim has no output")?;
        let reader = std::thread::spawn(move || {
            BufReader::new(out)
                .lines()
                .map_while(Result::ok)
                .filter_map(|line| line.parse().ok())
                .max()
                .unwrap_or(0u64)
        });
        chance = chance
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let moment = Instant::now() + Duration::from_millis(30 + (chance >> 33) % 250);
        // Every other victim dies as soon as it is seen in the middle of a write, once its moment has come.
        while Instant::now() < moment || (kill % 2 == 1 && !is_writing(folder.path())?) {
            if let Some(status) = victim.try_wait()? {
                return Err(format!("the victim ended by itself: {status}").into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        victim.kill()?;
        victim.wait()?;
        let reported = reader.join().map_err(|_| "the reader panicked")?;
        unfinished += u32::from(is_writing(folder.path())?);
        let (_, _, step) =
            recover(folder.path()).map_err(|error| format!("after kill {kill}: {error}"))?;
        if step < reported.max(before) {
            return Err(format!(
                "after kill {kill}: step {step}, but {} had been saved",
                reported.max(before)
            )
            .into());
        }
        before = step;
    }
    if before == 0 || unfinished == 0 {
        return Err(format!(
            "the kills hit nothing: {before} steps, {unfinished} unfinished files"
        )
        .into());
    }
    println!(
        "checkpoint_kill: {KILLS} kills, {unfinished} in the middle of a write, {before} checkpoints; all recovered"
    );
    Ok(())
}
