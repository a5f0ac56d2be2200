//! What the stand-in is asked to refuse.

use std::{fmt, str::FromStr};

/// One refusal, written as in `--fail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fail {
    /// `no-device`: `cuInit` finds no GPU.
    NoDevice,
    /// `old-driver`: a driver of CUDA 11.4, which knows PTX up to 7.4.
    OldDriver,
    /// `ptx-rejected`: the JIT refuses every module.
    PtxRejected,
    /// `oom-at=N`: the N-th device allocation fails, and no other.
    OutOfMemoryAt(u64),
    /// `oom-bytes=N`: the device has N bytes.
    OutOfMemoryBytes(u64),
    /// `launch-fails=KERNEL[:N]`: the N-th launch of the kernel (the first if not said) is refused.
    LaunchFails(Nth),
    /// `async-error=KERNEL[:N]`: that launch is accepted, and a later synchronising call reports an illegal address.
    AsyncError(Nth),
}

/// A launch of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nth {
    /// The kernel's name.
    pub kernel: String,
    /// Which of its launches, from 1.
    pub nth: u64,
}

/// A `--fail` value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}`: {what}; known: no-device, old-driver, ptx-rejected, oom-at=N, oom-bytes=N, launch-fails=KERNEL[:N], \
     async-error=KERNEL[:N]"
)]
pub struct UnknownFail {
    text: String,
    what: &'static str,
}

impl FromStr for Fail {
    type Err = UnknownFail;

    fn from_str(text: &str) -> Result<Self, UnknownFail> {
        let wrong = |what| UnknownFail {
            text: text.to_owned(),
            what,
        };
        let (word, value) = match text.split_once('=') {
            Some((word, value)) => (word, Some(value)),
            None => (text, None),
        };
        let number = || match value.and_then(|value| value.parse::<u64>().ok()) {
            Some(0) | None => Err(wrong("a number from 1 on is needed after `=`")),
            Some(number) => Ok(number),
        };
        let launch = || {
            let value = value.filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| wrong("a kernel name is needed after `=`"))?;
            let (kernel, nth) = match value.rsplit_once(':') {
                None => (value, 1),
                Some((kernel, nth)) => match nth.parse() {
                    Ok(nth) if nth > 0 => (kernel, nth),
                    _ => return Err(wrong("after `:` stands which launch, from 1")),
                },
            };
            Ok(Nth {
                kernel: kernel.to_owned(),
                nth,
            })
        };
        match word {
            "no-device" | "old-driver" | "ptx-rejected" if value.is_some() => {
                Err(wrong("it takes no value"))
            }
            "no-device" => Ok(Self::NoDevice),
            "old-driver" => Ok(Self::OldDriver),
            "ptx-rejected" => Ok(Self::PtxRejected),
            "oom-at" => number().map(Self::OutOfMemoryAt),
            "oom-bytes" => number().map(Self::OutOfMemoryBytes),
            "launch-fails" => launch().map(Self::LaunchFails),
            "async-error" => launch().map(Self::AsyncError),
            _ => Err(wrong("no such refusal")),
        }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("no-device"),
            Self::OldDriver => f.write_str("old-driver"),
            Self::PtxRejected => f.write_str("ptx-rejected"),
            Self::OutOfMemoryAt(n) => write!(f, "oom-at={n}"),
            Self::OutOfMemoryBytes(n) => write!(f, "oom-bytes={n}"),
            Self::LaunchFails(Nth { kernel, nth }) => write!(f, "launch-fails={kernel}:{nth}"),
            Self::AsyncError(Nth { kernel, nth }) => write!(f, "async-error={kernel}:{nth}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_survives_being_written_and_read() {
        let nth = |kernel: &str, nth| Nth {
            kernel: kernel.into(),
            nth,
        };
        for fail in [
            Fail::NoDevice,
            Fail::OldDriver,
            Fail::PtxRejected,
            Fail::OutOfMemoryAt(3),
            Fail::OutOfMemoryBytes(1 << 20),
            Fail::LaunchFails(nth("k", 1)),
            Fail::AsyncError(nth("k", 7)),
        ] {
            assert_eq!(fail.to_string().parse(), Ok(fail));
        }
        assert_eq!("launch-fails=k".parse(), Ok(Fail::LaunchFails(nth("k", 1))));
    }

    #[test]
    fn what_means_nothing_is_named() {
        for text in [
            "",
            "no-device=1",
            "oom-at",
            "oom-at=0",
            "oom-bytes=x",
            "launch-fails=",
            "async-error=k:0",
            "fire",
        ] {
            let error = text.parse::<Fail>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}`")) && error.contains("oom-at=N"),
                "{error}"
            );
        }
    }
}
