//! The console's tables as protocol messages, encoded by pgwire.

use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::messages::response::CommandComplete;

/// A table to be shown.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<(&'static str, Type)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Int4,
    Int8,
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

/// Appends a whole answer with rows, but for ReadyForQuery.
pub(super) fn table(out: &mut Vec<u8>, table: &Table, tag: &str) {
    let mut buffer = BytesMut::new();
    let fields = table.columns.iter().map(|(name, kind)| {
        let (oid, size) = kind.oid_and_size();
        FieldDescription::new((*name).to_owned(), 0, 0, oid, size, -1, 0)
    });
    encode(&RowDescription::new(fields.collect()), &mut buffer);
    for row in &table.rows {
        debug_assert_eq!(row.len(), table.columns.len());
        let mut data = BytesMut::new();
        for cell in row {
            let Some(cell) = cell else {
                data.put_i32(-1);
                continue;
            };
            data.put_i32(i32::try_from(cell.len()).expect("BUG: a cell is short"));
            data.put_slice(cell.as_bytes());
        }
        let count = i16::try_from(row.len()).expect("BUG: a table has few columns");
        encode(&DataRow::new(data, count), &mut buffer);
    }
    out.extend_from_slice(&buffer);
    complete(out, tag);
}

/// Appends the end of an answer.
pub(super) fn complete(out: &mut Vec<u8>, tag: &str) {
    let mut buffer = BytesMut::new();
    encode(&CommandComplete::new(tag.to_owned()), &mut buffer);
    out.extend_from_slice(&buffer);
}

fn encode(message: &impl Message, buffer: &mut BytesMut) {
    message.encode(buffer).expect("BUG: the console's own messages are short");
}
