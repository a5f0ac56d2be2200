//! Source locations from `.file`, `.loc` and the strings that name inlined functions.

use std::collections::HashMap;

use crate::finding::SourceLocation;

/// File number, line, column.
type Place = [u32; 3];

#[derive(Debug)]
struct Entry {
    place: Place,
    function: Option<String>,
    inlined_at: Option<Place>,
}

/// The line table of a module.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    files: HashMap<u32, String>,
    strings: HashMap<String, String>,
    entries: Vec<Entry>,
    /// The last entry at a place that was itself inlined: the outer links of a chain.
    inlined: HashMap<Place, usize>,
}

impl Lines {
    pub fn add_file(&mut self, number: u32, name: &str) {
        self.files.insert(number, name.to_owned());
    }

    pub fn add_string(&mut self, label: &str, bytes: &[u8]) {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        self.strings.insert(
            label.to_owned(),
            String::from_utf8_lossy(&bytes[..end]).into_owned(),
        );
    }

    /// Adds a `.loc`; returns its number, from 1.
    pub fn add_place(
        &mut self,
        place: Place,
        function: Option<&str>,
        inlined_at: Option<Place>,
    ) -> u32 {
        self.entries.push(Entry {
            place,
            function: function.map(str::to_owned),
            inlined_at,
        });
        if inlined_at.is_some() {
            self.inlined.insert(place, self.entries.len() - 1);
        }
        self.entries.len() as u32
    }

    fn location(&self, place: Place, function: Option<&String>) -> SourceLocation {
        let [file, line, column] = place;
        SourceLocation {
            file: self
                .files
                .get(&file)
                .cloned()
                .unwrap_or_else(|| format!("file {file}")),
            line,
            column,
            function: function.map(|label| self.strings.get(label).unwrap_or(label).clone()),
        }
    }

    /// The place of `.loc` number `loc` and the calls that it was inlined through, innermost first.
    pub fn chain(&self, loc: u32) -> Vec<SourceLocation> {
        let mut chain = Vec::new();
        let Some(mut entry) = (loc as usize)
            .checked_sub(1)
            .and_then(|i| self.entries.get(i))
        else {
            return chain;
        };
        // Line 0 means that the compiler had no place for the instruction.
        if entry.place[1] == 0 {
            return chain;
        }
        chain.push(self.location(entry.place, entry.function.as_ref()));
        // A malformed table could run in circles, hence the bound.
        while let Some(outer) = entry.inlined_at
            && chain.len() < 64
        {
            let next = self.inlined.get(&outer).map(|i| &self.entries[*i]);
            chain.push(self.location(outer, next.and_then(|e| e.function.as_ref())));
            match next {
                Some(next) => entry = next,
                None => break,
            }
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_inlining_outwards() {
        let mut lines = Lines::default();
        lines.add_file(1, "a.cu");
        lines.add_string("$str0", b"inner\0");
        lines.add_place([1, 20, 3], Some("$str1"), Some([1, 30, 3]));
        let loc = lines.add_place([1, 10, 5], Some("$str0"), Some([1, 20, 3]));
        let chain = lines.chain(loc);
        assert_eq!(
            chain.iter().map(|place| place.line).collect::<Vec<_>>(),
            [10, 20, 30]
        );
        assert_eq!(chain[0].function.as_deref(), Some("inner"));
        assert_eq!(chain[0].file, "a.cu");
        assert!(lines.chain(0).is_empty());
    }

    #[test]
    fn survives_a_circle() {
        let mut lines = Lines::default();
        let loc = lines.add_place([1, 1, 1], None, Some([1, 1, 1]));
        assert_eq!(lines.chain(loc).len(), 64);
    }
}
