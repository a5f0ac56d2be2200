//! The few NVRTC calls needed, loaded from an absolute path.

use std::{
    ffi::{CString, c_char, c_int},
    path::Path,
    ptr,
};

use libloading::Library;

use crate::{error::Error, source::Source};

type Program = *mut std::ffi::c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// NVRTC, loaded. The function pointers live as long as `_library`.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    log_size: Size,
    log: Get,
    ptx_size: Size,
    ptx: Get,
    destroy: Destroy,
    _library: Library,
}

impl Nvrtc {
    /// Loads the library at `path` and checks that it is a 12.0, whose PTX the project ships.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let fail = |e: libloading::Error| Error::Nvrtc(format!("{}: {e}", path.display()));
        // SAFETY: the file is NVIDIA's NVRTC from the pinned wheel; its initialisers have no preconditions. The
        // library stays loaded as long as the pointers taken from it, both owned by the returned value.
        let library = unsafe { Library::new(path) }.map_err(fail)?;
        // SAFETY: the symbol types are those of nvrtc.h 12.0.
        let loaded = unsafe {
            let version: Version = *library.get(b"nvrtcVersion\0").map_err(fail)?;
            let (mut major, mut minor) = (0, 0);
            version(&mut major, &mut minor);
            if (major, minor) != (12, 0) {
                return Err(Error::Nvrtc(format!(
                    "{}: version {major}.{minor}, wanted 12.0",
                    path.display()
                )));
            }
            Self {
                create: *library.get(b"nvrtcCreateProgram\0").map_err(fail)?,
                compile: *library.get(b"nvrtcCompileProgram\0").map_err(fail)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0").map_err(fail)?,
                log: *library.get(b"nvrtcGetProgramLog\0").map_err(fail)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize\0").map_err(fail)?,
                ptx: *library.get(b"nvrtcGetPTX\0").map_err(fail)?,
                destroy: *library.get(b"nvrtcDestroyProgram\0").map_err(fail)?,
                _library: library,
            }
        };
        Ok(loaded)
    }

    /// Compiles one source to PTX text. Headers are handed over in memory, so no path of the machine enters.
    pub fn compile(&self, source: &Source) -> Result<String, Error> {
        let c = |text: &str| {
            CString::new(text)
                .map_err(|_| Error::Nvrtc(format!("{}: a NUL byte in the source", source.name)))
        };
        let (name, text) = (c(&source.name)?, c(&source.text)?);
        let header_names = source
            .headers
            .keys()
            .map(|h| c(h))
            .collect::<Result<Vec<_>, _>>()?;
        let header_texts = source
            .headers
            .values()
            .map(|h| c(h))
            .collect::<Result<Vec<_>, _>>()?;
        let options = source
            .target
            .options()
            .iter()
            .map(|o| c(o))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (name_list, text_list, option_list) = (
            pointers(&header_names),
            pointers(&header_texts),
            pointers(&options),
        );

        let mut program: Program = ptr::null_mut();
        // SAFETY: every pointer is to a NUL-terminated string or an array of such that outlives the call, and the
        // counts are the arrays' lengths; `program` is written before it is read.
        let created = unsafe {
            (self.create)(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                header_names.len() as c_int,
                text_list.as_ptr(),
                name_list.as_ptr(),
            )
        };
        if created != 0 {
            return Err(Error::Nvrtc(format!(
                "{}: nvrtcCreateProgram returned {created}",
                source.name
            )));
        }
        // SAFETY: `program` came from a successful create and is destroyed once, below.
        let result =
            unsafe { (self.compile)(program, options.len() as c_int, option_list.as_ptr()) };
        let out = if result == 0 {
            self.text(program, self.ptx_size, self.ptx)
                .map(|ptx| bare_file_names(&ptx))
        } else {
            self.text(program, self.log_size, self.log)
        };
        // SAFETY: see above; the program is not used after this.
        unsafe { (self.destroy)(&mut program) };
        match result {
            0 => out,
            _ => Err(Error::Compile {
                file: source.name.clone(),
                log: out?.trim_end().to_owned(),
            }),
        }
    }

    fn text(&self, program: Program, size: Size, get: Get) -> Result<String, Error> {
        let mut bytes = 0;
        // SAFETY: `program` is live; `bytes` is written before the buffer of that size is made and filled.
        let (sized, got, mut buffer) = unsafe {
            let sized = size(program, &mut bytes);
            let mut buffer = vec![0_u8; bytes.max(1)];
            let got = get(program, buffer.as_mut_ptr().cast());
            (sized, got, buffer)
        };
        if sized != 0 || got != 0 {
            return Err(Error::Nvrtc(format!(
                "reading the result failed ({sized}, {got})"
            )));
        }
        while buffer.last() == Some(&0) {
            buffer.pop();
        }
        String::from_utf8(buffer).map_err(|e| Error::Nvrtc(format!("the result is not UTF-8: {e}")))
    }
}

/// Strips the directory from `.file 1 "/some/where/conv.cu"`: NVRTC puts its working directory in front of the program
/// name and the headers', which would make the text depend on where it was called.
fn bare_file_names(ptx: &str) -> String {
    let bare = |line: &str| {
        let (head, rest) = line.split_once('"')?;
        let (path, tail) = rest.split_once('"')?;
        (head.trim_start().starts_with(".file")).then(|| {
            let name = path.rsplit('/').next().unwrap_or(path);
            format!("{head}\"{name}\"{tail}")
        })
    };
    ptx.split('\n')
        .map(|line| bare(line).unwrap_or_else(|| line.to_owned()))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::bare_file_names;

    #[test]
    fn only_file_directives_lose_their_directory() {
        let ptx = "\t.file\t1 \"/a/b/conv.cu\"\n.pragma \"no/unroll\";\n\t.file 2 \"x.cuh\"\n";
        let want = "\t.file\t1 \"conv.cu\"\n.pragma \"no/unroll\";\n\t.file 2 \"x.cuh\"\n";
        assert_eq!(bare_file_names(ptx), want);
    }
}
