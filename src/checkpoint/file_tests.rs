use super::*;
use safetensors::tensor::{TensorView, serialize_to_file};
use std::fs;

fn header() -> Header {
    Header {
        stage: "vae".into(),
        step: 1500,
        epoch: 3,
        seed: u64::MAX,
        config: "[run]\nseed = 1\n".into(),
        ints: BTreeMap::from([("ring.head".into(), u64::MAX - 1)]),
        floats: BTreeMap::from([
            ("third".into(), 1.0 / 3.0),
            ("nan".into(), f64::NAN),
            ("infinite".into(), f64::NEG_INFINITY),
            ("tiny".into(), f64::from_bits(1)),
        ]),
    }
}

const WEIGHT: [f32; 6] = [1.0, -2.5, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, -0.0];

fn saved(path: &Path) -> Vec<u8> {
    let tensors = [
        NamedTensor {
            name: "vae.weight",
            shape: &[2, 3],
            data: &WEIGHT,
        },
        NamedTensor {
            name: "vae.bias",
            shape: &[],
            data: &[0.5],
        },
        NamedTensor {
            name: "adam.none",
            shape: &[0, 4],
            data: &[],
        },
    ];
    write(path, &header(), &tensors).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn what_is_written_reads_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let bytes = saved(&path);
    let read = Checkpoint::open(&path).unwrap();
    let (expected, found) = (header(), read.header());
    assert_eq!(
        (&found.stage, found.step, found.seed, &found.ints),
        (&expected.stage, 1500, u64::MAX, &expected.ints)
    );
    for (name, value) in &expected.floats {
        let same = found.floats[name].to_bits() == value.to_bits()
            || (value.is_nan() && found.floats[name].is_nan());
        assert!(same, "{name}");
    }
    let (shape, values) = read.tensor("vae.weight").unwrap();
    assert_eq!(shape, [2, 3]);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(values), bits(&WEIGHT));
    assert_eq!(read.tensor("vae.bias").unwrap(), (&[][..], &[0.5][..]));
    assert_eq!(read.tensor("adam.none").unwrap().0, [0, 4]);
    assert_eq!(
        saved(&path),
        bytes,
        "the same contents must give the same bytes"
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing unfinished is left"
    );
    // Another reader of the format finds the same, and data that lie where a map may look at them.
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let weight = theirs.tensor("vae.weight").unwrap();
    assert_eq!(weight.data(), bytemuck::cast_slice::<f32, u8>(&WEIGHT));
    let data = weight.data().as_ptr() as usize - bytes.as_ptr() as usize;
    assert!(data.is_multiple_of(size_of::<f32>()));
    // Whoever may read other new files may read this one.
    let plain = folder.path().join("plain");
    fs::write(&plain, "x").unwrap();
    let access = |path: &Path| fs::metadata(path).unwrap().permissions();
    assert_eq!(access(&path), access(&plain));
}

#[test]
fn every_truncation_is_an_error_and_none_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let bytes = saved(&path);
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let told = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(told.contains("c.safetensors"), "{told}");
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    assert!(Checkpoint::open(&path).is_err(), "surplus bytes");
}

#[test]
fn a_changed_byte_never_goes_unseen_in_the_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let bytes = saved(&path);
    let data_start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 0x11;
        // A new file each time: the old one may still be mapped.
        fs::remove_file(&path).unwrap();
        fs::write(&path, &changed).unwrap();
        let Ok(read) = Checkpoint::open(&path) else {
            continue;
        };
        let damaged = ["vae.weight", "vae.bias", "adam.none"]
            .iter()
            .any(|name| read.tensor(name).is_err());
        // In the header's own text a change can give another valid header.
        assert!(damaged || position < data_start, "byte {position}");
    }
}

#[test]
fn a_newer_format_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let metadata = HashMap::from([(
        "vaebm".to_string(),
        "{\"format\":99,\"other\":true}".to_string(),
    )]);
    serialize_to_file(Vec::<(&str, TensorView)>::new(), Some(metadata), &path).unwrap();
    assert!(matches!(
        Checkpoint::open(&path),
        Err(CheckpointError::TooNew { found: 99, .. })
    ));
}

#[test]
fn files_of_others_and_other_types_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    serialize_to_file(Vec::<(&str, TensorView)>::new(), None, &path).unwrap();
    assert!(
        Checkpoint::open(&path)
            .unwrap_err()
            .to_string()
            .contains("not one of vaebm's")
    );
    let view = TensorView::new(Dtype::F16, vec![1], &[0, 0]).unwrap();
    let stored = Stored {
        format: 1,
        written_by: String::new(),
        header: header(),
        checksums: BTreeMap::from([("half".into(), 0)]),
    };
    let metadata = HashMap::from([("vaebm".to_string(), serde_json::to_string(&stored).unwrap())]);
    serialize_to_file([("half", view)], Some(metadata), &path).unwrap();
    assert!(
        Checkpoint::open(&path)
            .unwrap_err()
            .to_string()
            .contains("`half` has type F16")
    );
}

#[test]
fn a_model_that_does_not_fit_names_the_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    saved(&path);
    let read = Checkpoint::open(&path).unwrap();
    read.expect("vae.", [("vae.weight", &[2, 3][..]), ("vae.bias", &[][..])])
        .unwrap();
    let told = read
        .expect(
            "",
            [
                ("vae.weight", &[3, 2][..]),
                ("vae.gamma", &[1][..]),
                ("vae.bias", &[][..]),
            ],
        )
        .unwrap_err()
        .to_string();
    assert!(
        told.ends_with("missing: `vae.gamma`; surplus: `adam.none`; wrong shape: `vae.weight` is [2, 3] and should be [3, 2]"),
        "{told}"
    );
    assert!(
        read.tensor("vae.gamma")
            .unwrap_err()
            .to_string()
            .contains("`vae.gamma` is missing")
    );
}

#[test]
fn tensors_that_cannot_be_saved_leave_the_old_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let before = saved(&path);
    let twice = NamedTensor {
        name: "w",
        shape: &[1],
        data: &[1.0],
    };
    assert!(
        write(&path, &header(), &[twice, twice])
            .unwrap_err()
            .to_string()
            .contains("two tensors")
    );
    let short = NamedTensor {
        name: "w",
        shape: &[2],
        data: &[1.0],
    };
    assert!(
        write(&path, &header(), &[short])
            .unwrap_err()
            .to_string()
            .contains("`w` has 1 values")
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(write(&folder.path().join("no/such/c"), &header(), &[]).is_err());
}
