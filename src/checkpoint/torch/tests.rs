use super::storage::half_to_f32;
use super::*;
use crate::checkpoint::map::map_file;
use crate::shared::require_shared;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::path::PathBuf;

/// Checks a state dict against a safetensors file: same names, shapes and values, bit for bit.
fn assert_same(state: &Value, safetensors: &Path) {
    let map = map_file(safetensors).unwrap();
    let expected = SafeTensors::deserialize(&map).unwrap();
    let entries = state.entries().unwrap();
    assert_eq!(entries.len(), expected.len());
    for (name, tensor) in entries {
        let (name, tensor) = (name.as_str().unwrap(), tensor.as_tensor().unwrap());
        let view = expected.tensor(name).unwrap();
        assert_eq!(tensor.shape, view.shape(), "{name}");
        let bytes: Vec<u8> = match (&*tensor.data, view.dtype()) {
            (Data::F32(values), Dtype::F32) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            (Data::I64(values), Dtype::I64) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            (data, dtype) => panic!("{name}: {data:?} where {dtype:?} belongs"),
        };
        assert_eq!(bytes, view.data(), "{name}");
    }
}

#[test]
fn official_vae_checkpoints_hold_the_weights_of_the_parity_cases() {
    for (file, weights) in [
        ("parity/A/checkpoint.pt", "parity/A/vae.safetensors"),
        ("parity/B/checkpoint.pt", "parity/B/vae.safetensors"),
        ("parity/B/checkpoint_legacy.pt", "parity/B/vae.safetensors"),
    ] {
        let (Some(file), Some(weights)) = (require_shared(file), require_shared(weights)) else {
            return;
        };
        let read = read(&file).unwrap();
        assert_same(read.get("state_dict").unwrap(), &weights);
        let args = read.get("args").unwrap();
        let json = std::fs::read_to_string(file.with_file_name("args.json")).unwrap();
        let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        for (name, expected) in &json {
            let found = args
                .attribute(name)
                .unwrap_or_else(|| panic!("args.{name}"));
            let same = match expected {
                serde_json::Value::Bool(truth) => found.as_bool() == Some(*truth),
                serde_json::Value::String(text) => found.as_str() == Some(text),
                number => found.as_float() == number.as_f64(),
            };
            assert!(same, "args.{name} is {found:?}, not {expected}");
        }
        let Value::Object(object) = args else {
            panic!("{args:?}")
        };
        assert_eq!(object.class, "argparse.Namespace");
        assert!(read.get("epoch").unwrap().as_int().is_some());
        let groups = read
            .get("optimizer")
            .unwrap()
            .get("param_groups")
            .unwrap()
            .as_slice()
            .unwrap();
        let parameters = groups[0].get("params").unwrap().as_slice().unwrap().len();
        let moments = read
            .get("optimizer")
            .unwrap()
            .get("state")
            .unwrap()
            .entries()
            .unwrap();
        assert_eq!(moments.len(), parameters);
        assert!(moments[0].1.get("exp_avg").unwrap().as_tensor().is_some());
    }
}

#[test]
fn official_energy_checkpoints_hold_the_weights_of_the_parity_cases() {
    for case in ["A", "B"] {
        for file in ["EBM_0.pth", "EBM_0_legacy.pth"] {
            let Some(folder) = require_shared(&format!("parity/{case}")) else {
                return;
            };
            assert_same(
                read(&folder.join(file)).unwrap().get("model").unwrap(),
                &folder.join("ebm.safetensors"),
            );
        }
    }
}

/// A stored zip of the given members, as PyTorch lays it out.
fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in members {
        let offset = out.len() as u32;
        let sizes = [
            [0; 4],
            (data.len() as u32).to_le_bytes(),
            (data.len() as u32).to_le_bytes(),
        ]
        .concat();
        let name_length = (name.len() as u16).to_le_bytes();
        out.extend(
            [
                &b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0"[..],
                &sizes,
                &name_length,
                &[0, 0],
                name.as_bytes(),
                data,
            ]
            .concat(),
        );
        directory.extend(
            [
                &b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0"[..],
                &sizes,
                &name_length,
                &[0; 12],
            ]
            .concat(),
        );
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = (out.len() as u32).to_le_bytes();
    let count = (members.len() as u16).to_le_bytes();
    let length = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend(
        [
            &b"PK\x05\x06\0\0\0\0"[..],
            &count,
            &count,
            &length,
            &start,
            &[0, 0],
        ]
        .concat(),
    );
    out
}

fn error_of(bytes: &[u8]) -> String {
    read_bytes(bytes).unwrap_err()
}

/// A pickle of one tensor: storage class, element count, offset, then shape and strides.
fn tensor_pickle(class: &str, count: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let tuple = |items: &[u8]| {
        [
            &b"("[..],
            &items.iter().flat_map(|&n| [b'K', n]).collect::<Vec<_>>(),
            b"t",
        ]
        .concat()
    };
    let mut out =
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n".to_vec();
    out.extend(
        [
            class.as_bytes(),
            b"\nX\x01\0\0\x000X\x03\0\0\0cpuK",
            &[count],
            b"tQK",
            &[offset],
        ]
        .concat(),
    );
    out.extend([tuple(shape), tuple(strides), b"\x89NtR.".to_vec()].concat());
    out
}

fn read_tensor(
    class: &str,
    data: &[u8],
    count: u8,
    offset: u8,
    shape: &[u8],
    strides: &[u8],
) -> Result<Tensor, String> {
    let pickle = tensor_pickle(class, count, offset, shape, strides);
    // Padding, so that small views do not meet the bound on growth.
    let padding = [0; 4096];
    let value = read_bytes(&zip_of(&[
        ("a/data.pkl", &pickle),
        ("a/data/0", data),
        ("a/padding", &padding),
    ]))?;
    Ok(value.as_tensor().unwrap().clone())
}

#[test]
fn every_element_type_is_read() {
    let bytes: Vec<u8> = (0..4)
        .flat_map(|n: i32| (n as f32 - 1.5).to_le_bytes())
        .collect();
    assert_eq!(
        *read_tensor("FloatStorage", &bytes, 4, 0, &[4], &[1])
            .unwrap()
            .data,
        Data::F32(vec![-1.5, -0.5, 0.5, 1.5])
    );
    assert_eq!(
        *read_tensor("DoubleStorage", &1.1f64.to_le_bytes(), 1, 0, &[], &[])
            .unwrap()
            .data,
        Data::F64(vec![1.1])
    );
    assert_eq!(
        *read_tensor("HalfStorage", &[0x00, 0xc0], 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::F32(vec![-2.0])
    );
    assert_eq!(
        *read_tensor("BFloat16Storage", &[0x40, 0x40], 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::F32(vec![3.0])
    );
    assert_eq!(
        *read_tensor("LongStorage", &(-7i64).to_le_bytes(), 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::I64(vec![-7])
    );
    assert_eq!(
        *read_tensor("IntStorage", &(-7i32).to_le_bytes(), 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::I64(vec![-7])
    );
    assert_eq!(
        *read_tensor("ShortStorage", &(-7i16).to_le_bytes(), 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::I64(vec![-7])
    );
    assert_eq!(
        *read_tensor("CharStorage", &[0xff], 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::I64(vec![-1])
    );
    assert_eq!(
        *read_tensor("ByteStorage", &[0xff], 1, 0, &[1], &[1])
            .unwrap()
            .data,
        Data::I64(vec![255])
    );
    assert_eq!(
        *read_tensor("BoolStorage", &[0, 1], 2, 0, &[2], &[1])
            .unwrap()
            .data,
        Data::I64(vec![0, 1])
    );
    assert!(
        read_tensor("QInt8Storage", &[0], 1, 0, &[1], &[1])
            .unwrap_err()
            .contains("torch.QInt8Storage")
    );
}

#[test]
fn half_precision_is_exact_for_every_bit_pattern() {
    for half in 0..=u16::MAX {
        let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f64::from(half & 0x3ff));
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(-24),
            0x1f if fraction == 0.0 => f64::INFINITY,
            0x1f => f64::NAN,
            _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
        };
        let expected = if half >> 15 == 1 {
            -magnitude
        } else {
            magnitude
        };
        let found = f64::from(half_to_f32(half));
        assert!(
            found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
            "{half:#06x}"
        );
    }
}

#[test]
fn strided_views_are_gathered_and_bounded() {
    let bytes: Vec<u8> = (0..12u8).collect();
    let view = |offset, shape: &[u8], strides: &[u8]| {
        read_tensor("ByteStorage", &bytes, 12, offset, shape, strides)
    };
    assert_eq!(
        *view(1, &[2, 3], &[1, 4]).unwrap().data,
        Data::I64(vec![1, 5, 9, 2, 6, 10])
    );
    assert_eq!(
        *view(3, &[2, 2], &[0, 1]).unwrap().data,
        Data::I64(vec![3, 4, 3, 4])
    );
    assert_eq!(*view(12, &[0, 3], &[1, 1]).unwrap().data, Data::I64(vec![]));
    assert_eq!(view(0, &[], &[]).unwrap().shape, [0usize; 0]);
    for (offset, shape, strides) in [
        (12, &[1][..], &[1][..]),
        (1, &[2, 6], &[6, 1]),
        (0, &[2], &[12]),
    ] {
        assert!(
            view(offset, shape, strides)
                .unwrap_err()
                .contains("reaches outside storage")
        );
    }
    assert!(view(0, &[1, 1], &[1]).is_err());
    assert!(
        view(0, &[255, 255, 255, 255], &[0, 0, 0, 0])
            .unwrap_err()
            .contains("far more memory")
    );
    assert!(view(0, &[255; 40], &[0; 40]).is_err());
    assert!(
        read_tensor("FloatStorage", &bytes, 4, 0, &[4], &[1])
            .unwrap_err()
            .contains("has 12 bytes")
    );
}

#[test]
fn archives_that_are_not_what_torch_writes_are_refused() {
    let pickle = b"\x80\x02N.";
    let good = zip_of(&[("a/data.pkl", pickle)]);
    assert_eq!(read_bytes(&good), Ok(Value::None));
    for name in [
        "../a/data.pkl",
        "/a/data.pkl",
        "a/../../data.pkl",
        "a\\..\\data.pkl",
        "C:/data.pkl",
    ] {
        assert!(
            error_of(&zip_of(&[(name, pickle)])).contains("path out of the archive"),
            "{name}"
        );
    }
    assert!(error_of(&zip_of(&[("a/other", pickle)])).contains("no data.pkl"));
    assert!(
        error_of(&zip_of(&[("a/data.pkl", pickle), ("b/data.pkl", pickle)]))
            .contains("more than one")
    );
    assert!(error_of(&zip_of(&[("a/x", pickle), ("a/x", pickle)])).contains("two members"));
    assert!(
        error_of(&zip_of(&[("a/data.pkl", pickle), ("a/byteorder", b"big")]))
            .contains("big-endian")
    );
    assert!(error_of(&zip_of(&[("a/data.pkl", b"\x80\x02N.tail")])).contains("after its end"));
    let central = good
        .windows(4)
        .position(|window| window == b"PK\x01\x02")
        .unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        error_of(&bytes)
    };
    assert!(changed(central + 10, 8).contains("compressed"));
    assert!(changed(central + 8, 1).contains("encrypted"));
    assert!(
        changed(central + 24, 200).contains("compressed"),
        "a bomb's sizes differ"
    );
    assert!(changed(30, b'b').contains("another name"));
    assert!(error_of(&good[..good.len() - 1]).contains("truncated"));
    // A member whose bytes hold another member, local header and all.
    let inner = zip_of(&[("a/c", b"data")]);
    let mut overlapping = zip_of(&[("a/data.pkl", pickle), ("a/b", &inner), ("a/c", b"data")]);
    assert!(read_bytes(&overlapping).is_ok());
    let locals: Vec<usize> = (0..overlapping.len())
        .filter(|&at| overlapping[at..].starts_with(b"PK\x03\x04"))
        .collect();
    let last = overlapping
        .windows(4)
        .rposition(|window| window == b"PK\x01\x02")
        .unwrap();
    overlapping[last + 42..last + 46].copy_from_slice(&(locals[2] as u32).to_le_bytes());
    assert!(error_of(&overlapping).contains("overlap"));
}

#[test]
fn pickles_run_nothing_and_refuse_what_is_not_data() {
    let read = |pickle: &[u8]| read_bytes(&zip_of(&[("a/data.pkl", pickle)]));
    // os.system("true") is a record of its name and argument.
    let called = read(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.").unwrap();
    let Value::Object(object) = called else {
        panic!("{called:?}")
    };
    assert_eq!(
        (object.class.as_str(), &object.args[..]),
        ("os.system", &[Value::Str("true".into())][..])
    );
    for (pickle, told) in [
        (&b"\x80\x02(ios\nsystem\n."[..], "opcode 'i'"),
        (b"\x80\x02I5\n.", "opcode 'I'"),
        (b"\x80\x02\x82\x01.", "opcode 0x82"),
        (b"\x80\x02\x97.", "opcode 0x97"),
        (b"\x80\x01N.", "protocol 1"),
        (b"\x80\x02.", "empty stack"),
        (b"\x80\x02K\x01(0.", "empty stack"),
        (b"\x80\x02h\x07.", "recalls 7"),
        (b"\x80\x02t.", "a mark that it never set"),
        (b"\x80\x02N", "ends in the middle"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "ends in the middle"),
        (
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
            "ends in the middle",
        ),
        (b"\x80\x02}(K\x01u.", "a key has no value"),
        (b"\x80\x02N]a.", "appends to"),
        (b"\x80\x02NQ.", "a tuple should"),
        (b"\x80\x02K\x01K\x02R.", "no class"),
        (b"\x80\x02]q\0h\0a.", "contain themselves"),
    ] {
        let error = read(pickle).unwrap_err();
        assert!(error.contains(told), "{pickle:?}: {error}");
    }
    let nested = [&b"\x80\x02"[..], &b"]".repeat(500), &b"a".repeat(499), b"."].concat();
    assert!(read(&nested).unwrap_err().contains("nested deeper"));
    // A list of lists of lists ..., each holding the one before a hundred times.
    let mut bomb = b"\x80\x02]q\0".to_vec();
    for level in 0..20u8 {
        bomb.extend([&b"]("[..], &[b'h', level].repeat(100), b"eq", &[level + 1]].concat());
    }
    bomb.push(b'.');
    assert!(read(&bomb).unwrap_err().contains("far more memory"));
}

#[test]
fn later_protocols_and_unknown_classes_are_data_too() {
    let read = |pickle: &[u8]| read_bytes(&zip_of(&[("a/data.pkl", pickle)])).unwrap();
    // Protocol 4: frame, memoize, short texts, stack global, a set, bytes, a long.
    let pickle = b"\x80\x04\x95\0\0\0\0\0\0\0\0}(\x8c\x01a\x94\x8f(K\x01K\x02\x90\x8c\x01bC\x02xyh\0\x8a\x02\0\xffu.";
    let value = read(pickle);
    assert_eq!(
        value.get("a"),
        Some(&Value::Int(-256)),
        "of equal keys the last counts"
    );
    assert_eq!(value.get("b"), Some(&Value::Bytes(b"xy".to_vec())));
    let pickle =
        b"\x80\x04\x8c\x08argparse\x8c\x09Namespace\x93)\x81}\x8c\x02lrG\x3f\xf8\0\0\0\0\0\0sb.";
    assert_eq!(read(pickle).attribute("lr"), Some(&Value::Float(1.5)));
    // A dictionary's subclass keeps its items.
    let pickle = b"\x80\x02ceasydict\nEasyDict\n)\x81X\x01\0\0\0kK\x05s.";
    assert_eq!(read(pickle).attribute("k"), Some(&Value::Int(5)));
}

fn official(name: &str) -> Option<Vec<u8>> {
    require_shared(name).map(|path: PathBuf| std::fs::read(path).unwrap())
}

#[test]
fn truncated_official_files_are_errors() {
    for name in ["parity/A/EBM_0.pth", "parity/A/EBM_0_legacy.pth"] {
        let Some(bytes) = official(name) else { return };
        for length in (0..bytes.len())
            .step_by(997)
            .chain(bytes.len() - 30..bytes.len())
        {
            assert!(
                read_bytes(&bytes[..length]).is_err(),
                "{name}: {length} bytes"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is changed: a value or an error, and no panic.
    #[test]
    fn changed_official_files_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        legacy: bool,
        near_structure: bool,
    ) {
        let name = if legacy { "parity/A/EBM_0_legacy.pth" } else { "parity/A/EBM_0.pth" };
        let Some(mut bytes) = official(name) else { return Ok(()) };
        // Most bytes are weights; the pickle is at the front and the zip's directory at the back.
        let range = match (near_structure, legacy) {
            (true, true) => 0..9000,
            (true, false) => bytes.len() - 5000..bytes.len(),
            (false, _) => 0..9000,
        };
        for (place, byte) in changes {
            bytes[range.start + place.index(range.len())] = byte;
        }
        let _ = read_bytes(&bytes);
    }

    #[test]
    fn arbitrary_pickles_never_panic(pickle in proptest::collection::vec(prop_oneof![
        proptest::sample::select(&b".(012NKMJGX}]ate)qhrjcRbsuQ\x80\x81\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x92\x93\x94"[..]),
        any::<u8>(),
    ], 0..200)) {
        let _ = read_bytes(&zip_of(&[("a/data.pkl", &[b"\x80\x02", &pickle[..], b"."].concat())]));
    }
}
