//! The zip form: an archive whose members are stored, not compressed, because PyTorch maps them.
//!
//! Only what PyTorch writes is accepted. A compressed member is refused, so there is nothing to unpack and no bomb;
//! members may not overlap, so a file cannot claim more than it holds; a name that climbs out of the archive is
//! refused although nothing is ever written by it.

use super::pickle::parse;
use super::storage::Storages;
use super::value::Value;
use std::collections::HashMap;
use std::ops::Range;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const END_LENGTH: usize = 22;
/// A comment after the end record can be this long.
const LONGEST_COMMENT: usize = u16::MAX as usize;
/// More members than any model has tensors.
const MOST_MEMBERS: u64 = 1 << 20;
/// Marker of a value that stands in the zip64 extra field.
const IN_EXTRA: u32 = u32::MAX;

pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    let members = members(bytes)?;
    let mut pickles = members.keys().filter(|name| name.ends_with("/data.pkl"));
    let pickle_name = pickles
        .next()
        .ok_or("the archive has no data.pkl: not a file that torch.save wrote")?;
    if pickles.next().is_some() {
        return Err("the archive has more than one data.pkl".into());
    }
    let prefix = &pickle_name[..pickle_name.len() - "data.pkl".len()];
    if let Some(order) = members.get(&format!("{prefix}byteorder"))
        && bytes[order.clone()].trim_ascii() != b"little"
    {
        return Err("it was saved on a big-endian machine, which is not supported".into());
    }
    let pickle = &bytes[members[pickle_name].clone()];
    let (document, used) = parse(pickle)?;
    if used != pickle.len() {
        return Err(format!(
            "data.pkl has {} bytes after its end",
            pickle.len() - used
        ));
    }
    let mut storages = Storages::new(bytes.len());
    for storage in document.storages() {
        let name = format!("{prefix}data/{}", storage.key);
        let range = members
            .get(&name)
            .ok_or_else(|| format!("the archive has no {name}"))?;
        storages.add(storage, &bytes[range.clone()])?;
    }
    document.resolve(&storages)
}

/// Members by name, and where their bytes lie.
fn members(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, String> {
    let (count, directory) = directory(bytes)?;
    let mut members = HashMap::new();
    let mut extents = Vec::new();
    let mut rest = &bytes[directory.clone()];
    for _ in 0..count {
        let (name, range, used) = member(bytes, rest)?;
        rest = &rest[used..];
        extents.push(range.clone());
        if members.insert(name.clone(), range).is_some() {
            return Err(format!("the archive has two members {name}"));
        }
    }
    extents.sort_by_key(|range| (range.start, range.end));
    if extents.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err("members of the archive overlap".into());
    }
    if extents
        .last()
        .is_some_and(|range| range.end > directory.start)
    {
        return Err("a member of the archive reaches into its directory".into());
    }
    Ok(members)
}

/// Number of members and where the central directory lies.
fn directory(bytes: &[u8]) -> Result<(u64, Range<usize>), String> {
    let truncated = || "the archive has no end record: the file is truncated".to_string();
    let last = bytes.len().checked_sub(END_LENGTH).ok_or_else(truncated)?;
    let first = last.saturating_sub(LONGEST_COMMENT);
    let end = (first..=last)
        .rev()
        .find(|&at| {
            bytes[at..].starts_with(&END)
                && at + END_LENGTH + usize::from(u16_at(bytes, at + 20)) == bytes.len()
        })
        .ok_or_else(truncated)?;
    let mut count = u64::from(u16_at(bytes, end + 10));
    let mut length = u64::from(u32_at(bytes, end + 12));
    let mut start = u64::from(u32_at(bytes, end + 16));
    if count == u64::from(u16::MAX) || length == u64::from(IN_EXTRA) || start == u64::from(IN_EXTRA)
    {
        let locator = end
            .checked_sub(20)
            .filter(|&at| bytes[at..].starts_with(&LOCATOR_64))
            .ok_or_else(truncated)?;
        let record = usize::try_from(u64_at(bytes, locator + 8)).ok();
        let record = record
            .filter(|&at| {
                at.checked_add(56).is_some_and(|past| past <= locator)
                    && bytes[at..].starts_with(&END_64)
            })
            .ok_or("the archive's zip64 record lies outside the file")?;
        count = u64_at(bytes, record + 32);
        length = u64_at(bytes, record + 40);
        start = u64_at(bytes, record + 48);
    }
    if count > MOST_MEMBERS {
        return Err(format!("the archive claims {count} members"));
    }
    let past = start.checked_add(length).filter(|&past| past <= end as u64);
    let past = past.ok_or("the archive's directory lies outside the file")?;
    // Both are within the file, so they fit.
    Ok((count, start as usize..past as usize))
}

/// Reads one entry of the central directory: name, where the bytes lie, length of the entry.
fn member(bytes: &[u8], entry: &[u8]) -> Result<(String, Range<usize>, usize), String> {
    if entry.len() < 46 || !entry.starts_with(&CENTRAL) {
        return Err("the archive's directory is damaged".into());
    }
    let (flags, method) = (u16_at(entry, 8), u16_at(entry, 10));
    let (packed, unpacked) = (u32_at(entry, 20), u32_at(entry, 24));
    let name_length = usize::from(u16_at(entry, 28));
    let extra_length = usize::from(u16_at(entry, 30));
    let used = 46 + name_length + extra_length + usize::from(u16_at(entry, 32));
    if entry.len() < used {
        return Err("the archive's directory is damaged".into());
    }
    let raw_name = &entry[46..46 + name_length];
    let name = std::str::from_utf8(raw_name).map_err(|_| "a member's name is not UTF-8")?;
    let drive = name.as_bytes().get(1) == Some(&b':');
    let climbs = name.split('/').any(|part| part == "..");
    if name.starts_with('/') || drive || climbs || name.contains(['\\', '\0']) {
        return Err(format!(
            "the member name {name:?} is a path out of the archive"
        ));
    }
    if flags & 1 != 0 {
        return Err(format!("{name} is encrypted"));
    }
    let mut wide = Wide(zip64_extra(
        &entry[46 + name_length..46 + name_length + extra_length],
    ));
    // The order is the format's: unpacked, packed, offset, each only if its 32-bit field is full.
    let unpacked = wide.widen(unpacked)?;
    let packed = wide.widen(packed)?;
    let offset = wide.widen(u32_at(entry, 42))?;
    if method != 0 || packed != unpacked {
        return Err(format!(
            "{name} is compressed, which torch.save never does; unpack the archive and store it again"
        ));
    }
    let outside = || format!("{name} lies outside the file: truncated");
    let local = usize::try_from(offset)
        .ok()
        .filter(|&at| at < bytes.len())
        .ok_or_else(outside)?;
    let header = &bytes[local..];
    if header.len() < 30 || !header.starts_with(&LOCAL) {
        return Err(format!("{name} has no local header"));
    }
    let start = 30 + usize::from(u16_at(header, 26)) + usize::from(u16_at(header, 28));
    if header.get(30..30 + usize::from(u16_at(header, 26))) != Some(raw_name) {
        return Err(format!("{name} has another name in its local header"));
    }
    let start = local + start;
    let end = usize::try_from(unpacked)
        .ok()
        .and_then(|length| start.checked_add(length));
    let end = end.filter(|&end| end <= bytes.len()).ok_or_else(outside)?;
    Ok((name.into(), start..end, used))
}

/// The zip64 block among the extra fields, empty if there is none.
fn zip64_extra(mut extra: &[u8]) -> &[u8] {
    while extra.len() >= 4 {
        let length = usize::from(u16_at(extra, 2));
        let Some(block) = extra.get(4..4 + length) else {
            break;
        };
        if u16_at(extra, 0) == 1 {
            return block;
        }
        extra = &extra[4 + length..];
    }
    &[]
}

/// Takes 64-bit values from a zip64 block in order.
struct Wide<'a>(&'a [u8]);

impl Wide<'_> {
    fn widen(&mut self, narrow: u32) -> Result<u64, String> {
        if narrow != IN_EXTRA {
            return Ok(u64::from(narrow));
        }
        let (value, rest) = self
            .0
            .split_first_chunk()
            .ok_or("a zip64 value is missing")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*value))
    }
}

// Callers have checked that the bytes are there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
