//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! A number is a pure function of `(seed, stream, step, element)`. There is no generator state, so neither thread
//! count nor batch split nor launch geometry can change a draw.
//!
//! | Philox word | holds |
//! |---|---|
//! | key 0, key 1 | low and high half of `seed` |
//! | counter 0, counter 1 | low and high half of the block `element / 4` |
//! | counter 2 | `stream`: what the numbers are for, see [`streams`] |
//! | counter 3 | `step`: training iteration, Langevin step or epoch |
//!
//! The four output words of block `b` belong to the elements `4b .. 4b+3` in order. Uniform and normal numbers are two
//! readings of the same word, so one stream serves one purpose.
//!
//! # Word to uniform
//!
//! `u = (word >> 9 + 0.5) * 2^-23`: exact in f32, strictly inside (0, 1), symmetric about 1/2.
//!
//! # Word to normal
//!
//! Inversion: the top bit is the sign, the other 31 bits `m` give the tail probability `p = (m + 0.5) * 2^-32` in
//! (0, 1/2], and `z = ±Q(p)`, Q the upper quantile. Small `p` keeps all its bits, so the tails are right to 6.3 sigma.
//! With `x = 1 - 2p` and `w = -log2(4 p (1 - p))`, the ratio `Q(p) / x` is smooth in `w` and needs two polynomials, of
//! `w` below 9 (|z| < 3.5, all but 1 in 1000 draws) and of `sqrt(w)` above. All coefficients here are Chebyshev fits
//! made for this file. Error against the exact quantile: below 1e-6 for |z| < 3.3 and below 2e-6 in
//! the tails (the tests check both).
//!
//! Every operation is one IEEE-754 operation (integer ops, `+ - *`, fused multiply-add, square root, conversion with
//! rounding to nearest), in a fixed order. A translation that keeps operations and order (in CUDA C++ `__fmaf_rn`,
//! `__fsqrt_rn` and no contraction of the rest) gives the same bits.

/// Streams that this crate draws from. One stream, one purpose; a new purpose takes a new number.
///
/// Models and chains count upwards from 0; what concerns data lies in the upper half, so neither can meet the other.
pub mod streams {
    /// Order of the items in an epoch; step = epoch.
    pub const DATA_SHUFFLE: u32 = 0x8000_0000;
    /// Horizontal flips; step = epoch, element = item.
    pub const DATA_FLIP: u32 = 0x8000_0001;
    /// Dynamic Bernoulli binarisation; step = epoch, element = item * values per image + value.
    pub const DATA_BINARISE: u32 = 0x8000_0002;
    /// Which digits a stacked image is made of.
    pub const DATA_STACK: u32 = 0x8000_0003;
    /// Labels and shape variation of the procedural glyph sets.
    pub const DATA_GLYPHS: u32 = 0x8000_0004;
    /// Grain of images.
    pub const DATA_GRAIN: u32 = 0x8000_0008;
    /// Where training cuts a picture; step = epoch, element = item.
    pub const DATA_CROP: u32 = 0x8000_0009;
    /// Start of the vectors of power iterations; step = vector.
    pub const POWER_VECTORS: u32 = 0x8000_0005;
    /// Which chains start from the replay buffer; step = iteration, element = chain.
    pub const BUFFER_CHOICE: u32 = 0x8000_0006;
    /// Which entries of the replay buffer they start from; step = iteration.
    pub const BUFFER_ENTRY: u32 = 0x8000_0007;
}

const MUL_0: u32 = 0xD251_1F53;
const MUL_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

/// The Philox4x32-10 bijection: encrypts `counter` under `key`.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox_lanes(counter.map(|word| [u64::from(word)]), key).map(|[word]| word as u32)
}

/// `L` independent counters side by side. Words stand in 64-bit lanes, upper half zero, because that is how vector units
/// multiply 32 by 32 bits: the rounds then need no shuffles, on any width.
#[inline(always)]
fn philox_lanes<const L: usize>(mut counter: [[u64; L]; 4], mut key: [u32; 2]) -> [[u64; L]; 4] {
    const LOW: u64 = 0xffff_ffff;
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = &mut counter;
        for lane in 0..L {
            let product_0 = u64::from(MUL_0) * (c0[lane] & LOW);
            let product_1 = u64::from(MUL_1) * (c2[lane] & LOW);
            c0[lane] = (product_1 >> 32) ^ c1[lane] ^ u64::from(key[0]);
            c1[lane] = product_1 & LOW;
            c2[lane] = (product_0 >> 32) ^ c3[lane] ^ u64::from(key[1]);
            c3[lane] = product_0 & LOW;
        }
        key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
    }
    counter
}

fn key_of(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The four words of block `block`, those of the elements `4 * block .. 4 * block + 3`.
pub fn words(seed: u64, stream: u32, step: u32, block: u64) -> [u32; 4] {
    philox4x32_10(
        [block as u32, (block >> 32) as u32, stream, step],
        key_of(seed),
    )
}

/// The random word of one element.
pub fn word(seed: u64, stream: u32, step: u32, element: u64) -> u32 {
    words(seed, stream, step, element / 4)[(element % 4) as usize]
}

/// One uniform number, strictly inside (0, 1).
pub fn uniform(seed: u64, stream: u32, step: u32, element: u64) -> f32 {
    word_to_uniform(word(seed, stream, step, element))
}

/// One standard normal number.
pub fn normal(seed: u64, stream: u32, step: u32, element: u64) -> f32 {
    word_to_normal(word(seed, stream, step, element))
}

/// Reads a random word as a number strictly inside (0, 1).
#[inline(always)]
pub fn word_to_uniform(word: u32) -> f32 {
    // Below 2^23, so the conversion, the sum and the scaling by a power of two are all exact.
    ((word >> 9) as i32 as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// `log2(1 + f) / f` for `1 + f` in [sqrt(1/2), sqrt(2)], highest power first; error 5e-8.
const LOG2: [f32; 9] = [
    0.123_109_68,
    -0.205_861_88,
    0.216_078_22,
    -0.239_169_88,
    0.287_903_25,
    -0.360_693_28,
    0.480_910_75,
    -0.721_347_45,
    std::f32::consts::LOG2_E,
];
/// `Q(p) / x` as a polynomial in `w - 4.5` for `w` in [0, 9], highest power first; error 1.8e-7.
const BODY: [f32; 10] = [
    -2.430_376_5e-10,
    -6.287_979_6e-10,
    4.641_531_6e-8,
    -2.420_931_4e-7,
    -3.131_429_1e-6,
    6.126_678e-5,
    -3.509_011_6e-4,
    -4.091_253e-3,
    0.235_486,
    2.336_638,
];
/// `Q(p) / x` as a polynomial in `sqrt(w) - 4.5` for `w` in [9, 31], highest power first; error 9.4e-7.
const TAIL: [f32; 8] = [
    -7.261_809_5e-5,
    1.093_506_9e-4,
    -8.937_261e-5,
    3.510_540_7e-4,
    -1.093_567_3e-3,
    2.032_418e-3,
    1.187_615_9,
    5.068_498,
];
const BODY_END: f32 = 9.0;
const CENTRE: f32 = 4.5;

#[inline(always)]
fn horner<const N: usize>(coefficients: &[f32; N], t: f32) -> f32 {
    let mut sum = coefficients[0];
    for &coefficient in &coefficients[1..] {
        sum = sum.mul_add(t, coefficient);
    }
    sum
}

/// Reads a random word as a standard normal number; the method stands at the head of this file.
#[inline(always)]
pub fn word_to_normal(word: u32) -> f32 {
    const TWO_POW_MINUS_32: f32 = 1.0 / 4_294_967_296.0;
    let m = (word & 0x7fff_ffff) as i32 as f32;
    let p = m.mul_add(TWO_POW_MINUS_32, 0.5 * TWO_POW_MINUS_32);
    let x = p.mul_add(-2.0, 1.0);
    let y = 4.0 * (-p).mul_add(p, p);

    // log2(y): the exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)), then the polynomial.
    const SQRT_HALF_BITS: i32 = 0x3f35_04f3;
    let bits = y.to_bits() as i32;
    let exponent = bits.wrapping_sub(SQRT_HALF_BITS) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(exponent << 23) as u32) - 1.0;
    let log2 = f.mul_add(horner(&LOG2, f), exponent as f32);
    // Rounding can leave log2(1) a hair above 0, which the square root would turn into NaN.
    let w = if log2 < 0.0 { -log2 } else { 0.0 };

    let body = horner(&BODY, w - CENTRE);
    let tail = horner(&TAIL, w.sqrt() - CENTRE);
    let ratio = if w < BODY_END { body } else { tail };
    // x >= 0 and ratio > 0: the sign bit of the product is clear until the word's top bit sets it.
    f32::from_bits((x * ratio).to_bits() | (word & 0x8000_0000))
}

/// Fills `out[i]` with the uniform number of element `first_element + i`.
pub fn fill_uniform(out: &mut [f32], seed: u64, stream: u32, step: u32, first_element: u64) {
    fill::<Uniform>(
        out,
        Counter {
            key: key_of(seed),
            stream,
            step,
        },
        first_element,
        Path::best(),
    );
}

/// Fills `out[i]` with the standard normal number of element `first_element + i`.
pub fn fill_normal(out: &mut [f32], seed: u64, stream: u32, step: u32, first_element: u64) {
    fill::<Normal>(
        out,
        Counter {
            key: key_of(seed),
            stream,
            step,
        },
        first_element,
        Path::best(),
    );
}

/// What the words of a fill become.
trait Law {
    fn of(word: u32) -> f32;
}

struct Uniform;
impl Law for Uniform {
    #[inline(always)]
    fn of(word: u32) -> f32 {
        word_to_uniform(word)
    }
}

struct Normal;
impl Law for Normal {
    #[inline(always)]
    fn of(word: u32) -> f32 {
        word_to_normal(word)
    }
}

/// Everything but the element.
#[derive(Clone, Copy)]
struct Counter {
    key: [u32; 2],
    stream: u32,
    step: u32,
}

/// The instruction set that a fill is compiled for. All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// What the target guarantees: on x86-64 no fused multiply-add in hardware, so this is the slow one there.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Path {
    fn best() -> Path {
        *Path::available().last().unwrap_or(&Path::Baseline)
    }

    /// The paths this machine can run, slowest first.
    fn available() -> &'static [Path] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return &[Path::Baseline, Path::Avx2, Path::Avx512];
            }
            if avx2 {
                return &[Path::Baseline, Path::Avx2];
            }
        }
        &[Path::Baseline]
    }
}

fn fill<W: Law>(out: &mut [f32], counter: Counter, first_element: u64, path: Path) {
    // Elements before the first whole block.
    let skip = (first_element % 4) as usize;
    let first_block = first_element / 4;
    if skip == 0 {
        return fill_blocks::<W>(out, counter, first_block, path);
    }
    let head = out.len().min(4 - skip);
    let (head, body) = out.split_at_mut(head);
    let mut block = [0.0; 4];
    fill_blocks::<W>(&mut block, counter, first_block, Path::Baseline);
    head.copy_from_slice(&block[skip..skip + head.len()]);
    fill_blocks::<W>(body, counter, first_block.wrapping_add(1), path);
}

fn fill_blocks<W: Law>(out: &mut [f32], counter: Counter, first_block: u64, path: Path) {
    match path {
        Path::Baseline => fill_lanes::<W, 4>(out, counter, first_block),
        // SAFETY: `Path::available` lists this variant only after it has found AVX2 and FMA on this machine. The
        // function is safe Rust otherwise.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { fill_avx2::<W>(out, counter, first_block) },
        // SAFETY: as above, for AVX-512F.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { fill_avx512::<W>(out, counter, first_block) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fill_avx2<W: Law>(out: &mut [f32], counter: Counter, first_block: u64) {
    fill_lanes::<W, 16>(out, counter, first_block);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn fill_avx512<W: Law>(out: &mut [f32], counter: Counter, first_block: u64) {
    fill_lanes::<W, 16>(out, counter, first_block);
}

/// Fills `out` from the start of `first_block`, `L` blocks at a time.
#[inline(always)]
fn fill_lanes<W: Law, const L: usize>(out: &mut [f32], counter: Counter, mut first_block: u64) {
    let mut chunks = out.chunks_exact_mut(4 * L);
    for chunk in &mut chunks {
        write_blocks::<W, L>(chunk, counter, first_block);
        first_block = first_block.wrapping_add(L as u64);
    }
    for rest in chunks.into_remainder().chunks_mut(4) {
        let mut block = [0.0; 4];
        write_blocks::<W, 1>(&mut block, counter, first_block);
        rest.copy_from_slice(&block[..rest.len()]);
        first_block = first_block.wrapping_add(1);
    }
}

#[inline(always)]
fn write_blocks<W: Law, const L: usize>(chunk: &mut [f32], counter: Counter, first_block: u64) {
    let blocks: [u64; L] = std::array::from_fn(|lane| first_block.wrapping_add(lane as u64));
    let counters = [
        blocks.map(|block| block & 0xffff_ffff),
        blocks.map(|block| block >> 32),
        [u64::from(counter.stream); L],
        [u64::from(counter.step); L],
    ];
    let words = philox_lanes(counters, counter.key);
    let mut blocks = [[0; 4]; L];
    for (lane, block) in blocks.iter_mut().enumerate() {
        *block = [0, 1, 2, 3].map(|word: usize| words[word][lane] as u32);
    }
    for (out, &word) in chunk.iter_mut().zip(blocks.as_flattened()) {
        *out = W::of(word);
    }
}

#[cfg(test)]
mod tests;
