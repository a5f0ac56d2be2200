//! The form before PyTorch 1.6: five pickles one after another (magic number, protocol, system, the value, the keys of
//! its storages), then each storage as an element count and its bytes.

use super::pickle::parse;
use super::storage::Storages;
use super::value::Value;

/// How such a file begins: the magic number 0x1950a86a20f9469cfc6c, pickled.
const MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;

pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    let none = Storages::new(bytes.len());
    let mut rest = &bytes[MAGIC.len()..];
    let mut next = || -> Result<_, String> {
        let (document, used) = parse(rest)?;
        rest = &rest[used..];
        Ok(document)
    };
    if next()?.resolve(&none)?.as_int() != Some(PROTOCOL) {
        return Err(format!(
            "its protocol is not {PROTOCOL}, the only one of that form"
        ));
    }
    if next()?.resolve(&none)?.get("little_endian") != Some(&Value::Bool(true)) {
        return Err("it was saved on a big-endian machine, which is not supported".into());
    }
    let document = next()?;
    let keys = next()?.resolve(&none)?;
    let keys = keys
        .as_slice()
        .ok_or("the list of its storages is no list")?;
    let mut storages = Storages::new(bytes.len());
    for key in keys {
        let key = key.as_str().ok_or("a key of its storages is no text")?;
        let storage = document
            .storage(key)
            .ok_or_else(|| format!("it lists a storage {key}, which nothing refers to"))?;
        let truncated = || format!("storage {key} is truncated");
        let (count, after) = rest.split_first_chunk().ok_or_else(truncated)?;
        let count = u64::from_le_bytes(*count);
        let length = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(storage.dtype.size()));
        let length = length
            .filter(|&length| length <= after.len())
            .ok_or_else(truncated)?;
        let (data, after) = after.split_at(length);
        storages.add(storage, data)?;
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!(
            "it has {} bytes after its last storage",
            rest.len()
        ));
    }
    document.resolve(&storages)
}
