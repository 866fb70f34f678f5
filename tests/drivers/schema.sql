-- What every exercise finds in its database. The same in each, so that answers can be compared.

create table account (
    id      integer primary key,
    owner   text not null,
    balance numeric(12, 2) not null default 0,
    constraint account_owner_is_free unique (owner),
    constraint account_is_covered check (balance >= 0)
);
comment on table account is 'who owns how much';
insert into account select n, 'owner ' || n, n * 100 from generate_series(1, 20) n;

create table entry (
    id         integer generated always as identity primary key,
    account_id integer not null references account,
    amount     numeric(12, 2) not null,
    note       text,
    at         timestamp with time zone not null default '2001-02-03 04:05:06+00'
);
create index entry_by_account on entry (account_id, at desc);

create view rich as select id, owner from account where balance > 1500;

create table copied (id integer primary key, name text, amount numeric, at timestamp, raw bytea);

create function say(what text) returns integer language plpgsql as $$
begin
    raise notice 'you said %', what using detail = 'in full', hint = 'say less';
    return length(what);
end $$;

create procedure pay(payer integer, payee integer, amount numeric) language plpgsql as $$
begin
    update account set balance = balance - pay.amount where id = payer;
    update account set balance = balance + pay.amount where id = payee;
    insert into entry (account_id, amount) values (payer, -pay.amount), (payee, pay.amount);
end $$;
