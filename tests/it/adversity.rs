//! Servers that come and go at bad moments.

use std::thread;
use std::time::Duration;

use crate::stage::{PATIENCE, Stage, counts};
use crate::support::pgbaton::eventually;
use crate::support::wire::{self, Login, Wire};

/// Clients that die in the middle of a COPY, one after the other: as PostgreSQL counts them, there
/// is never one server more than there may be.
#[test]
fn a_client_that_dies_in_a_copy_leaves_no_server_too_many() {
    let stage = Stage::with(1, |config| config);
    stage.sql("create table lines (t text); select 1");
    stage.sql(&format!("alter database {} connection limit 2; select 1", stage.database));
    stage.sql("create role limited login connection limit 1; select 1");
    stage.sql("grant insert on lines to limited; select 1");
    let login = Login::new("limited", &stage.database, "");
    for round in 0..20 {
        let mut copies = Wire::login(stage.pgbaton.address(), &login);
        let mut waits = Wire::login(stage.pgbaton.address(), &login);
        copies.send(&wire::query("copy lines from stdin"));
        copies.expect(b'G');
        // Half a message of CopyData.
        let mut half = vec![b'd'];
        half.extend(1_000_004_u32.to_be_bytes());
        half.extend(vec![b'x'; 500_000]);
        copies.send(&half);
        waits.send(&wire::query("select 42"));
        let waiting = eventually(PATIENCE, || {
            counts(&stage.pgbaton, &stage.database, "limited").cl_waiting == 1
        });
        assert!(waiting);
        thread::sleep(Duration::from_millis(20));
        copies.reset();
        let reply = waits.receive_reply();
        let reply =
            reply.unwrap_or_else(|e| panic!("round {round}: {e:?}\n{}", stage.pgbaton.log()));
        assert_eq!(reply.value(), "42");
    }
    stage.sql("select 1");
    let log = stage.pgbaton.log();
    assert!(!log.contains("server login failed"), "{log}");
}
