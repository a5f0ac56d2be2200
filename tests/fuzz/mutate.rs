//! Edits of valid inputs: of bytes, of little-endian and big-endian words, of pieces, and of the tokens of text.

/// SplitMix64.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    /// A place, more often near the beginning, where headers are, or near the end, where directories are.
    fn place(&mut self, length: usize) -> usize {
        let near = length.min(64);
        match self.below(4) {
            0 => self.below(near),
            1 => length - near + self.below(near),
            _ => self.below(length),
        }
    }
}

/// Values at which sizes, counts and offsets go wrong.
const WORDS: [u64; 16] = [
    0,
    1,
    2,
    7,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fff0,
    u64::MAX,
];

const TOKENS: [&str; 27] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "16",
    "255",
    "65536",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "1e-320",
    "nan",
    "inf",
    "-0.0",
    "true",
    "null",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "=",
    ".",
    "\n",
    "\\u0000",
    "é",
];

/// Some edits, one after another. `other` is another valid input, of which pieces are taken over.
pub fn mutate(input: &[u8], other: &[u8], text: bool, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + numbers.below(4) {
        if text && numbers.below(4) > 0 {
            bytes = edit_tokens(&bytes, numbers);
        } else {
            edit_bytes(&mut bytes, other, numbers);
        }
    }
    bytes
}

fn edit_bytes(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    let length = bytes.len();
    if length == 0 {
        bytes.extend(other);
        return;
    }
    let at = numbers.place(length);
    match numbers.below(10) {
        0 => bytes[at] ^= 1 << numbers.below(8),
        1 => bytes[at] = numbers.word() as u8,
        2 => bytes.truncate(at),
        3 => bytes.extend((0..numbers.below(20)).map(|i| i as u8)),
        4 | 5 => {
            let word = WORDS[numbers.below(WORDS.len())].wrapping_add(numbers.below(3) as u64);
            let width = [1, 2, 4, 8][numbers.below(4)];
            let word = if numbers.below(2) == 0 {
                word.to_le_bytes()[..width].to_vec()
            } else {
                word.to_be_bytes()[8 - width..].to_vec()
            };
            for (to, from) in bytes[at..].iter_mut().zip(word) {
                *to = from;
            }
        }
        6 => {
            let end = (at + 1 + numbers.below(32)).min(length);
            bytes.drain(at..end);
        }
        7 => {
            let end = (at + 1 + numbers.below(64)).min(length);
            let piece = bytes[at..end].to_vec();
            let to = numbers.place(length);
            bytes.splice(to..to, piece);
        }
        8 => {
            let from = numbers.place(other.len());
            let end = (from + 1 + numbers.below(64)).min(other.len());
            let replaced = (at + numbers.below(64)).min(length);
            bytes.splice(
                at..replaced,
                other.get(from..end).unwrap_or_default().to_vec(),
            );
        }
        // Deep nesting of whatever stands here.
        _ => {
            let piece = [bytes[at]].repeat(1 << numbers.below(12));
            bytes.splice(at..at, piece);
        }
    }
}

/// Words and single other characters, which joined are the text again.
fn tokens(text: &str) -> Vec<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..end]);
        rest = &rest[end..];
    }
    tokens
}

fn edit_tokens(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let mut list = tokens(&text);
    if list.is_empty() {
        return TOKENS[numbers.below(TOKENS.len())].into();
    }
    let (a, b) = (numbers.below(list.len()), numbers.below(list.len()));
    match numbers.below(7) {
        0 => list.swap(a, b),
        1 => drop(list.remove(a)),
        2 => list.insert(a, list[b]),
        3 => list[a] = list[b],
        4 => list.insert(a, TOKENS[numbers.below(TOKENS.len())]),
        // A number becomes another.
        _ => {
            let is_number = |token: &&str| token.starts_with(|c: char| c.is_ascii_digit());
            let found = (a..list.len()).find(|&at| is_number(&list[at]));
            list[found.unwrap_or(a)] = TOKENS[numbers.below(TOKENS.len())];
        }
    }
    list.concat().into_bytes()
}
