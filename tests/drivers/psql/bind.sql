-- Included by session.sql where psql knows \bind (16 and later).
select $1::int + $2::int as sum \bind 40 2 \g
select 1 / $1::int \bind 0 \g
select $1 as text, $2 as nothing \bind 'it''s' '' \gx
begin;
select $1::int as inside \bind 1 \g
commit;
