-- Included by session.sql where psql knows pipelines and named statements (18 and later).
select $1::int + $2::int as sum \parse mine
\bind_named mine 40 2 \g
\bind_named mine 1 2 \g
select 1 / $1::int \parse wrong
\bind_named wrong 0 \g
\close_prepared mine
\bind_named mine 1 1 \g
select $1::int + $2::int as sum \parse mine
\bind_named mine 5 6 \g
\startpipeline
select 1;
select $1::int as n \bind 2 \sendpipeline
\bind_named wrong 2 \sendpipeline
\flushrequest
\getresults
select 3 \bind \sendpipeline
\syncpipeline
\bind_named wrong 0 \sendpipeline
select 'skipped' \bind \sendpipeline
\syncpipeline
select 'again' \bind \sendpipeline
\endpipeline
begin;
\startpipeline
insert into entry (account_id, amount) values ($1, 5) \bind 1 \sendpipeline
no_such_command \bind \sendpipeline
\endpipeline
rollback;
\startpipeline
begin \bind \sendpipeline
insert into entry (account_id, amount) values ($1, 5) \bind 1 \sendpipeline
commit \bind \sendpipeline
\endpipeline
select count(*) from entry;
