//! Runs a target: its seeds and corpus first, then edits of them for a while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::memory;
use super::mutate::{Numbers, mutate};

/// One reader.
pub struct Target {
    /// Names its corpus folder.
    pub name: &'static str,
    /// Valid inputs: the reader must accept them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Whether edits are of tokens as well as of bytes.
    pub text: bool,
    /// Bytes that the reader may hold at once for an input of this length.
    pub allowed: fn(usize) -> usize,
    /// Reads an input, with a folder of its own for files. Tells whether it was accepted, or what is wrong with the reader: an error
    /// that does not name its file, a value that does not agree with itself.
    pub read: fn(&Path, &[u8]) -> Result<bool, String>,
}

/// A round that takes longer hangs. Generous: the machine may be busy.
const ROUND_LIMIT: Duration = Duration::from_secs(20);

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => {
            (text.parse()).unwrap_or_else(|_| panic!("{name}={text}: a whole number is expected"))
        }
        Err(_) => otherwise,
    }
}

/// The committed inputs of a target, by name.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries
            .map(|entry| entry.expect("a corpus").path())
            .collect(),
        // Not every reader has had a finding.
        Err(_) => Vec::new(),
    };
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (
            name.into_owned(),
            std::fs::read(path).expect("a corpus file"),
        )
    };
    files.iter().map(read).collect()
}

/// A folder in memory, where there is one: on a disk a round takes a hundred times as long.
fn scratch(name: &str) -> tempfile::TempDir {
    let prefix = format!("vaebm-fuzz-{name}-");
    let mut make = tempfile::Builder::new();
    let make = make.prefix(&prefix);
    make.tempdir_in("/dev/shm")
        .or_else(|_| make.tempdir_in(env!("CARGO_TARGET_TMPDIR")))
        .expect("a scratch folder")
}

/// Ends the process if a round hangs: nothing else could end the round.
struct Watch {
    /// Milliseconds from the start to the round's begin.
    began: AtomicU64,
    done: AtomicBool,
    input: Mutex<Vec<u8>>,
}

impl Watch {
    fn start(name: &'static str, start: Instant) -> Arc<Watch> {
        let watch = Arc::new(Watch {
            began: AtomicU64::new(0),
            done: AtomicBool::new(false),
            input: Mutex::new(Vec::new()),
        });
        let watched = Arc::clone(&watch);
        std::thread::spawn(move || {
            while !watched.done.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let spent = (start.elapsed().as_millis() as u64)
                    .saturating_sub(watched.began.load(Relaxed));
                if u128::from(spent) > ROUND_LIMIT.as_millis() && !watched.done.load(Relaxed) {
                    let input = watched.input.lock().unwrap_or_else(PoisonError::into_inner);
                    eprintln!("{}", kept(name, &input, "it hangs"));
                    std::process::exit(101);
                }
            }
        });
        watch
    }
}

/// Keeps an input that a reader failed on, and says where.
fn kept(name: &str, input: &[u8], finding: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}.failure"));
    match std::fs::write(&path, input) {
        Ok(()) => format!(
            "{name}: {finding}. The input is {}: make it small, copy it to tests/fuzz/corpus/{name}/ and correct the reader",
            path.display()
        ),
        Err(error) => format!("{name}: {finding} (and {}: {error})", path.display()),
    }
}

/// Reads one input; panics with a finding.
fn round(target: &Target, folder: &Path, input: &[u8]) -> (bool, usize) {
    // An allocation that fails ends the process: then this file holds what it failed on.
    std::fs::write(folder.join("input"), input).expect("a file of the scratch folder");
    memory::reset();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.read)(folder, input)));
    let most = memory::most();
    let finding = match outcome {
        Err(_) => "it panics".to_owned(),
        Ok(Err(finding)) => finding,
        Ok(Ok(_)) if most > (target.allowed)(input.len()) => {
            format!("it takes {most} bytes for an input of {}", input.len())
        }
        Ok(Ok(accepted)) => return (accepted, most),
    };
    panic!("{}", kept(target.name, input, &finding));
}

/// Replays seeds and corpus, then reads edited inputs for `VAEBM_FUZZ_SECONDS` (2 by default) from `VAEBM_FUZZ_SEED` on.
pub fn fuzz(target: &Target) {
    let seconds = from_environment("VAEBM_FUZZ_SECONDS", 2);
    let mut numbers = Numbers(from_environment("VAEBM_FUZZ_SEED", 0));
    let scratch = scratch(target.name);
    let folder = scratch.path();
    let start = Instant::now();
    let watch = Watch::start(target.name, start);
    let (mut rounds, mut accepted, mut most, mut slowest) = (0u64, 0u64, 0usize, Duration::ZERO);
    let mut read = |input: &[u8]| {
        let began = Instant::now();
        watch
            .began
            .store(start.elapsed().as_millis() as u64, Relaxed);
        *watch.input.lock().unwrap_or_else(PoisonError::into_inner) = input.to_vec();
        let (ok, bytes) = round(target, folder, input);
        (rounds, accepted) = (rounds + 1, accepted + u64::from(ok));
        (most, slowest) = (most.max(bytes), slowest.max(began.elapsed()));
        ok
    };
    let mut inputs = (target.seeds)();
    for (i, seed) in inputs.iter().enumerate() {
        assert!(read(seed), "{}: seed {i} is refused", target.name);
    }
    for (_, input) in corpus(target.name) {
        read(&input);
        inputs.push(input);
    }
    while start.elapsed() < Duration::from_secs(seconds) {
        let (one, other) = (numbers.below(inputs.len()), numbers.below(inputs.len()));
        let input = mutate(&inputs[one], &inputs[other], target.text, &mut numbers);
        read(&input);
    }
    watch.done.store(true, Relaxed);
    println!(
        "{}: {rounds} rounds in {:.0} s, {accepted} accepted, {} KiB at most, slowest {} ms",
        target.name,
        start.elapsed().as_secs_f64(),
        most >> 10,
        slowest.as_millis()
    );
}
