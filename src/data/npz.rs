//! Images as one `.npz` file, written as they come: what the common tools for sample quality read.
//!
//! The file is a zip archive with one stored member, `arr_0.npy`, an array of bytes `[n, height, width, channels]`. It is always
//! written with 64-bit sizes, as NumPy writes it, so that there is one form for small and for large files. Sizes, checksum and the number
//! of images stand before the images; they are written last, in room left for them.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::{DataError, ImageShape};

const MEMBER: &[u8] = b"arr_0.npy";
/// NumPy's header of format 1.0, padded to two times 64 bytes: room for any number of images.
const NPY_HEADER: usize = 128;
/// Local header, the member's name, and the extra field with the two 64-bit sizes.
const LOCAL_HEADER: usize = 30 + MEMBER.len() + 20;
/// Version 4.5 of the format: 64-bit sizes.
const VERSION: u16 = 45;
/// Stands where a size or an offset is kept as a 64-bit number elsewhere.
const IN_EXTRA: u32 = u32::MAX;
/// 1 January 1980, the first day there is: the same images give the same file.
const DATE: u16 = (1 << 5) | 1;

/// The archive, on anything that can be written and wound back.
struct Archive<W> {
    out: W,
    shape: ImageShape,
    images: u64,
    checksum: Crc,
}

impl<W: Write + Seek> Archive<W> {
    fn new(out: W, shape: ImageShape) -> Self {
        Archive {
            out,
            shape,
            images: 0,
            checksum: Crc::new(),
        }
    }

    /// Leaves room for what precedes the images.
    fn start(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; LOCAL_HEADER + NPY_HEADER])
    }

    fn push(&mut self, pixels: &[u8]) -> io::Result<()> {
        debug_assert_eq!(pixels.len() % self.shape.values(), 0);
        self.out.write_all(pixels)?;
        self.checksum.update(pixels);
        self.images += (pixels.len() / self.shape.values()) as u64;
        Ok(())
    }

    /// Writes what follows the images, then what precedes them.
    fn finish(&mut self) -> io::Result<()> {
        let header = npy_header(self.shape, self.images);
        let mut checksum = Crc::new();
        checksum.update(&header);
        checksum.combine(&self.checksum);
        let crc = checksum.sum();
        let size = NPY_HEADER as u64 + self.images * self.shape.values() as u64;
        let directory_at = LOCAL_HEADER as u64 + size;

        let directory = central_directory(MEMBER, crc, size, 0);
        self.out.write_all(&directory)?;
        self.out
            .write_all(&end_records(1, directory_at, directory.len() as u64))?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&local_header(MEMBER, crc, size))?;
        self.out.write_all(&header)?;
        self.out.flush()
    }
}

/// What is the same in a member's two headers: versions, method (stored), date, checksum, and where the sizes are.
fn member(name: &[u8], crc: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for half in [VERSION, 0, 0, 0, DATE] {
        bytes.extend(half.to_le_bytes());
    }
    for word in [crc, IN_EXTRA, IN_EXTRA] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend((name.len() as u16).to_le_bytes());
    bytes
}

/// The extra field of 64-bit numbers.
fn extra(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = 1u16.to_le_bytes().to_vec();
    bytes.extend((8 * numbers.len() as u16).to_le_bytes());
    numbers.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes
}

/// What precedes a member's bytes.
pub(super) fn local_header(name: &[u8], crc: u32, size: u64) -> Vec<u8> {
    let extra = extra(&[size, size]);
    let mut bytes = b"PK\x03\x04".to_vec();
    bytes.extend(member(name, crc));
    bytes.extend((extra.len() as u16).to_le_bytes());
    bytes.extend(name);
    bytes.extend(extra);
    bytes
}

/// The directory's entry of a member whose local header is at `at`.
pub(super) fn central_directory(name: &[u8], crc: u32, size: u64, at: u64) -> Vec<u8> {
    // Both sizes, and where the local header is.
    let extra = extra(&[size, size, at]);
    let mut bytes = b"PK\x01\x02".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(member(name, crc));
    bytes.extend((extra.len() as u16).to_le_bytes());
    // No comment, disk 0, no attributes.
    bytes.extend([0; 10]);
    bytes.extend(IN_EXTRA.to_le_bytes());
    bytes.extend(name);
    bytes.extend(extra);
    bytes
}

/// The end of the archive with 64-bit numbers, its locator, and the end that old programs look for.
pub(super) fn end_records(members: u16, directory_at: u64, directory_length: u64) -> Vec<u8> {
    let mut bytes = b"PK\x06\x06".to_vec();
    bytes.extend(44u64.to_le_bytes());
    bytes.extend([VERSION.to_le_bytes(), VERSION.to_le_bytes()].as_flattened());
    bytes.extend([0; 8]);
    let count = u64::from(members);
    for number in [count, count, directory_length, directory_at] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07");
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((directory_at + directory_length).to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 4]);
    bytes.extend([members.to_le_bytes(), members.to_le_bytes()].as_flattened());
    bytes.extend((directory_length as u32).to_le_bytes());
    bytes.extend(IN_EXTRA.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// The header of an array of bytes in NumPy's format 1.0.
fn npy_header(shape: ImageShape, images: u64) -> Vec<u8> {
    let ImageShape {
        height,
        width,
        channels,
    } = shape;
    let text = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({images}, {height}, {width}, {channels}), }}"
    );
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((NPY_HEADER - 10) as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    assert!(bytes.len() < NPY_HEADER, "room for {text}");
    bytes.resize(NPY_HEADER - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// A `.npz` file in the making, under a temporary name until it is whole.
pub(super) struct NpzFile {
    path: PathBuf,
    temporary: PathBuf,
    archive: Archive<File>,
}

impl NpzFile {
    /// Starts a file for images of this shape.
    ///
    /// # Errors
    /// A file of that name, and whatever the file system reports.
    pub(super) fn create(path: &Path, shape: ImageShape) -> Result<Self, DataError> {
        let name = path.file_name().ok_or_else(|| {
            DataError::Setting(format!("{} names no file to write", path.display()))
        })?;
        if path.exists() {
            return Err(DataError::Setting(format!(
                "{} is there already: remove it or name another file",
                path.display()
            )));
        }
        let mut unfinished = std::ffi::OsString::from(crate::checkpoint::TEMPORARY);
        unfinished.push(name);
        let temporary = path.with_file_name(unfinished);
        let out = File::create(&temporary).map_err(DataError::unwritable(path))?;
        let mut file = NpzFile {
            path: path.to_owned(),
            temporary,
            archive: Archive::new(out, shape),
        };
        let started = file.archive.start();
        started.map_err(DataError::unwritable(path))?;
        Ok(file)
    }

    /// Appends whole images.
    pub(super) fn push(&mut self, pixels: &[u8]) -> Result<(), DataError> {
        self.archive
            .push(pixels)
            .map_err(DataError::unwritable(&self.path))
    }

    /// Completes the file and gives it its name.
    pub(super) fn finish(mut self) -> Result<(), DataError> {
        self.archive
            .finish()
            .and_then(|()| self.archive.out.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.path))
            .map_err(DataError::unwritable(&self.path))
    }
}

impl Drop for NpzFile {
    /// Leaves nothing behind of a file that was not finished; of a finished one nothing has that name any more.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const SHAPE: ImageShape = ImageShape {
        height: 2,
        width: 3,
        channels: 3,
    };

    fn images(count: usize) -> Vec<u8> {
        (0..count * SHAPE.values())
            .map(|i| (i * 37 % 256) as u8)
            .collect()
    }

    fn archived(count: usize, at_once: usize) -> Vec<u8> {
        let mut archive = Archive::new(Cursor::new(Vec::new()), SHAPE);
        archive.start().unwrap();
        for part in images(count).chunks(at_once * SHAPE.values()) {
            archive.push(part).unwrap();
        }
        archive.finish().unwrap();
        archive.out.into_inner()
    }

    /// `tools/eval/fixtures.py` has NumPy and Python's own zip module read these very bytes and compares every pixel.
    #[test]
    fn the_file_is_the_one_that_numpy_has_read() {
        let read = include_bytes!("../../tests/fixtures/eval/images.npz");
        assert!(archived(5, 2) == read, "the bytes differ");
    }

    #[test]
    fn batches_do_not_show_and_no_image_is_needed() {
        assert_eq!(archived(7, 1), archived(7, 7));
        let none = archived(0, 1);
        let header = &none[LOCAL_HEADER..LOCAL_HEADER + NPY_HEADER];
        assert!(String::from_utf8_lossy(header).contains("'shape': (0, 2, 3, 3)"));
    }

    /// Swallows what is written and keeps the numbers: sizes that no test should put on a disk.
    #[derive(Default)]
    struct Counted {
        at: u64,
        end: u64,
        head: Vec<u8>,
        tail: Vec<u8>,
    }

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.at == self.end {
                self.tail.extend(bytes);
                let surplus = self.tail.len().saturating_sub(512);
                self.tail.drain(..surplus);
            } else {
                self.head.extend(bytes);
            }
            self.at += bytes.len() as u64;
            self.end = self.end.max(self.at);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            let SeekFrom::Start(at) = to else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            self.at = at;
            Ok(at)
        }
    }

    #[test]
    fn sizes_beyond_32_bits_are_told_right() {
        // 90 images of 48 MiB: 4.2 GiB, of which only the numbers are there.
        let shape = ImageShape {
            height: 4096,
            width: 4096,
            channels: 3,
        };
        let mut archive = Archive::new(Counted::default(), shape);
        archive.start().unwrap();
        archive.images = 90;
        archive.out.end = (LOCAL_HEADER + NPY_HEADER) as u64 + 90 * shape.values() as u64;
        archive.out.at = archive.out.end;
        archive.finish().unwrap();
        let size = NPY_HEADER as u64 + 90 * shape.values() as u64;
        assert!(size > u64::from(u32::MAX));
        let number = |bytes: &[u8], at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let Counted { head, tail, .. } = &archive.out;
        assert_eq!(number(head, LOCAL_HEADER - 16), size);
        assert_eq!(number(head, LOCAL_HEADER - 8), size);
        // Before the last end record (22 bytes) and the locator (20): the offset of the directory closes the 64-bit record.
        let directory_at = number(tail, tail.len() - 22 - 20 - 8);
        assert_eq!(directory_at, LOCAL_HEADER as u64 + size);
        let record_at = number(tail, tail.len() - 22 - 12);
        assert_eq!(record_at + 56 + 20 + 22, archive.out.end);
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mut file = NpzFile::create(&path, SHAPE).unwrap();
        file.push(&images(2)).unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        NpzFile::create(&path, SHAPE).unwrap().finish().unwrap();
        let told = NpzFile::create(&path, SHAPE).err().unwrap().to_string();
        assert!(told.contains("a.npz") && told.contains("already"), "{told}");
        let nowhere = folder.path().join("none/a.npz");
        let told = NpzFile::create(&nowhere, SHAPE).err().unwrap().to_string();
        assert!(told.contains("none/a.npz"), "{told}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
