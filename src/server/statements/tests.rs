//! Tests of the store, and of what a server is known to have.

use super::*;

#[test]
fn equal_statements_are_one() {
    let store = StatementStore::default();
    let a = store.intern(b"select 1", &[0, 0], 0);
    let b = store.intern(b"select 1", &[0, 0], 0);
    let other_types = store.intern(b"select 1", &[0, 1, 0, 0, 0, 23], 0);
    assert!(Arc::ptr_eq(&a, &b));
    assert_ne!(a.id(), other_types.id());
}

#[test]
fn the_store_keeps_nothing_alive_and_stays_small() {
    let store = StatementStore::default();
    let at_first = store.bytes_alive();
    let kept = store.intern(b"kept", &[0, 0], 0);
    for i in 0..10_000_u32 {
        store.intern(format!("select {i}").as_bytes(), &[0, 0], 0);
    }
    assert!(store.len() <= 2 * SWEEP_ENTRIES_MIN, "{}", store.len());
    assert!(Arc::ptr_eq(&kept, &store.intern(b"kept", &[0, 0], 0)));
    assert_eq!(store.bytes_alive(), at_first + kept.bytes());
}

#[test]
fn unnamed_texts_that_come_again_are_shared_and_long_ones_are_not_remembered() {
    let (store, recent) = (StatementStore::default(), RecentStatements::default());
    let one = store.unnamed(&recent, b"select 1", &[0, 0], 0);
    assert!(Arc::ptr_eq(&one, &store.unnamed(&recent, b"select 1", &[0, 0], 0)));
    assert_ne!(one.id(), store.unnamed(&recent, b"select 1", &[0, 1], 0).id());
    let long = vec![b'x'; RECENT_BYTES_MAX + 1];
    let bytes = store.bytes_alive();
    assert_eq!(store.unnamed(&recent, &long, &[], 0).query(), long);
    assert_eq!(store.bytes_alive(), bytes);
    assert!(one.is_kept() && !store.unkept().is_kept());
}

const LIMIT: NonZeroUsize = NonZeroUsize::new(2).unwrap();

fn three() -> [Arc<Statement>; 3] {
    let store = StatementStore::default();
    [b"a", b"b", b"c"].map(|q| store.intern(q, b"", 0))
}

#[test]
fn a_server_gives_up_the_least_recently_used() {
    let [a, b, c] = three();
    let mut known = ServerStatements::default();
    for statement in [&a, &b] {
        assert!(known.surplus(LIMIT).is_empty());
        known.parse_sent(statement, 0);
        known.answered(statement.id(), true);
    }
    assert_eq!(known.presence(a.id(), 1), Presence::There);
    assert_eq!(known.surplus(LIMIT), [b.id()]);
    known.close_sent(b.id(), 1);
    known.parse_sent(&c, 1);
    assert_eq!(known.len(), 2);
    assert_eq!(known.presence(b.id(), 1), Presence::Absent);
    assert_eq!(known.presence(b.id(), 2), Presence::Unclear, "its Close may be skipped");
    known.not_done(b.id());
    known.not_done(c.id());
    assert_eq!((known.len(), known.presence(b.id(), 2)), (2, Presence::There));
}

#[test]
fn an_unanswered_parse_counts_in_its_own_group_only() {
    let [a, b, _] = three();
    let one = NonZeroUsize::MIN;
    let mut known = ServerStatements::default();
    known.parse_sent(&a, 7);
    assert_eq!(known.presence(a.id(), 7), Presence::There);
    assert_eq!(known.presence(a.id(), 8), Presence::Unclear);
    // Neither closed, since it may not be there, nor forgotten by what came before it.
    assert!(known.surplus(one).is_empty());
    known.parse_sent(&b, 8);
    known.clear();
    assert_eq!(known.len(), 2);
    known.not_done(a.id());
    known.answered(b.id(), true);
    assert_eq!(known.presence(a.id(), 9), Presence::Absent);
    known.clear();
    assert!(known.is_empty());
}

#[test]
fn a_statement_closed_and_parsed_again_is_there_unless_the_parse_fails() {
    let [a, ..] = three();
    let again = |outcome: fn(&mut ServerStatements, u64)| {
        let mut known = ServerStatements::default();
        known.parse_sent(&a, 1);
        known.answered(a.id(), true);
        known.close_sent(a.id(), 2);
        known.parse_sent(&a, 2);
        outcome(&mut known, a.id());
        (known.presence(a.id(), 3), known.len())
    };
    let skipped = |known: &mut ServerStatements, id| {
        known.not_done(id);
        known.not_done(id);
    };
    assert_eq!(again(skipped), (Presence::There, 1));
    let failed = |known: &mut ServerStatements, id| {
        known.answered(id, false);
        known.not_done(id);
    };
    assert_eq!(again(failed), (Presence::Absent, 0));
    let done = |known: &mut ServerStatements, id| {
        known.answered(id, false);
        known.answered(id, true);
    };
    assert_eq!(again(done), (Presence::There, 1));
}

#[test]
fn what_was_let_go_of_is_closed_first() {
    let [a, b, c] = three();
    let mut known = ServerStatements::default();
    for statement in [&a, &b] {
        known.parse_sent(statement, 0);
        known.answered(statement.id(), true);
    }
    known.shed();
    known.parse_sent(&c, 1);
    known.answered(c.id(), true);
    assert_eq!(known.presence(a.id(), 2), Presence::There);
    assert_eq!(known.surplus(NonZeroUsize::new(9).unwrap()), [b.id(), a.id()]);
}

#[test]
fn the_unnamed_statement_is_what_was_sent_last_or_answered() {
    let mut known = ServerStatements::default();
    known.unnamed_asked(5, 1);
    assert!(known.is_unnamed(5, 1) && !known.is_unnamed(5, 2));
    known.unnamed_asked(6, 2);
    assert!(known.is_unnamed(6, 2) && !known.is_unnamed(5, 1));
    known.unnamed_set(5);
    assert!(!known.is_unnamed(5, 3), "6 is still on its way");
    known.unnamed_skipped();
    assert!(known.is_unnamed(5, 3));
    known.unnamed_lost();
    assert!(!known.is_unnamed(5, 3) && known.is_unnamed(0, 3));
}

#[test]
fn a_name_on_servers_is_the_prefix_and_the_number() {
    for id in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX / 10, u64::MAX - 1, u64::MAX] {
        let expected = format!("{SERVER_NAME_PREFIX}{id}");
        assert_eq!(server_name(id).as_bytes(), expected.as_bytes());
    }
}
