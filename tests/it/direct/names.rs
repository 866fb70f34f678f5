//! Statement names in pipelines: a name is taken and given up when its message is carried out, not
//! when it is read, whatever is sent on behind it before the answer has come.

use super::{Ways, errors, same, same_in_steps, same_tags, statuses};
use crate::support::wire::{self, bind, close, describe, execute, flush, parse, query, sync};

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0)].concat()
}

fn failing() -> Vec<u8> {
    [parse("", "select 1/0"), run("")].concat()
}

#[test]
fn f08_a_name_whose_parse_failed_is_free_in_the_next_group() {
    let script =
        [parse("s", "selekt 1"), sync(), parse("s", "select 'second'"), sync(), run("s"), sync()];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "EZ1Z2DCZ");
}

#[test]
fn f08_a_parse_skipped_behind_an_error_takes_no_name() {
    let script = [
        failing(),
        parse("s", "select 1"),
        sync(),
        run("s"),
        sync(),
        parse("s", "select 2"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "1EZEZ1Z");
    assert_eq!(errors(&reply, b'C'), ["22012", "26000"]);
}

#[test]
fn f08_a_close_skipped_behind_an_error_frees_no_name() {
    let prepare = [parse("s", "select 'kept'"), sync()].concat();
    let rest = [
        [failing(), close(b'S', "s"), sync()].concat(),
        [run("s"), sync()].concat(),
        [parse("s", "select 2"), sync()].concat(),
    ];
    let reply = same(&[prepare.clone(), rest.concat()].concat());
    assert_eq!(wire::tags(&reply), "1Z1EZ2DCZEZ");
    assert_eq!(errors(&reply, b'C'), ["22012", "42P05"]);
    // And in steps: what is known of an answer must not depend on when the next message came.
    let steps: Vec<Vec<u8>> = [prepare].into_iter().chain(rest).collect();
    assert_eq!(wire::tags(&same_in_steps(&steps)), "1Z1EZ2DCZEZ");
}

#[test]
fn f07_a_parse_of_a_name_in_use_fails_for_its_text_first() {
    let script = [
        parse("s", "select 1"),
        sync(),
        parse("s", "selekt"),
        sync(),
        query("begin; select 1/0"),
        parse("s", "select 2"),
        sync(),
        query("rollback"),
        parse("s", "select 3"),
        sync(),
        run("s"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["42601", "22012", "25P02", "42P05"]);
    assert_eq!(statuses(&reply), "IIEEIII");
}

#[test]
fn f07_in_a_failed_transaction_nothing_can_be_parsed_known_or_not() {
    let other = "select 'known to the server'";
    let script = [
        parse("a", other),
        sync(),
        query("begin"),
        failing(),
        sync(),
        parse("b", other),
        sync(),
        parse("c", "select 'unknown to it'"),
        sync(),
        parse("d", "rollback"),
        run("d"),
        parse("b", other),
        run("b"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["22012", "25P02", "25P02"]);
    assert_eq!(statuses(&reply), "ITEEEI");
    let steps: Vec<Vec<u8>> = vec![
        [parse("a", other), sync()].concat(),
        query("begin; select 1/0"),
        [parse("b", other), run("b"), sync()].concat(),
        query("rollback"),
        [parse("b", other), run("b"), sync()].concat(),
    ];
    assert_eq!(errors(&same_in_steps(&steps), b'C'), ["22012", "25P02"]);
}

#[test]
fn a_transaction_that_fails_within_the_pipeline_refuses_a_known_text() {
    let script = [
        parse("a", "select 'known'"),
        sync(),
        query("begin; select 1/0"),
        parse("b", "select 'known'"),
        sync(),
        query("rollback"),
        parse("b", "select 'known'"),
        run("b"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["22012", "25P02"]);
    assert_eq!(statuses(&reply), "IEEII");
}

/// Each way to forget all names, sent in one pipeline with what comes before and behind it.
#[test]
fn forgetting_in_a_pipeline_concerns_what_came_before_it_alone() {
    let extended = |sql: &str| [parse("", sql), run("")].concat();
    let prepared = [parse("forget", "deallocate all"), run("forget")].concat();
    for forget in [
        query("deallocate all"),
        query("discard all"),
        query("select 1; deallocate prepare all; select 2"),
        [extended("deallocate all"), sync()].concat(),
        extended("Deallocate All"),
        prepared,
    ] {
        let script = [
            parse("a", "select 'a'"),
            parse("b", "select 'b'"),
            sync(),
            forget.clone(),
            parse("a", "select 'again'"),
            run("a"),
            sync(),
            run("b"),
            sync(),
            run("a"),
            sync(),
        ];
        let reply = same(&script.concat());
        assert_eq!(errors(&reply, b'C'), ["26000"], "{}", forget.escape_ascii());
        assert!(wire::tags(&reply).ends_with("12DCZEZ2DCZ"), "{}", forget.escape_ascii());
    }
}

#[test]
fn a_flush_is_not_needed_for_what_a_forgetting_execute_leaves_open() {
    let script = [
        parse("a", "select 'a'"),
        parse("", "deallocate all"),
        run(""),
        run("a"),
        sync(),
        parse("a", "select 'free again'"),
        run("a"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["26000"]);
    assert!(wire::tags(&reply).ends_with("EZ12DCZ"));
}

#[test]
fn deallocate_frees_a_name_given_by_the_protocol() {
    for text in ["deallocate a", "DEALLOCATE PREPARE \"a\" ;", "/* x */ deallocate A -- y"] {
        let prepare = || [parse("a", "select 'a'"), sync()].concat();
        let script = [
            prepare(),
            query(text),
            run("a"),
            sync(),
            query(text),
            prepare(),
            run("a"),
            query(text),
            query(text),
        ];
        let reply = same(&script.concat());
        assert_eq!(errors(&reply, b'C'), ["26000", "26000", "26000"], "{text}");
        let steps: Vec<Vec<u8>> =
            vec![prepare(), query(text), [run("a"), sync()].concat(), query(text)];
        assert_eq!(wire::tags(&same_in_steps(&steps)), "1ZCZEZEZ", "{text}");
    }
}

#[test]
fn deallocate_by_the_extended_protocol_frees_a_name_too() {
    for name in ["", "dealloc"] {
        let deallocate = [parse(name, "deallocate a"), describe(b'S', name), run(name)].concat();
        let script = [
            parse("a", "select 'a'"),
            sync(),
            deallocate.clone(),
            sync(),
            run("a"),
            sync(),
            parse("a", "select 'again'"),
            run("a"),
            sync(),
        ];
        let reply = same(&script.concat());
        assert_eq!(wire::tags(&reply), "1Z1tn2CZEZ12DCZ");
        let unknown = [parse("", "deallocate unheard_of"), run(""), sync()];
        assert_eq!(errors(&same(&unknown.concat()), b'C'), ["26000"]);
    }
}

#[test]
fn deallocate_obeys_the_transaction() {
    let script = [
        parse("a", "select 'a'"),
        sync(),
        query("begin; select 1/0"),
        query("deallocate a"),
        query("rollback"),
        run("a"),
        sync(),
        query("begin"),
        query("deallocate a"),
        query("rollback"),
        run("a"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["22012", "25P02", "26000"]);
    assert_eq!(statuses(&reply), "IEEIITTII");
    let text = errors(&reply, b'M').swap_remove(1);
    assert!(text.starts_with("current transaction is aborted"), "{text}");
}

#[test]
fn deallocate_behind_messages_without_a_sync() {
    let script = [
        parse("a", "select 'a'"),
        run("a"),
        query("deallocate a"),
        run("a"),
        sync(),
        parse("a", "selekt"),
        query("deallocate a"),
        sync(),
        query("deallocate a"),
    ];
    let mut ways = Ways::open();
    // The Query behind the failed Parse is skipped: one ReadyForQuery fewer.
    let reply = ways.same_until_ready(&script.concat(), 4);
    assert_eq!(wire::tags(&reply), "12DCCZEZEZEZ");
}

#[test]
fn the_unnamed_statement_lives_until_a_query_or_another_parse() {
    let script = [
        parse("", "select 'one'"),
        sync(),
        run(""),
        sync(),
        describe(b'S', ""),
        run(""),
        sync(),
        parse("", "selekt"),
        sync(),
        run(""),
        sync(),
        parse("", "select 'two'"),
        sync(),
        query("select 1"),
        run(""),
        sync(),
        parse("", "select 'three'"),
        close(b'S', ""),
        run(""),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "1Z2DCZtT2DCZEZEZ1ZTDCZEZ13EZ");
    let steps: Vec<Vec<u8>> = script
        .split(|m| *m == sync())
        .map(|group| [group.concat(), sync()].concat())
        .filter(|group| group.len() > sync().len())
        .collect();
    let again = same_in_steps(&steps);
    assert_eq!(errors(&again, b'C'), ["42601", "26000", "26000", "26000"]);
}

#[test]
fn a_skipped_parse_of_the_unnamed_statement_leaves_the_old_one() {
    let script = [
        parse("", "select 'old'"),
        sync(),
        bind("", "unheard_of", &[]),
        parse("", "select 'skipped'"),
        sync(),
        run(""),
        sync(),
        query("begin"),
        parse("", "select 'inside'"),
        run(""),
        sync(),
        run(""),
        query("commit"),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["26000"]);
    let old = reply.iter().find(|message| message.tag == b'D').unwrap();
    assert_eq!(wire::columns(&old.body), [Some("old".into())]);
}

#[test]
fn only_the_first_63_bytes_of_a_name_count() {
    let (long, same_start) = ("n".repeat(100), "n".repeat(64));
    let script = [
        parse(&long, "select 'long'"),
        sync(),
        run(&same_start),
        sync(),
        parse(&same_start, "select 'other'"),
        sync(),
        close(b'S', &"n".repeat(63)),
        run(&long),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "1Z2DCZEZ3EZ");
}

#[test]
fn the_poolers_names_are_not_the_clients() {
    for name in (0..20).map(|n| format!("pgbaton_{n}")).chain(["pgbaton_refused".into()]) {
        let script = [
            parse("mine", "select 'mine'"),
            run("mine"),
            sync(),
            run(&name),
            sync(),
            describe(b'S', &name),
            sync(),
            query(&format!("deallocate {name}")),
            run("mine"),
            sync(),
        ];
        let mut ways = Ways::open();
        let reply = ways.compare(|wire| {
            wire.send(&script.concat());
            let mut reply = super::receive_ready(wire, 5)?;
            // The name in the answer to DEALLOCATE may be another one.
            reply.iter_mut().filter(|m| m.tag == b'E').for_each(|m| {
                m.body = wire::ErrorFields::parse(&m.body).field(b'C').as_bytes().to_vec();
            });
            Ok(reply)
        });
        assert_eq!(wire::tags(&reply), "12DCZEZEZEZ2DCZ", "{name}");
    }
}

#[test]
fn pipelined_syncs_with_names_and_flushes_in_between() {
    let mut script = Vec::new();
    for n in 0..50 {
        script.extend(parse("s", &format!("select {n}")));
        script.extend(sync());
        script.extend(run("s"));
        script.extend(flush());
        script.extend(sync());
        script.extend(close(b'S', "s"));
        script.extend(sync());
    }
    assert_eq!(same_tags(&[script]), "1Z2DCZ3Z".repeat(50));
}
