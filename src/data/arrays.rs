//! Named arrays of f32 as one `.npz` file, which `numpy.load` reads: a zip archive of stored `NAME.npy` members with 64-bit sizes, as NumPy
//! writes it.

use flate2::Crc;

use super::npz;

/// An array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
}

/// The array in NumPy's format 1.0.
fn npy(array: &Array) -> Vec<u8> {
    let extents: Vec<String> = array.shape.iter().map(|e| format!("{e},")).collect();
    let text = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}",
        extents.join(" ")
    );
    // The numbers begin at a multiple of 64 bytes.
    let header = (10 + text.len() + 1).next_multiple_of(64);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((header - 10) as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(header - 1, b' ');
    bytes.push(b'\n');
    bytes.extend(array.values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// The archive.
///
/// # Panics
/// Beyond 65,535 arrays.
pub fn write_npz(arrays: &[Array]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for array in arrays {
        let (name, data) = (format!("{}.npy", array.name), npy(array));
        let mut crc = Crc::new();
        crc.update(&data);
        let (crc, size, at) = (crc.sum(), data.len() as u64, out.len() as u64);
        out.extend(npz::local_header(name.as_bytes(), crc, size));
        out.extend(data);
        directory.extend(npz::central_directory(name.as_bytes(), crc, size, at));
    }
    let count = u16::try_from(arrays.len()).expect("a few arrays");
    let end = npz::end_records(count, out.len() as u64, directory.len() as u64);
    out.extend(directory);
    out.extend(end);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays() -> [Array; 2] {
        let values = |n: usize| (0..n).map(|i| i as f32 * 0.5 - 1.0).collect();
        [
            Array {
                name: "log_density".into(),
                shape: vec![2, 3],
                values: values(6),
            },
            Array {
                name: "x[0]".into(),
                shape: vec![5],
                values: values(5),
            },
        ]
    }

    /// `tools/arviz/traces.py` has NumPy read these very bytes and compares every number.
    #[test]
    fn the_file_is_the_one_that_numpy_has_read() {
        let read = include_bytes!("../../tests/fixtures/traces.npz");
        assert!(write_npz(&arrays()) == read, "the bytes differ");
    }

    #[test]
    fn numbers_begin_at_a_multiple_of_64_bytes_and_are_whole() {
        for array in arrays() {
            let bytes = npy(&array);
            let start = bytes.len() - 4 * array.values.len();
            assert_eq!((start % 64, bytes[start - 1]), (0, b'\n'));
            let last = f32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
            assert_eq!(Some(&last), array.values.last());
        }
    }
}
