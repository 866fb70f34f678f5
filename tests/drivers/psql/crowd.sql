-- One of a crowd of psql, each with its own :me. Then come its rounds, by round.sql.
\set QUIET on
\pset tuples_only on
\pset format unaligned
select :me * 1000 as base, 'member ' || :me as name, (array['UTC', 'Asia/Tokyo', 'Asia/Kolkata'])[:me % 3 + 1] as zone \gset
set application_name = :'name';
set TimeZone = :'zone';
