//! The console's tables as protocol messages, encoded by pgwire.

use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, ParameterDescription, RowDescription};
use pgwire::messages::response::CommandComplete;

/// A column's name and type.
pub(super) type Column = (&'static str, Type);

/// A table to be shown.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Int4,
    Int8,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

impl Type {
    /// The OID of pg_type and the size in bytes.
    const fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
        }
    }
}

/// A value in text form; `None` is NULL.
pub(super) type Cell = Option<String>;

/// A cell that is not NULL.
pub(super) fn cell(value: impl ToString) -> Cell {
    Some(value.to_string())
}

/// The format of a column: none is text, one is for all.
fn format_of(formats: &[Format], column: usize) -> Format {
    let all = formats.first().filter(|_| formats.len() == 1);
    *all.or_else(|| formats.get(column)).unwrap_or(&Format::Text)
}

/// Appends a RowDescription.
pub(super) fn description(out: &mut Vec<u8>, columns: &[Column], formats: &[Format]) {
    let fields = columns.iter().enumerate().map(|(at, (name, kind))| {
        let (oid, size) = kind.oid_and_size();
        let format = i16::from(format_of(formats, at) == Format::Binary);
        FieldDescription::new((*name).to_owned(), 0, 0, oid, size, -1, format)
    });
    encode(out, &RowDescription::new(fields.collect()));
}

/// Appends a ParameterDescription of none.
pub(super) fn no_parameters(out: &mut Vec<u8>) {
    encode(out, &ParameterDescription::new(Vec::new()));
}

/// Appends the rows.
pub(super) fn rows(out: &mut Vec<u8>, table: &Table, formats: &[Format]) {
    for row in &table.rows {
        debug_assert_eq!(row.len(), table.columns.len());
        let mut data = BytesMut::new();
        for (at, cell) in row.iter().enumerate() {
            put(&mut data, cell.as_deref(), table.columns[at].1, format_of(formats, at));
        }
        let count = i16::try_from(row.len()).expect("BUG: a table has few columns");
        encode(out, &DataRow::new(data, count));
    }
}

fn put(data: &mut BytesMut, cell: Option<&str>, kind: Type, format: Format) {
    let Some(text) = cell else {
        return data.put_i32(-1);
    };
    match (kind, format) {
        (Type::Text, _) | (_, Format::Text) => {
            data.put_i32(i32::try_from(text.len()).expect("BUG: a cell is short"));
            data.put_slice(text.as_bytes());
        }
        (Type::Int4, Format::Binary) => {
            data.put_i32(4);
            data.put_i32(i32::try_from(number(text)).unwrap_or(i32::MAX));
        }
        (Type::Int8, Format::Binary) => {
            data.put_i32(8);
            data.put_i64(number(text));
        }
    }
}

/// Counts are written as text first, and are never negative but for process ids, which fit.
fn number(text: &str) -> i64 {
    text.parse().unwrap_or(i64::MAX)
}

/// Appends the end of an answer.
pub(super) fn complete(out: &mut Vec<u8>, tag: &str) {
    encode(out, &CommandComplete::new(tag.to_owned()));
}

fn encode(out: &mut Vec<u8>, message: &impl Message) {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer).expect("BUG: the console's own messages are short");
    out.extend_from_slice(&buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_the_format_asked_for() {
        let columns =
            vec![("a", Type::Int4), ("b", Type::Int8), ("c", Type::Text), ("d", Type::Int4)];
        let rows_of = |formats: &[Format]| {
            let row = vec![cell(7), cell(1_u64 << 40), cell("x"), None];
            let (mut out, table) =
                (Vec::new(), Table { columns: columns.clone(), rows: vec![row] });
            rows(&mut out, &table, formats);
            out.split_off(7)
        };
        let text = b"\0\0\0\x017\0\0\0\x0d1099511627776\0\0\0\x01x\xff\xff\xff\xff";
        assert_eq!(rows_of(&[]), text);
        assert_eq!(rows_of(&[Format::Text]), text);
        let binary = b"\0\0\0\x04\0\0\0\x07\0\0\0\x08\0\0\x01\0\0\0\0\0\0\0\0\x01x\xff\xff\xff\xff";
        assert_eq!(rows_of(&[Format::Binary]), binary);
        let mixed = b"\0\0\0\x017\0\0\0\x08\0\0\x01\0\0\0\0\0\0\0\0\x01x\xff\xff\xff\xff";
        assert_eq!(rows_of(&[Format::Text, Format::Binary, Format::Text, Format::Text]), mixed);
    }
}
