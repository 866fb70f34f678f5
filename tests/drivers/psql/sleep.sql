-- Sleeps until it is interrupted; nothing must come after it.
select 'before';
begin;
select pg_sleep(600);
select 'after';
