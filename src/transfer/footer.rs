//! Where the columns of a Parquet file are, from its footer; pure.
//!
//! Reads the little of it that says so (Thrift's compact encoding), and believes nothing: a footer
//! that is damaged, or of another kind, has no columns.

use crate::object::ByteRange;

/// What the end of the file says: how long its footer is, and its kind.
pub const TAIL: usize = 8;
/// A longer footer is not looked at.
const MOST: u64 = 4 << 20;
/// What is nested deeper is no footer.
const DEPTH: usize = 24;

/// Where the footer is, in a file of `size` bytes that ends with `tail`; none if it has none.
pub fn place(tail: [u8; TAIL], size: u64) -> Option<ByteRange> {
    let [a, b, c, d, magic @ ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let end = size.checked_sub(TAIL as u64)?;
    (&magic == b"PAR1" && length <= MOST).then_some(end.checked_sub(length)?..end)
}

/// The columns of every group of rows, in the file's order; those that lie outside of `0..end`, or
/// over one another, are left out.
pub fn columns(footer: &[u8], end: u64) -> Option<Vec<ByteRange>> {
    let mut found = Vec::new();
    let mut reader = Reader { left: footer };
    reader.fields(|reader, field, kind| match (field, kind) {
        (4, LIST) => reader.each(|reader, kind| reader.group(kind, &mut found)),
        _ => reader.skip(kind, 0),
    })?;
    found.retain(|column| column.start < column.end && column.end <= end);
    found.sort_by_key(|column| column.start);
    let mut last = 0;
    found.retain(|column| {
        let is_apart = column.start >= last;
        last = last.max(column.end);
        is_apart
    });
    Some(found)
}

// Thrift's kinds of values.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn group(&mut self, kind: u8, found: &mut Vec<ByteRange>) -> Option<()> {
        if kind != STRUCT {
            return None;
        }
        self.fields(|reader, field, kind| match (field, kind) {
            (1, LIST) => reader.each(|reader, kind| reader.chunk(kind, found)),
            _ => reader.skip(kind, 0),
        })
    }

    fn chunk(&mut self, kind: u8, found: &mut Vec<ByteRange>) -> Option<()> {
        if kind != STRUCT {
            return None;
        }
        let (mut elsewhere, mut column) = (false, None);
        self.fields(|reader, field, kind| match (field, kind) {
            (1, BINARY) => {
                elsewhere = true;
                reader.skip(kind, 0)
            }
            (3, STRUCT) => {
                column = reader.column()?;
                Some(())
            }
            _ => reader.skip(kind, 0),
        })?;
        found.extend(column.filter(|_| !elsewhere));
        Some(())
    }

    /// Outer none: this is no footer. Inner none: it does not say where it is.
    fn column(&mut self) -> Option<Option<ByteRange>> {
        let (mut length, mut data, mut dictionary) = (None, None, None);
        self.fields(|reader, field, kind| {
            let place = match (field, kind) {
                (7, I64) => &mut length,
                (9, I64) => &mut data,
                (11, I64) => &mut dictionary,
                _ => return reader.skip(kind, 0),
            };
            *place = u64::try_from(reader.integer()?).ok();
            Some(())
        })?;
        let range = || {
            let data: u64 = data?;
            // Writers that have no dictionary may say that it is at 0.
            let start = dictionary
                .filter(|at| *at > 0)
                .map_or(data, |at| data.min(at));
            Some(start..start.checked_add(length?)?)
        };
        Some(range())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.left.split_first()?;
        self.left = rest;
        Some(*first)
    }

    fn pass(&mut self, count: usize) -> Option<()> {
        self.left = self.left.get(count..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Every field of a struct: `each` has to read its value.
    fn fields(
        &mut self,
        mut each: impl FnMut(&mut Reader<'a>, i64, u8) -> Option<()>,
    ) -> Option<()> {
        let mut field = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            field = match head >> 4 {
                0 => self.integer()?,
                step => field.checked_add(i64::from(step))?,
            };
            each(self, field, head & 0x0f)?;
        }
    }

    /// Every element of a list: `each` has to read it.
    fn each(&mut self, mut each: impl FnMut(&mut Reader<'a>, u8) -> Option<()>) -> Option<()> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        for _ in 0..count {
            each(self, head & 0x0f)?;
        }
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match kind {
            // In a field's head; in a list, a byte each.
            TRUE | FALSE => Some(()),
            BYTE => self.pass(1),
            I16..=I64 => self.varint().map(|_| ()),
            DOUBLE => self.pass(8),
            UUID => self.pass(16),
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.pass(length)
            }
            LIST | SET => self.each(|reader, kind| reader.skip_element(kind, depth + 1)),
            MAP => self.skip_map(depth + 1),
            STRUCT => self.fields(|reader, _, kind| reader.skip(kind, depth + 1)),
            _ => None,
        }
    }

    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            TRUE | FALSE => self.pass(1),
            _ => self.skip(kind, depth),
        }
    }

    fn skip_map(&mut self, depth: usize) -> Option<()> {
        let count = self.varint()?;
        if count == 0 {
            return Some(());
        }
        let kinds = self.byte()?;
        for _ in 0..count {
            self.skip_element(kinds >> 4, depth)?;
            self.skip_element(kinds & 0x0f, depth)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn integer(field_step: u8, value: u64) -> Vec<u8> {
        [vec![field_step << 4 | I64], varint(value << 1)].concat()
    }

    /// A footer with these columns in one group, and what every writer puts around them.
    fn footer(columns: &[ByteRange]) -> Vec<u8> {
        let chunks: Vec<u8> = columns
            .iter()
            .flat_map(|column| {
                let meta = [
                    // Its name, as a list of texts; then length, data page, dictionary page.
                    vec![3 << 4 | LIST, 1 << 4 | BINARY, 2, b'a', b'b'],
                    integer(4, column.end - column.start),
                    integer(2, column.start + 4),
                    integer(2, column.start),
                    vec![0],
                ];
                [
                    vec![2 << 4 | I64, 8, 1 << 4 | STRUCT],
                    meta.concat(),
                    vec![0],
                ]
                .concat()
            })
            .collect();
        let count = varint(columns.len() as u64);
        let group = [
            vec![1 << 4 | LIST, 15 << 4 | STRUCT],
            count,
            chunks,
            vec![0],
        ];
        let version = vec![1 << 4 | 5, 4];
        let groups = vec![3 << 4 | LIST, 1 << 4 | STRUCT];
        [version, groups, group.concat(), vec![0]].concat()
    }

    #[test]
    fn columns_are_found_in_order() {
        let columns_there = [4..104, 104..300, 1000..70_000];
        let footer = footer(&columns_there);
        assert_eq!(columns(&footer, 80_000).unwrap(), columns_there);
        // What lies outside of the file counts for nothing.
        assert_eq!(columns(&footer, 5000).unwrap(), columns_there[..2]);
        let mut tail = [0; TAIL];
        tail[..4].copy_from_slice(&(footer.len() as u32).to_le_bytes());
        tail[4..].copy_from_slice(b"PAR1");
        let size = 80_000 + footer.len() as u64 + 8;
        assert_eq!(place(tail, size), Some(80_000..size - 8));
        assert_eq!(place(tail, 10), None);
        tail[7] = b'2';
        assert_eq!(place(tail, size), None);
    }

    proptest! {
        #[test]
        fn p10_no_bytes_are_too_strange(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0usize..60,
            at in 0usize..60,
            byte: u8,
        ) {
            let _ = columns(&bytes, 1 << 20);
            let mut real = footer(&[4..104, 104..300]);
            let end = real.len();
            real[at.min(end - 1)] = byte;
            real.truncate(end - cut.min(end));
            if let Some(found) = columns(&real, 1 << 20) {
                prop_assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
            }
        }
    }
}
