//! Tests of the ledger: conversations by their tags alone.

use super::*;

fn client(expects: Expects) -> Owed {
    Owed::client(expects)
}

fn receive(ledger: &mut Ledger, tag: u8) -> Result<Reply, Desync> {
    ledger.receive(tag, |_, _| {})
}

fn receive_all(ledger: &mut Ledger, tags: &[u8]) {
    for &tag in tags {
        receive(ledger, tag).unwrap();
    }
}

#[test]
fn a_simple_query_is_owed_until_ready_for_query() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Query));
    receive_all(&mut ledger, b"TDDC");
    assert!(!ledger.is_settled());
    let reply = receive(&mut ledger, b'Z').unwrap();
    assert_eq!(reply.completed.unwrap().expects, Expects::Query);
    assert!(ledger.is_settled());
}

#[test]
fn an_extended_group_is_settled_only_by_its_sync() {
    let mut ledger = Ledger::default();
    for e in [Expects::Parse, Expects::Bind, Expects::Describe, Expects::Execute] {
        ledger.push(client(e));
    }
    receive_all(&mut ledger, b"12TDC");
    assert!(ledger.is_empty());
    assert!(!ledger.is_settled(), "no Sync was sent yet");
    ledger.push(client(Expects::Sync));
    receive_all(&mut ledger, b"Z");
    assert!(ledger.is_settled());
}

#[test]
fn an_error_drops_everything_up_to_the_sync_and_no_further() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Parse).slot(Slot::Named(7)));
    ledger.push(client(Expects::Bind));
    ledger.push(client(Expects::Sync));
    ledger.push(client(Expects::Bind));
    ledger.push(client(Expects::Sync));
    let mut dropped = Vec::new();
    let reply = ledger.receive_error(|o, fate| dropped.push((o, fate)));
    assert_eq!(reply.completed.unwrap().slot, Slot::Named(7));
    let fates: Vec<Fate> = dropped.iter().map(|(_, fate)| *fate).collect();
    assert_eq!(fates, [Fate::Failed, Fate::Skipped]);
    receive_all(&mut ledger, b"Z2Z");
    assert!(ledger.is_settled());
}

#[test]
fn after_an_error_without_sync_the_server_skips_what_it_is_sent() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Parse));
    ledger.receive_error(|_, _| {});
    assert!(ledger.is_skipping());
    assert!(!ledger.push(client(Expects::Query)), "even a Query is skipped");
    assert!(!ledger.push(client(Expects::LocalParse)));
    assert!(ledger.push(client(Expects::Sync)));
    receive_all(&mut ledger, b"Z");
    assert!(ledger.is_settled());
}

#[test]
fn an_error_at_the_sync_itself_still_waits_for_ready_for_query() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Execute));
    ledger.push(client(Expects::Sync));
    receive_all(&mut ledger, b"C");
    ledger.receive_error(|_, _| panic!("nothing is dropped"));
    receive_all(&mut ledger, b"Z");
    assert!(ledger.is_settled());
}

#[test]
fn a_sync_sent_before_copy_in_response_is_swallowed_by_the_copy() {
    let mut ledger = Ledger::default();
    for e in [Expects::Parse, Expects::Bind, Expects::Describe, Expects::Execute] {
        ledger.push(client(e));
    }
    ledger.push(client(Expects::Sync));
    receive_all(&mut ledger, b"12nG");
    assert!(ledger.in_copy_in());
    assert!(!ledger.push(client(Expects::CopyEnd)));
    assert!(ledger.push(client(Expects::Sync)));
    receive_all(&mut ledger, b"CZ");
    assert!(ledger.is_settled());
}

#[test]
fn copy_data_sent_without_waiting_for_the_response_is_understood() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Query));
    ledger.push(client(Expects::CopyEnd));
    receive_all(&mut ledger, b"G");
    assert!(!ledger.in_copy_in(), "its end was already on its way");
    receive_all(&mut ledger, b"CZ");
    assert!(ledger.is_settled());
}

#[test]
fn stray_copy_messages_leave_no_trace() {
    let mut ledger = Ledger::default();
    assert!(!ledger.push(client(Expects::CopyEnd)));
    ledger.push(client(Expects::Query));
    ledger.push(client(Expects::CopyEnd));
    receive_all(&mut ledger, b"CZ");
    assert_eq!(ledger.take_local(), None);
    assert!(ledger.is_settled());
}

#[test]
fn a_copy_that_fails_on_the_server_is_over() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Query));
    receive_all(&mut ledger, b"G");
    ledger.receive_error(|_, _| {});
    assert!(!ledger.in_copy_in());
    receive_all(&mut ledger, b"Z");
    assert!(ledger.is_settled());
}

#[test]
fn local_replies_wait_for_their_turn() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Bind));
    ledger.push(client(Expects::LocalParse));
    ledger.push(client(Expects::LocalClose));
    assert_eq!(ledger.take_local(), None);
    receive_all(&mut ledger, b"2");
    assert_eq!(ledger.take_local().unwrap().expects, Expects::LocalParse);
    assert_eq!(ledger.take_local().unwrap().expects, Expects::LocalClose);
    assert_eq!(ledger.take_local(), None);
}

#[test]
fn the_poolers_own_replies_are_swallowed_but_their_errors_are_told() {
    let mut ledger = Ledger::default();
    ledger.push(Owed::pooler(Expects::Parse));
    ledger.push(client(Expects::Bind));
    assert!(ledger.head_is_poolers());
    assert_eq!(receive(&mut ledger, b'1').unwrap().audience, Audience::Pooler);
    assert_eq!(receive(&mut ledger, b'2').unwrap().audience, Audience::Client);
    ledger.push(Owed::pooler(Expects::Parse));
    ledger.push(client(Expects::Sync));
    assert_eq!(ledger.receive_error(|_, _| {}).audience, Audience::Client);
}

#[test]
fn replies_that_nobody_asked_for_are_a_desync() {
    let mut ledger = Ledger::default();
    assert_eq!(receive(&mut ledger, b'Z'), Err(Desync { tag: b'Z' }));
    ledger.push(client(Expects::Bind));
    assert!(receive(&mut ledger, b'D').is_err());
    ledger.push(client(Expects::Sync));
    assert!(receive(&mut ledger, b'N').is_ok(), "notices may come at any time");
}

#[test]
fn groups_are_counted_as_they_are_asked_and_answered() {
    let mut ledger = Ledger::default();
    let first = ledger.group();
    ledger.push(client(Expects::Parse));
    assert_eq!(ledger.group(), first);
    assert!(ledger.is_in_first_group() && ledger.wants_flush());
    ledger.note_flush();
    assert!(!ledger.wants_flush());
    ledger.push(client(Expects::Sync));
    ledger.push(client(Expects::Query));
    ledger.push(Owed::pooler(Expects::Query));
    assert!(!ledger.is_in_first_group() && !ledger.wants_flush());
    assert_eq!((ledger.group(), ledger.queries_owed()), (first + 3, 1));
    receive_all(&mut ledger, b"1ZCZ");
    assert_eq!(ledger.queries_owed(), 0);
    assert!(ledger.is_in_first_group(), "the pooler's own query does not count");
    receive_all(&mut ledger, b"CZ");
    assert!(ledger.is_settled());
}

#[test]
fn a_query_skipped_behind_an_error_is_not_owed_any_more() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Parse));
    ledger.push(client(Expects::Query));
    ledger.push(client(Expects::Sync));
    let mut dropped = 0;
    ledger.receive_error(|_, _| dropped += 1);
    assert_eq!((dropped, ledger.queries_owed()), (2, 0));
    receive_all(&mut ledger, b"Z");
    assert!(ledger.is_in_first_group() && ledger.is_settled());
}

#[test]
fn what_a_copy_swallows_is_told() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Query));
    ledger.push(client(Expects::Sync));
    ledger.push(client(Expects::Parse).renaming());
    ledger.push(client(Expects::Sync));
    let mut dropped = Vec::new();
    ledger.receive(b'G', |owed, _| dropped.push(owed)).unwrap();
    assert_eq!(dropped, [client(Expects::Sync), client(Expects::Parse).renaming()]);
    assert!(!ledger.in_copy_in(), "the Parse has broken it off");
    ledger.receive_error(|_, _| panic!("the rest is answered"));
    receive_all(&mut ledger, b"ZZ");
    assert!(ledger.is_settled());
}

#[test]
fn a_query_answered_here_ends_with_the_ready_for_query_of_a_sync() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Execute));
    ledger.push(client(Expects::Deallocate).renaming());
    receive_all(&mut ledger, b"C");
    let reply = receive(&mut ledger, b'Z').unwrap();
    assert_eq!(reply.completed, Some(client(Expects::Deallocate).renaming()));
    assert!(ledger.is_settled());
}

#[test]
fn a_sync_among_the_data_of_a_copy_that_fails_may_be_answered() {
    // Sent before CopyInResponse was seen, or behind it.
    for early in [true, false] {
        let mut ledger = Ledger::default();
        ledger.push(client(Expects::Query));
        if !early {
            receive_all(&mut ledger, b"G");
        }
        ledger.note_copy_data();
        ledger.push(client(Expects::Sync));
        if early {
            receive_all(&mut ledger, b"G");
        }
        ledger.push(client(Expects::CopyEnd));
        ledger.receive_error(|_, _| panic!("a Query is not dropped"));
        receive_all(&mut ledger, b"Z");
        assert!(ledger.is_in_doubt() && !ledger.is_settled() && ledger.wants_question());
        let mut answered = Ledger { owed: ledger.owed.clone(), ..ledger };
        receive_all(&mut answered, b"Z");
        assert!(answered.is_settled());
        assert!(receive(&mut answered, b'Z').is_err(), "one Sync, one answer");
        answered.doubt = 1;
        answered.push(Owed::pooler(Expects::Query));
        receive_all(&mut answered, b"IZ");
        assert!(answered.is_settled(), "it was ignored");
    }
}

#[test]
fn a_sync_among_the_data_of_a_copy_that_succeeds_is_ignored() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Query));
    receive_all(&mut ledger, b"G");
    ledger.note_copy_data();
    ledger.push(client(Expects::Sync));
    ledger.push(client(Expects::CopyEnd));
    receive_all(&mut ledger, b"CZ");
    assert!(ledger.is_settled());
    assert!(receive(&mut ledger, b'Z').is_err());
    // Nor does data without a COPY make a Sync doubtful.
    ledger.note_copy_data();
    ledger.push(client(Expects::Sync));
    receive_all(&mut ledger, b"Z");
    assert!(ledger.is_settled());
}

#[test]
fn a_doubtful_ready_for_query_is_no_answer_to_a_query_of_which_nothing_has_come() {
    for audience in [Audience::Client, Audience::Pooler] {
        let mut ledger = Ledger { doubt: 1, ..Ledger::default() };
        ledger.push(Owed { audience, ..client(Expects::Query) });
        let reply = receive(&mut ledger, b'Z').unwrap();
        assert_eq!((reply.audience, reply.completed), (Audience::Client, None));
        receive_all(&mut ledger, b"I");
        assert_eq!(receive(&mut ledger, b'Z').unwrap().audience, audience);
        assert!(ledger.is_settled());
    }
}

#[test]
fn a_query_ends_what_stands_before_it_without_a_sync_but_not_what_stands_behind() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Execute));
    ledger.push(client(Expects::Query));
    receive_all(&mut ledger, b"CCZ");
    assert!(ledger.is_settled());
    ledger.push(client(Expects::Query));
    ledger.push(client(Expects::Execute));
    receive_all(&mut ledger, b"CZC");
    assert!(ledger.is_empty() && !ledger.is_settled());
}

#[test]
fn a_copy_meets_nothing_that_the_server_was_not_sent() {
    let mut ledger = Ledger::default();
    ledger.push(client(Expects::Execute));
    ledger.push(client(Expects::LocalClose));
    ledger.push(client(Expects::Sync));
    assert!(receive(&mut ledger, b'G').is_err());
}
