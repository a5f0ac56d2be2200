//! This project's own files: checkpoints, the replay buffer's ring, metrics of a resumed run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use vaebm::checkpoint::ring::{Ring, RingSpec};
use vaebm::checkpoint::{Checkpoint, Header, NamedTensor, write};
use vaebm::config::Config;
use vaebm::run::MetricsWriter;

use super::harness::{Target, fuzz};
use super::{BASE, form, place, refused, seed};

fn header() -> Header {
    Header {
        stage: "ebm".into(),
        step: 12,
        epoch: 3,
        seed: 7,
        config: Config::preset("toy")
            .expect("a preset")
            .to_toml()
            .expect("TOML"),
        ints: BTreeMap::from([("buffer_mark".to_owned(), 5)]),
        floats: BTreeMap::from([("best".to_owned(), f64::INFINITY), ("lr".to_owned(), 1e-3)]),
    }
}

/// A checkpoint's bytes.
fn written() -> &'static [u8] {
    static WRITTEN: OnceLock<Vec<u8>> = OnceLock::new();
    WRITTEN.get_or_init(write_one)
}

fn write_one() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.safetensors");
    let data: Vec<f32> = (0..12).map(|value| value as f32).collect();
    let tensors = [
        NamedTensor {
            name: "vae.stem.weight",
            shape: &[3, 4],
            data: &data,
        },
        NamedTensor {
            name: "vae.scalar",
            shape: &[],
            data: &data[..1],
        },
        NamedTensor {
            name: "ebm.empty",
            shape: &[0, 7],
            data: &[],
        },
    ];
    write(&path, &header(), &tensors).expect("a checkpoint");
    std::fs::read(path).expect("what was written")
}

/// The JSON at the head of a safetensors file, and the values behind it.
fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    rest.split_at(u64::from_le_bytes(*length) as usize)
}

/// Forms: 0, the file; 1, its JSON, with the length before it made right and the values behind it.
fn read_checkpoint(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let path = match form(input) {
        (0, contents) => place(folder, "a.safetensors", contents),
        (_, json) => {
            let (_, values) = parts(written());
            let file = [&(json.len() as u64).to_le_bytes()[..], json, values].concat();
            place(folder, "a.safetensors", &file)
        }
    };
    let checkpoint = match Checkpoint::open(&path) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return refused(&error, folder),
    };
    let mut accepted = true;
    for name in checkpoint.names() {
        match checkpoint.tensor(name) {
            Ok((shape, values)) if shape.iter().product::<usize>() != values.len() => {
                return Err(format!(
                    "`{name}` has {} values for {shape:?}",
                    values.len()
                ));
            }
            Ok(_) => {}
            Err(error) => accepted = refused(&error, folder)?,
        }
    }
    let expected = [("vae.stem.weight", &[3usize, 4][..]), ("vae.bias", &[4])];
    match checkpoint.expect("vae.", expected) {
        Ok(()) => return Err("a tensor that is not there is not missed".into()),
        Err(error) => refused(&error, folder)?,
    };
    // A configuration that does not read is an error of its own, which names the checkpoint.
    let origin = path.display().to_string();
    let _ = Config::from_toml(&checkpoint.header().config, &origin);
    Ok(accepted)
}

#[test]
fn checkpoint_files() {
    fuzz(&Target {
        name: "checkpoint",
        seeds: || {
            let file = written();
            vec![seed(0, file), seed(1, parts(file).0)]
        },
        text: true,
        allowed: |length| BASE + 400 * length,
        read: read_checkpoint,
    });
}

fn spec() -> RingSpec {
    RingSpec::new(3, 4, 3)
}

/// Slots and journal of a ring with two marks.
fn ring() -> &'static [Vec<u8>; 2] {
    static RING: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    RING.get_or_init(fill_ring)
}

fn fill_ring() -> [Vec<u8>; 2] {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.ring");
    let mut ring = Ring::create(&path, spec()).expect("a ring");
    for record in 0..6 {
        ring.append(&[record as f32; 3]).expect("room");
        if record == 2 || record == 4 {
            ring.mark().expect("a mark");
            ring.release_before(record + 1).expect("the mark");
        }
    }
    ring.mark().expect("a mark");
    ["", ".journal"].map(|end| {
        std::fs::read(folder.path().join(format!("a.ring{end}"))).expect("what was written")
    })
}

/// Forms: even, damage to the journal; odd, to the slots.
fn read_ring(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let (form, contents) = form(input);
    let [slots, journal] = ring();
    let (slots, journal) = if form & 1 == 0 {
        (slots.as_slice(), contents)
    } else {
        (contents, journal.as_slice())
    };
    let path = place(folder, "a.ring", slots);
    place(folder, "a.ring.journal", journal);
    let mut record = [0.0; 3];
    let mut accepted = true;
    match Ring::view(&path, spec(), 6) {
        Ok(mut ring) => {
            for index in 0..ring.len() {
                if let Err(error) = ring.read(index, &mut record) {
                    accepted = refused(&error, folder)?;
                }
            }
        }
        Err(error) => accepted = refused(&error, folder)?,
    }
    match Ring::open(&path, spec(), 6) {
        // Whatever it was, it takes records until its slots are full, and can be returned to.
        Ok(mut ring) => {
            for value in 0..3 {
                if let Err(error) = ring.append(&[value as f32; 3]) {
                    return refused(&error, folder);
                }
            }
            match ring.mark().and_then(|mark| ring.release_before(mark)) {
                Ok(()) => {}
                Err(error) => return refused(&error, folder),
            }
            let last = ring.len() - 1;
            if ring.read(last, &mut record).is_err() || record != [2.0; 3] {
                return Err(format!("the last record appended reads {record:?}"));
            }
        }
        Err(error) => accepted = refused(&error, folder)?,
    }
    Ok(accepted)
}

#[test]
fn ring_files() {
    fuzz(&Target {
        name: "ring",
        seeds: || {
            let [slots, journal] = ring();
            vec![seed(0, journal), seed(1, slots)]
        },
        text: true,
        allowed: |length| BASE + 400 * length,
        read: read_ring,
    });
}

fn read_metrics(folder: &Path, input: &[u8]) -> Result<bool, String> {
    let path = place(folder, "metrics.jsonl", input);
    match MetricsWriter::open(&path, "vae", 2, 1) {
        Ok(_) => {}
        Err(error) => return Err(format!("it is refused: {error}")),
    }
    let kept = std::fs::read(&path).map_err(|error| error.to_string())?;
    // What is kept are whole lines of what was there.
    if !kept.is_empty() && !kept.ends_with(b"\n") || kept.len() > input.len() {
        return Err("it keeps what was not there, or a part of a line".into());
    }
    Ok(true)
}

#[test]
fn metrics_files() {
    fuzz(&Target {
        name: "metrics",
        seeds: || {
            let lines = "{\"kind\":\"step\",\"loss\":1.5,\"stage\":\"vae\",\"step\":2}\n{\"kind\":\"validation\",\"bpd\":\"NaN\",\"best\":true,\"stage\":\"vae\",\"step\":3}\n";
            vec![
                lines.into(),
                format!("{lines}{{\"stage\":\"ebm\",\"st").into_bytes(),
            ]
        },
        text: true,
        allowed: |length| BASE + 400 * length,
        read: read_metrics,
    });
}
