//! A launch on a GPU as data: what an op's `cuda.rs` says and [`crate::device::cuda`] carries out.
//!
//! Nothing here touches a driver, so kernel names, arguments and geometry are built and tested on any machine.

use bytemuck::Pod;

use super::Shapes;

/// How matrix products compute on a GPU. Sums are `f32` in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision on the ordinary units.
    #[default]
    F32,
    /// Tensor cores, factors rounded to 11 significant bits.
    Tf32,
    /// Tensor cores, factors rounded to 8 significant bits; intermediates that all their kernels take so are stored so ([`Narrow`]).
    Bf16,
}

impl Precision {
    /// All of them, most exact first.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

    /// As kernel names end: `conv2d_fprop_bf16`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// A tensor of the launch's op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tensor {
    /// Input of this index.
    Input(usize),
    /// Output of this index.
    Output(usize),
    /// Update of this index.
    Update(usize),
    /// The scratch that all launches of an op share; its content does not outlive the op.
    Workspace,
    /// What this op leaves for a later one, or finds of an earlier one: [`GpuKernel::kept`].
    Kept,
}

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stored {
    /// Single precision.
    #[default]
    F32,
    /// Its upper half, rounded to nearest, ties to even: 8 significant bits and the range of `f32`, so that gradients need no scaling.
    Bf16,
}

impl Stored {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::Bf16 => 2,
        }
    }
}

/// Which of an op's tensors are stored as bf16; all others, its updates, the scratch and what it keeps are `f32`. Of more than 64 inputs
/// or outputs the ones behind are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Narrow {
    inputs: u64,
    outputs: u64,
}

fn bit(index: usize) -> u64 {
    u32::try_from(index).map_or(0, |i| 1u64.checked_shl(i).unwrap_or(0))
}

impl Narrow {
    /// None of them.
    pub const NONE: Narrow = Narrow {
        inputs: 0,
        outputs: 0,
    };

    /// All of them.
    pub const ALL: Narrow = Narrow {
        inputs: u64::MAX,
        outputs: u64::MAX,
    };

    /// The inputs and outputs of these indices.
    pub fn new(inputs: &[usize], outputs: &[usize]) -> Self {
        let mask = |indices: &[usize]| indices.iter().fold(0, |mask, i| mask | bit(*i));
        Narrow {
            inputs: mask(inputs),
            outputs: mask(outputs),
        }
    }

    /// How a tensor is stored.
    pub fn stored(self, tensor: Tensor) -> Stored {
        let narrow = match tensor {
            Tensor::Input(i) => self.inputs & bit(i) != 0,
            Tensor::Output(i) => self.outputs & bit(i) != 0,
            Tensor::Update(_) | Tensor::Workspace | Tensor::Kept => false,
        };
        if narrow { Stored::Bf16 } else { Stored::F32 }
    }

    /// Whether a tensor is stored as bf16.
    pub fn has(self, tensor: Tensor) -> bool {
        self.stored(tensor) == Stored::Bf16
    }

    /// Those that are in both.
    pub fn and(self, other: Narrow) -> Self {
        Narrow {
            inputs: self.inputs & other.inputs,
            outputs: self.outputs & other.outputs,
        }
    }

    /// One flag for each of these tensors, the first in bit 0: as kernels whose name ends in `_h` take it.
    pub fn flags(self, tensors: impl IntoIterator<Item = Tensor>) -> u32 {
        (tensors.into_iter().enumerate())
            .fold(0, |flags, (i, t)| flags | u32::from(self.has(t)) << i)
    }
}

/// One 64-bit entry of a table that a kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The address of an element of a tensor.
    Address(Tensor, usize),
    /// A number.
    Number(u64),
}

/// One kernel argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// The address of an element of a tensor (8 bytes).
    Address(Tensor, usize),
    /// A number or a `#[repr(C)]` struct by value.
    Value(Vec<u8>),
    /// The address of a table in device memory, written once when a program is prepared (8 bytes).
    Table(Vec<Word>),
    /// The address of the counter of this step's noise, [`NoiseCounter`] (8 bytes).
    Noise,
    /// The null address: an optional tensor that is not there (8 bytes).
    Null,
}

impl Arg {
    /// Its size among the kernel's parameters.
    pub fn bytes(&self) -> usize {
        match self {
            Arg::Value(bytes) => bytes.len(),
            _ => size_of::<u64>(),
        }
    }
}

/// What kernels that draw noise read: [`super::Noise`] in device memory, so that a captured graph can be replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct NoiseCounter {
    /// The seed of the run.
    pub seed: u64,
    /// The global number of the first sample of this batch.
    pub first_sample: u64,
    /// The step within the run.
    pub step: u32,
    /// Unused; zero.
    pub reserved: u32,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuLaunch {
    /// The file under `kernels`, without extension.
    pub module: &'static str,
    /// The kernel in it.
    pub function: String,
    /// Blocks along x, y, z. A zero means that there is nothing to do: the launch is left out.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
    /// Arguments in the order of the kernel's parameters.
    pub args: Vec<Arg>,
}

/// Threads of a block where nothing asks for another number.
pub const THREADS: u32 = 256;

/// Numbers of bf16 that an access of 16 bytes moves: kernels whose name ends in `_h` count in them.
pub const EIGHT: usize = 8;

/// The largest number of elements of a tensor on a GPU: kernels count in 32 bits.
pub const MAX_ELEMENTS: usize = i32::MAX as usize;

impl GpuLaunch {
    /// A launch of one block without arguments.
    pub fn new(module: &'static str, function: impl Into<String>) -> Self {
        GpuLaunch {
            module,
            function: function.into(),
            grid: [1; 3],
            block: [THREADS, 1, 1],
            shared: 0,
            args: Vec::new(),
        }
    }

    /// One thread for each of `count` things, in blocks of [`THREADS`].
    ///
    /// # Panics
    /// Beyond 2^31 blocks.
    pub fn threads_for(self, count: usize) -> Self {
        self.blocks(count.div_ceil(THREADS as usize))
    }

    /// So many blocks along x.
    ///
    /// # Panics
    /// Beyond 2^31 blocks.
    pub fn blocks(self, count: usize) -> Self {
        self.grid([count, 1, 1])
    }

    /// Blocks along x, y, z.
    ///
    /// # Panics
    /// Beyond 2^32 blocks: the tensors would be larger than [`MAX_ELEMENTS`].
    pub fn grid(mut self, extents: [usize; 3]) -> Self {
        self.grid = extents.map(|e| u32::try_from(e).expect("a grid has fewer than 2^32 blocks"));
        self
    }

    /// Threads of a block along x.
    pub fn block(mut self, threads: u32) -> Self {
        self.block = [threads, 1, 1];
        self
    }

    /// Dynamic shared memory of a block.
    pub fn shared(mut self, bytes: usize) -> Self {
        self.shared = u32::try_from(bytes).expect("shared memory is measured in kilobytes");
        self
    }

    fn arg(mut self, arg: Arg) -> Self {
        self.args.push(arg);
        self
    }

    /// The address of an input.
    pub fn input(self, index: usize) -> Self {
        self.arg(Arg::Address(Tensor::Input(index), 0))
    }

    /// The address of an input, or null where the op has none.
    pub fn input_or_null(self, index: Option<usize>) -> Self {
        match index {
            Some(index) => self.input(index),
            None => self.null(),
        }
    }

    /// The null address: a tensor that is not there.
    pub fn null(self) -> Self {
        self.arg(Arg::Null)
    }

    /// The same launch on other tensors: `place` tells where each tensor's elements begin.
    pub fn placed(mut self, place: impl Fn(Tensor) -> (Tensor, usize)) -> Self {
        let moved = |tensor: Tensor, offset: usize| {
            let (tensor, base) = place(tensor);
            (tensor, base + offset)
        };
        for arg in &mut self.args {
            match arg {
                Arg::Address(tensor, offset) => (*tensor, *offset) = moved(*tensor, *offset),
                Arg::Table(words) => {
                    for word in words {
                        if let Word::Address(tensor, offset) = word {
                            (*tensor, *offset) = moved(*tensor, *offset);
                        }
                    }
                }
                Arg::Value(_) | Arg::Noise | Arg::Null => {}
            }
        }
        self
    }

    /// The address of an output.
    pub fn output(self, index: usize) -> Self {
        self.arg(Arg::Address(Tensor::Output(index), 0))
    }

    /// The address of a state that is changed in place.
    pub fn update(self, index: usize) -> Self {
        self.arg(Arg::Address(Tensor::Update(index), 0))
    }

    /// The address of the scratch's element `offset`.
    pub fn workspace(self, offset: usize) -> Self {
        self.arg(Arg::Address(Tensor::Workspace, offset))
    }

    /// An element's address in any tensor.
    pub fn address(self, tensor: Tensor, offset: usize) -> Self {
        self.arg(Arg::Address(tensor, offset))
    }

    /// A number or struct by value, as C lays it out.
    pub fn value<T: Pod>(self, value: T) -> Self {
        self.arg(Arg::Value(bytemuck::bytes_of(&value).to_vec()))
    }

    /// A count or extent as `unsigned int`.
    ///
    /// # Panics
    /// Beyond 2^32; no tensor is larger than [`MAX_ELEMENTS`].
    pub fn count(self, value: usize) -> Self {
        self.value(u32::try_from(value).expect("counts fit 32 bits"))
    }

    /// A real number as `float`.
    pub fn real(self, value: f64) -> Self {
        self.value(value as f32)
    }

    /// The address of a table.
    pub fn table(self, words: Vec<Word>) -> Self {
        self.arg(Arg::Table(words))
    }

    /// The address of the noise counter.
    pub fn noise(self) -> Self {
        self.arg(Arg::Noise)
    }
}

/// Room that an op fills for a later op of the plan, such as its gradient: an affair of these kernels alone, so no tensor of the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Both ops have these two tensors; no two pairs of a plan share both at a time.
    pub beside: [Tensor; 2],
    /// Elements of `f32`.
    pub len: usize,
    /// Whether this op fills the room; otherwise it reads it. Where nothing reads it, [`Tensor::Kept`] is the null address.
    pub fills: bool,
}

/// What an op does on a GPU: its launches in order, and the scratch they share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuKernel {
    /// Launches in order.
    pub launches: Vec<GpuLaunch>,
    /// Elements of `f32` scratch.
    pub workspace: usize,
    /// The room that it shares with another op.
    pub kept: Option<Kept>,
}

impl From<GpuLaunch> for GpuKernel {
    fn from(launch: GpuLaunch) -> Self {
        GpuKernel {
            launches: vec![launch],
            ..GpuKernel::default()
        }
    }
}

impl GpuKernel {
    /// Several launches that share `workspace` elements of scratch.
    pub fn new(launches: Vec<GpuLaunch>, workspace: usize) -> Self {
        GpuKernel {
            launches,
            workspace,
            kept: None,
        }
    }

    /// The same with room that it shares with another op.
    pub fn keeping(self, kept: Option<Kept>) -> Self {
        GpuKernel { kept, ..self }
    }
}

/// What an op knows when it chooses its kernels.
#[derive(Clone, Copy, Debug)]
pub struct GpuContext<'a> {
    /// The shapes of its tensors.
    pub shapes: Shapes<'a>,
    /// How matrix products compute.
    pub precision: Precision,
    /// Bytes of shared memory that a block can have on this GPU.
    pub shared: usize,
    /// Whether the GPU runs code for compute capability 9.0 and no other: products of a warpgroup, bulk copies.
    pub sm_90a: bool,
    /// Whether an op that fills what this one would read stands before it.
    pub kept: bool,
    /// Which tensors are stored as bf16; proposed where the op is asked what it takes, decided where it makes its launches.
    pub narrow: Narrow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_64_tensors_are_single_precision() {
        let all = Narrow::ALL;
        assert!(all.has(Tensor::Input(63)) && all.has(Tensor::Output(0)));
        for tensor in [
            Tensor::Input(64),
            Tensor::Output(usize::MAX),
            Tensor::Update(0),
            Tensor::Workspace,
            Tensor::Kept,
        ] {
            assert_eq!(all.stored(tensor), Stored::F32);
        }
    }

    #[test]
    fn flags_are_in_the_order_of_the_arguments() {
        let narrow = Narrow::new(&[1], &[0]);
        let [a, b, y] = [Tensor::Input(0), Tensor::Input(1), Tensor::Output(0)];
        assert_eq!(narrow.flags([a, b, y]), 0b110);
        assert_eq!(
            narrow.and(Narrow::new(&[0, 1], &[])).flags([a, b, y]),
            0b010
        );
    }
}
