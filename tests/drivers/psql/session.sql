-- A session's worth of psql, run by `psql -X -f`. A line `== NAME` opens each step.
\echo == set_up
\set VERBOSITY default
\pset pager off
\timing off
\encoding UTF8
set application_name = 'the exercise';

\echo == describe
\d
\dt
\d account
\d+ entry
\dv rich
\df
\sf say
\sv rich
\di
\dn
\du tester
\dp account
\dd account_is_covered
\ds
\d nowhere

\echo == list
\l template1
\dx
\dRp
\dconfig work_mem

\echo == query
select * from account where id < 4 order by id;
select owner as "žluťoučký 🐎" from account where id = 1 \gx
\pset null '(nothing)'
select null as empty, '' as blank, array[1, null, 3] as numbers;
\pset format unaligned
table rich order by id;
\pset format csv
table rich order by id;
\pset format html
select 1 as "<one>";
\pset format aligned
select 1 as first \; select 2 as second \; select 'third';
select;
;
select n, repeat('x', 10) from generate_series(1, 5) n \g (format=unaligned tuples_only=on)

\echo == gdesc
select owner, balance * 1.5 as half_as_much, array_agg(note) from account left join entry on account_id = account.id group by account.id \gdesc
select 1 as one, null, now() \gdesc
select no_such_column \gdesc
update account set balance = balance \gdesc

\echo == gset
select id as chosen, owner as its_owner from account where id = 7 \gset my_
\echo :my_chosen :my_its_owner
select :my_chosen + 1 as next, :'my_its_owner' as quoted, :"my_its_owner" from (select 1 as "owner 7") t;
select 1 as too, 2 as many union select 3, 4 \gset

\echo == gexec
select format('select %s as n, %L as owner', id, owner) from account where id in (2, 3) order by id \gexec
select 'select 1 / 0' union all select 'select 42 as goes_on' \gexec

\echo == crosstabview
select id % 3 as row, id % 2 as column, count(*) from account group by 1, 2 order by 1, 2 \crosstabview

\echo == errors
select 1 / 0;
\errverbose
insert into account values (99, 'owner 3', 0);
\errverbose
\set VERBOSITY verbose
select * from nowhere;
\set VERBOSITY sqlstate
select * from nowhere;
\set VERBOSITY default
\set SHOW_CONTEXT always
do $$ begin raise exception 'by hand' using errcode = 'P0042', hint = 'do not'; end $$;
\set SHOW_CONTEXT errors
\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE :SQLSTATE :ERROR :ROW_COUNT
select say('noticed');

\echo == transactions
begin;
insert into entry (account_id, amount, note) values (1, 10, 'kept') returning id, note;
savepoint inside;
insert into entry (account_id, amount, note) values (1, 10, 'inner');
select 1 / 0;
select 'refused';
rollback to inside;
select note from entry;
commit;
begin isolation level serializable read only;
delete from entry;
commit;
select note from entry;
commit;
begin;
begin;
rollback and chain;
show transaction_isolation;
rollback;

\echo == on_error_rollback
\set ON_ERROR_ROLLBACK on
begin;
insert into entry (account_id, amount, note) values (2, 20, 'before');
select 1 / 0;
insert into entry (account_id, amount, note) values (2, 20, 'after');
commit;
\set ON_ERROR_ROLLBACK off
select note from entry order by id;

\echo == autocommit_off
\set AUTOCOMMIT off
insert into entry (account_id, amount, note) values (3, 30, 'not yet');
rollback;
insert into entry (account_id, amount, note) values (3, 30, 'for good');
commit;
select note from entry where account_id = 3;
commit;
\set AUTOCOMMIT on

\echo == copy
\copy account to 'account.csv' (format csv, header)
\copy (select id, owner, balance / 4 from account order by id) to 'few.txt'
\copy copied (id, name, amount) from 'few.txt'
copy (select id, name, amount from copied order by id limit 3) to stdout;
copy copied (id, name) from stdin;
1000	žluťoučký
1001	\N
\.
copy copied (id) from stdin;
1002
not a number
\.
\copy copied from 'no such file'
\copy copied (id) from 'account.csv' (format csv)
select count(*), count(name), max(id) from copied;
\copy (select generate_series(1, 20000)) to program 'tail -n 1'

\echo == large_objects
\set QUIET on
\lo_import 'account.csv' 'a comment'
\lo_export :LASTOID 'back.csv'
\! cmp account.csv back.csv && echo same
select length(lo_get(:LASTOID));
\lo_unlink :LASTOID
\lo_unlink 1
\set QUIET off

\echo == fetch_count
\set FETCH_COUNT 7
select n from generate_series(1, 30) n;
select 10 / (n - 20) from generate_series(1, 30) n;
\set FETCH_COUNT 0

\echo == cursors
begin;
declare slow scroll cursor for select id, owner from account order by id;
fetch 3 from slow;
move 5 in slow;
fetch backward 2 from slow;
commit;
fetch 1 from slow;

\echo == statements_of_sql
begin;
prepare twice (int) as select $1 * 2 as twice;
execute twice (21);
execute twice (4);
deallocate twice;
create temp table scratch on commit drop as select generate_series(1, 3) n;
select sum(n) from scratch;
commit;

\echo == settings
set TimeZone = 'America/New_York';
set DateStyle = 'German, DMY';
select '2024-07-01 12:00:00+00'::timestamptz;
begin; set local TimeZone = 'Asia/Tokyo'; select '2024-07-01 12:00:00+00'::timestamptz; commit;
select '2024-07-01 12:00:00+00'::timestamptz;
begin; set TimeZone = 'Asia/Tokyo'; rollback;
select '2024-07-01 12:00:00+00'::timestamptz, current_setting('application_name');
set client_encoding = 'LATIN1';
select convert_to('ž', 'UTF8') as its_bytes, 'é' as e;
set client_encoding = 'UTF8';
select 'ž';
show client_encoding;

\echo == bind
select :VERSION_NUM >= 160000 as is_new \gset
\if :is_new
\ir bind.sql
\else
\echo this psql has no bind
\endif

\echo == pipeline
select :VERSION_NUM >= 180000 as is_new \gset
\if :is_new
\ir pipeline.sql
\else
\echo this psql has no pipelines
\endif

\echo == connect
\c
select current_setting('application_name');
\c - - - -
\c -reuse-previous=on "application_name='another'"
select current_setting('application_name');

\echo == timeout
set statement_timeout = '300ms' \; select pg_sleep(600);
begin; set local statement_timeout = '300ms'; select pg_sleep(600); commit;
select 42;

\echo == done
