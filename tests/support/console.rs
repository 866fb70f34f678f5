//! Reading pgbaton's console: rows by column names.

use std::collections::HashMap;

use super::pgbaton::{PATIENCE, Pgbaton, eventually};
use super::wire::{self, Login, Wire};

/// One row of a SHOW, by column name.
pub type Row = HashMap<String, String>;

/// A connection to the console.
pub struct Console {
    wire: Wire,
}

impl Console {
    /// Logs in as the user `pgbaton`.
    pub fn of(pgbaton: &Pgbaton) -> Self {
        let login = Login::new("pgbaton", "pgbaton", "");
        Self { wire: Wire::login(pgbaton.address(), &login) }
    }

    /// The column names and rows that a command brings.
    pub fn table(&mut self, command: &str) -> (Vec<String>, Vec<Vec<String>>) {
        self.wire.send(&wire::query(command));
        let messages = self.wire.receive_until_ready().unwrap();
        assert_eq!(messages[0].tag, b'T', "{command}: {messages:?}");
        let rows = messages.iter().filter(|message| message.tag == b'D');
        // A NULL reads as an empty text.
        let rows = rows.map(|row| {
            wire::columns(&row.body).into_iter().map(Option::unwrap_or_default).collect()
        });
        (wire::column_names(&messages[0].body), rows.collect())
    }

    /// The rows that a command brings.
    pub fn rows(&mut self, command: &str) -> Vec<Row> {
        let (names, rows) = self.table(command);
        rows.into_iter().map(|row| names.iter().cloned().zip(row).collect()).collect()
    }

    /// One database's row of SHOW POOLS; the test must have only one user on it.
    pub fn pool(&mut self, database: &str) -> Row {
        let mut rows = self.rows("SHOW POOLS");
        rows.retain(|row| row["database"] == database);
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.swap_remove(0)
    }

    /// Numbers of one pool by their column names.
    pub fn counts<const N: usize>(&mut self, database: &str, columns: [&str; N]) -> [usize; N] {
        let row = self.pool(database);
        columns.map(|column| row[column].parse().expect("a number"))
    }

    /// Waits until these columns of a pool have these values.
    pub fn wait_for<const N: usize>(
        &mut self,
        database: &str,
        columns: [&str; N],
        values: [usize; N],
    ) {
        let came = eventually(PATIENCE, || self.counts(database, columns) == values);
        assert!(came, "not {values:?} but {:?}", self.pool(database));
    }
}
