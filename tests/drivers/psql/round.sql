-- One round of a member: a line for each answer that is not its own, and which server it had.
begin;
select pg_backend_pid() as pid, current_setting('application_name') as has_name, current_setting('TimeZone') as has_zone \gset
\echo # backend :pid
select 'wrong name', :'has_name' where :'has_name' <> :'name';
select 'wrong zone', :'has_zone' where :'has_zone' <> :'zone';
declare mine cursor for select :base + n as value from generate_series(1, 20) n;
-- Long enough for the others to want a server as well.
select pg_sleep(0.01) \g /dev/null
fetch 5 from mine \g /dev/null
fetch 1 from mine \gset
select 'wrong value', :value where :value <> :base + 6;
savepoint inside;
insert into account values (:me + 100, 'owner 1', 0);
\echo :SQLSTATE
rollback to inside;
commit;
select 'wrong owner', owner from account where id = :me and owner <> 'owner ' || :me;
\echo :name is through a round
