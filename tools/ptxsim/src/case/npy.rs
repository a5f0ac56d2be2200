//! NumPy's `.npy` files, as far as buffers need them: one little-endian array in C order.

use std::path::Path;

use super::{CaseError, Dtype};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The type string of a dtype; bf16, which NumPy lacks, is stored as `<u2`.
fn descr(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        Dtype::F16 => "<f2",
        Dtype::BF16 | Dtype::U16 => "<u2",
        Dtype::U8 => "|u1",
        Dtype::S8 => "|i1",
        Dtype::S16 => "<i2",
        Dtype::S32 => "<i4",
        Dtype::U32 => "<u4",
        Dtype::S64 => "<i8",
        Dtype::U64 => "<u8",
    }
}

/// The value of `key` in the header's dictionary, up to the next comma outside brackets.
fn entry<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let at = header.find(&format!("'{key}'"))?;
    let value = header[at..].split_once(':')?.1.trim_start();
    if value.starts_with('(') {
        return Some(&value[..=value.find(')')?]);
    }
    Some(value[..value.find([',', '}'])?].trim())
}

/// Reads the raw little-endian bytes of an array of that dtype.
pub(crate) fn read(path: &Path, dtype: Dtype) -> Result<Vec<u8>, CaseError> {
    let bad = |message: String| CaseError::File {
        path: path.to_owned(),
        message,
    };
    let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    parse(&bytes, dtype).map_err(bad)
}

fn parse(bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("not an .npy file")?;
    let (length, start): (usize, usize) = match rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        _ => return Err("unknown .npy version".into()),
    };
    let header = rest
        .get(start..start.saturating_add(length))
        .ok_or("the header is cut off")?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    let data = &rest[start + length..];
    let found = entry(header, "descr")
        .ok_or("the header has no descr")?
        .trim_matches(['\'', '"']);
    if found != descr(dtype) {
        return Err(format!(
            "holds {found}, but dtype {} is stored as {}",
            dtype.name(),
            descr(dtype)
        ));
    }
    if entry(header, "fortran_order") != Some("False") {
        return Err("is in Fortran order; save it in C order".into());
    }
    let shape = entry(header, "shape").ok_or("the header has no shape")?;
    let mut elements = 1usize;
    for extent in shape
        .trim_matches(['(', ')'])
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
    {
        let extent: usize = extent
            .parse()
            .map_err(|_| format!("{extent:?} is no extent"))?;
        elements = elements
            .checked_mul(extent)
            .ok_or("the shape is too large")?;
    }
    let wanted = elements
        .checked_mul(dtype.bytes())
        .ok_or("the shape is too large")?;
    if data.len() != wanted {
        return Err(format!(
            "has {} bytes of data, but its shape needs {wanted}",
            data.len()
        ));
    }
    Ok(data.to_vec())
}

/// Writes a one-dimensional array.
pub(crate) fn write(path: &Path, dtype: Dtype, data: &[u8]) -> Result<(), CaseError> {
    let elements = data.len() / dtype.bytes();
    let mut header = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({elements},), }}",
        descr(dtype)
    );
    // Magic, version, length and header together fill a multiple of 64 bytes.
    while !(MAGIC.len() + 4 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = MAGIC.to_vec();
    file.extend([1, 0]);
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(path, file).map_err(|error| CaseError::File {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.npy");
        let data: Vec<u8> = (0..24).collect();
        write(&path, Dtype::F32, &data).expect("writes");
        assert_eq!(read(&path, Dtype::F32).expect("reads"), data);
        assert_eq!(std::fs::read(&path).expect("reads").len() % 64, 24);
        assert!(read(&path, Dtype::F64).is_err());
    }

    #[test]
    fn malformed_files_are_refused() {
        for bytes in [
            &b""[..],
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00\xff\xff",
            b"\x93NUMPY\x01\x00\x02\x00{}",
        ] {
            assert!(parse(bytes, Dtype::F32).is_err());
        }
        let header =
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }";
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0, header.len() as u8, 0]);
        bytes.extend(header.as_bytes());
        assert!(parse(&bytes, Dtype::F32).is_err());
    }
}
