//! Over a bad network the replies are the same: bytes that trickle in both directions, on both
//! sides of pgbaton, are put together again exactly.

use std::time::Duration;

use super::segments::{MEDLEY_TAGS, medley};
use super::{FURNITURE, Ways};
use crate::support::fault_proxy::{Fault, FaultProxy, Way};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{Postgres, SUPERUSER};
use crate::support::wire::{self, Login, Wire, bind, execute, parse, sync};

/// pgbaton in transaction mode, with a proxy before it and one behind it, and PostgreSQL itself to compare with.
struct Far {
    // Dropped in this order: clients, proxies, pgbaton.
    ways: Ways,
    proxies: [FaultProxy; 2],
    _pgbaton: Pgbaton,
}

impl Far {
    fn open() -> Self {
        let postgres = Postgres::shared();
        let behind = FaultProxy::before(postgres.address());
        let databases = [(); 2].map(|()| postgres.create_database());
        for database in &databases {
            postgres.sql(database, FURNITURE);
        }
        let config = Config::new().database_at(&databases[1], behind.address(), "pool_size = 1");
        let pgbaton = Pgbaton::start(&config);
        let before = FaultProxy::before(pgbaton.address());
        let [direct, through] =
            [(postgres.address(), 0), (before.address(), 1)].map(|(address, way)| {
                Wire::login(address, &Login::new(SUPERUSER, &databases[way], ""))
            });
        let clients = vec![("PostgreSQL", direct), ("transaction", through)];
        Self { ways: Ways { clients }, proxies: [before, behind], _pgbaton: pgbaton }
    }

    fn set(&self, fault: Fault) {
        for proxy in &self.proxies {
            proxy.set_both(fault);
        }
    }

    /// How often the faults have acted, the least of all four directions.
    fn least_hits(&self) -> usize {
        let hits = self
            .proxies
            .iter()
            .flat_map(|proxy| [Way::Up, Way::Down].map(|way| proxy.traffic(way).hits));
        hits.min().unwrap()
    }
}

#[test]
fn f10_byte_by_byte_in_both_directions_on_both_sides() {
    let mut far = Far::open();
    for pause_us in [0, 0, 50] {
        far.set(Fault::Trickle { bytes: 1, pause: Duration::from_micros(pause_us) });
        let reply = far.ways.same(&medley());
        assert_eq!(wire::tags(&reply), MEDLEY_TAGS);
    }
    // Each byte was sent alone.
    assert!(far.least_hits() >= 3 * medley().len(), "{} hits", far.least_hits());
}

#[test]
fn f10_in_pieces_of_every_size_on_both_sides() {
    let mut far = Far::open();
    for bytes in [2, 3, 4, 5, 6, 7, 11, 13, 50] {
        far.set(Fault::Trickle { bytes, pause: Duration::ZERO });
        let reply = far.ways.same(&medley());
        assert_eq!(wire::tags(&reply), MEDLEY_TAGS, "{bytes} at a time");
    }
    assert!(far.least_hits() > 9 * 50, "{} hits", far.least_hits());
}

#[test]
fn f10_f19_long_messages_in_pieces_of_a_packet() {
    let mut far = Far::open();
    let value = "p".repeat(100_000);
    let script = [
        parse("", "select $1::text, n from generate_series(1, 3) n"),
        bind("", "", &[Some("short")]),
        execute("", 0),
        sync(),
        wire::query(&format!("select '{value}'")),
        parse("long", &format!("select '{value}'")),
        bind("", "long", &[]),
        execute("", 0),
        sync(),
    ];
    for bytes in [1400, 40_000] {
        far.set(Fault::Trickle { bytes, pause: Duration::ZERO });
        let mut script = script.concat();
        script.extend([wire::close(b'S', "long"), sync()].concat());
        let reply = far.ways.same(&script);
        assert_eq!(wire::tags(&reply), "12DDDCZTDCZ12DCZ3Z");
    }
    assert!(far.least_hits() > 20, "{} hits", far.least_hits());
}
