//! Images into files as they come, batch by batch: a folder of PNG files, an `.npz` file, or both.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::npz::NpzFile;
use super::picture::{Contrast, GridOptions, Picture};
use super::{DataError, ImageShape};

/// Where images go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// A folder for `00000.png` and so on, and for nothing else.
    pub png_dir: Option<PathBuf>,
    /// A file with the array `arr_0`, bytes `[n, height, width, channels]`.
    pub npz: Option<PathBuf>,
}

impl Destinations {
    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.png_dir.is_some() || self.npz.is_some()
    }

    /// Opens them for images of this shape.
    ///
    /// # Errors
    /// A folder with something in it, a file that is there already, and whatever the file system reports.
    pub fn open(&self, shape: ImageShape, contrast: Contrast) -> Result<ImageFiles, DataError> {
        if let Some(folder) = &self.png_dir {
            fs::create_dir_all(folder).map_err(DataError::unwritable(folder))?;
            let mut entries = fs::read_dir(folder).map_err(DataError::unreadable(folder))?;
            if entries.next().is_some() {
                return Err(DataError::Setting(format!(
                    "the folder {} is not empty, and what is in it would count as samples: name a new one",
                    folder.display()
                )));
            }
        }
        let npz = match &self.npz {
            Some(path) => Some(NpzFile::create(path, shape)?),
            None => None,
        };
        Ok(ImageFiles {
            shape,
            contrast,
            folder: self.png_dir.clone(),
            npz,
            written: 0,
        })
    }
}

/// Opened destinations.
pub struct ImageFiles {
    shape: ImageShape,
    contrast: Contrast,
    folder: Option<PathBuf>,
    npz: Option<NpzFile>,
    written: usize,
}

impl ImageFiles {
    /// Numbered PNG files in a folder that may hold others; those of the same number are replaced.
    pub fn into_folder(folder: &Path, shape: ImageShape, contrast: Contrast) -> Self {
        ImageFiles {
            shape,
            contrast,
            folder: Some(folder.to_owned()),
            npz: None,
            written: 0,
        }
    }

    /// Appends whole images, f32 `[n, height, width, channels]`.
    ///
    /// # Errors
    /// Whatever the file system reports, such as a full disk.
    pub fn push(&mut self, images: &[f32]) -> Result<(), DataError> {
        let values = self.shape.values();
        if let Some(folder) = &self.folder {
            let options = GridOptions {
                columns: 1,
                upscale: 1,
                padding: 0,
                contrast: self.contrast,
            };
            let numbered = images.par_chunks_exact(values).enumerate();
            numbered.try_for_each(|(i, image)| {
                let path = folder.join(format!("{:05}.png", self.written + i));
                write_png(&Picture::grid(image, self.shape, &options), &path)
            })?;
        }
        if let Some(npz) = &mut self.npz {
            let contrast = self.contrast;
            let pixels = images.chunks_exact(values);
            npz.push(
                &pixels
                    .flat_map(|i| contrast.to_bytes(i))
                    .collect::<Vec<_>>(),
            )?;
        }
        self.written += images.len() / values;
        Ok(())
    }

    /// Images so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Completes the files.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn finish(self) -> Result<(), DataError> {
        self.npz.map_or(Ok(()), NpzFile::finish)
    }
}

/// Writes one of many files: without waiting for the disk, and removed if it could not be written whole.
fn write_png(picture: &Picture, path: &Path) -> Result<(), DataError> {
    File::create(path)
        .and_then(|file| picture.encode(BufWriter::new(file)))
        .map_err(|source| {
            let _ = fs::remove_file(path);
            DataError::unwritable(path)(source)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Crop, Dataset, PngFolder};

    const SHAPE: ImageShape = ImageShape {
        height: 4,
        width: 4,
        channels: 3,
    };

    /// Images with colour, each value a multiple of 1/255.
    fn images(count: usize) -> (Vec<u8>, Vec<f32>) {
        let values = 0..count * SHAPE.values();
        let bytes: Vec<u8> = values.map(|i| (i * 41 % 251) as u8).collect();
        let values = bytes.iter().map(|b| f32::from(*b) / 255.0).collect();
        (bytes, values)
    }

    #[test]
    fn every_pixel_arrives_in_both_forms() {
        let at = tempfile::tempdir().unwrap();
        let to = Destinations {
            png_dir: Some(at.path().join("deep/pictures")),
            npz: Some(at.path().join("samples.npz")),
        };
        let (bytes, values) = images(5);
        let mut files = to.open(SHAPE, Contrast::Clamp).unwrap();
        for part in values.chunks(2 * SHAPE.values()) {
            files.push(part).unwrap();
        }
        assert_eq!(files.written(), 5);
        files.finish().unwrap();
        let npz = fs::read(at.path().join("samples.npz")).unwrap();
        assert!(npz.windows(bytes.len()).any(|w| w == bytes));
        let folder = at.path().join("deep/pictures");
        let set = PngFolder::open(&folder, 4, 3, Crop::Centre).unwrap();
        assert_eq!(set.len(), 5);
        let mut pixels = vec![0; SHAPE.values()];
        for (item, want) in bytes.chunks_exact(SHAPE.values()).enumerate() {
            set.read(item, &mut pixels).unwrap();
            assert_eq!(pixels, want);
        }
    }

    #[test]
    fn what_is_there_is_not_mixed_with() {
        let at = tempfile::tempdir().unwrap();
        fs::write(at.path().join("overview.png"), b"").unwrap();
        let to = Destinations {
            png_dir: Some(at.path().to_owned()),
            npz: None,
        };
        let told = to.open(SHAPE, Contrast::Clamp).err().unwrap().to_string();
        assert!(told.contains("not empty"), "{told}");
        let file = at.path().join("overview.png");
        let to = Destinations {
            png_dir: Some(file.clone()),
            npz: None,
        };
        let told = to.open(SHAPE, Contrast::Clamp).err().unwrap().to_string();
        assert!(told.contains("overview.png"), "{told}");
    }

    /// `/dev/full` takes no byte.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_with_the_file() {
        let at = tempfile::tempdir().unwrap();
        let mut files = ImageFiles::into_folder(at.path(), SHAPE, Contrast::Clamp);
        std::os::unix::fs::symlink("/dev/full", at.path().join("00001.png")).unwrap();
        let told = files.push(&images(2).1).unwrap_err().to_string();
        assert!(
            told.contains("00001.png") && told.contains("room"),
            "{told}"
        );
        assert!(!at.path().join("00001.png").exists());
    }
}
