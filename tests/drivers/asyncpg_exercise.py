"""asyncpg at work, one line of result per step.

Called as `asyncpg_exercise.py HOST PORT DATABASE USER` on a database made by schema.sql. Lines that
begin with `#` are facts about this run; all others must be the same wherever it connects to.
EXERCISE_TOGETHER=yes makes the crowd wait until all of it is connected; EXERCISE_WITHOUT names steps
to leave out, separated by commas; EXERCISE_CACHE is asyncpg's statement_cache_size, if not its own.
"""

import asyncio
import datetime as dt
import decimal
import io
import ipaddress
import json
import os
import sys
import uuid

import asyncpg

HOST, PORT, DATABASE, USER = sys.argv[1:5]
TOGETHER = os.environ.get("EXERCISE_TOGETHER") == "yes"
WITHOUT = os.environ.get("EXERCISE_WITHOUT", "").split(",")
CACHE = {"statement_cache_size": int(os.environ["EXERCISE_CACHE"])} if "EXERCISE_CACHE" in os.environ else {}
CROWD = 5
PATIENCE_SECONDS = 20
WHERE = {"host": HOST, "port": int(PORT), "database": DATABASE, "user": USER, "ssl": False, **CACHE}

steps = []


def step(function):
    """Registers a step. It gets the main connection and returns what is to be printed."""
    steps.append(function)
    return function


async def connect(application_name="the exercise", **settings):
    return await asyncpg.connect(**WHERE, server_settings={"application_name": application_name, **settings})


def told(error):
    """All that the server said about an error, apart from where in its source it arose."""
    if not isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__}({error})"
    fields = {name: value for name, value in error.as_dict().items() if not name.startswith("server_source")}
    return f"{type(error).__name__}({', '.join(f'{name}={fields[name]!r}' for name in sorted(fields))})"


async def fails(awaitable):
    try:
        await awaitable
    except Exception as error:
        return told(error)
    return "no error"


async def wait_until_sleeps(text):
    """Waits, on a connection of its own, until a query that contains `text` sleeps. A query is active from its
    Parse on, and a cancel that comes between that and Execute is lost, as it should be."""
    watcher = await connect()
    sql = ("select count(*) from pg_stat_activity where datname = current_database()"
           " and wait_event = 'PgSleep' and query like $1")
    for _ in range(PATIENCE_SECONDS * 50):
        if await watcher.fetchval(sql, f"%{text}%"):
            break
        await asyncio.sleep(0.02)
    else:
        raise TimeoutError(text)
    await watcher.close()


@step
async def parameters(main):
    settings = main.get_settings()
    names = ["server_version", "server_encoding", "application_name", "is_superuser",
             "session_authorization", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
             "standard_conforming_strings", "in_hot_standby", "default_transaction_read_only"]
    reported = {name: getattr(settings, name, None) for name in names}
    return f"{reported} {await main.fetchval('show application_name')} {main.get_server_version()}"


@step
async def client_encoding(main):
    """asyncpg asks for `'utf-8'`, quotes and all; the server reports it by its own name."""
    other = await connect(client_encoding="'utf-8'")
    said = [connection.get_settings().client_encoding for connection in (main, other)]
    said += [await connection.fetchval("show client_encoding") for connection in (main, other)]
    await other.close()
    return str(said)


@step
async def types(main):
    tz = dt.timezone(dt.timedelta(hours=5, minutes=30))
    values = [
        ("int2", 32767), ("int4", -2147483648), ("int8", 9223372036854775807), ("bool", True),
        ("float4", 1.5), ("float8", 1e300), ("numeric", decimal.Decimal("-12345678901234567890.00123")),
        ("numeric", decimal.Decimal("NaN")), ("text", "žluťoučký kůň 🐎 'quoted' \\ \"double\""), ("text", ""),
        ("varchar(3)", "abc"), ("bytea", bytes(range(256))), ("bytea", b""), ("date", dt.date(2024, 2, 29)),
        ("time", dt.time(23, 59, 59, 999999)), ("timestamp", dt.datetime(1999, 12, 31, 23, 59, 59, 1)),
        ("timestamptz", dt.datetime(2024, 6, 1, 12, 0, tzinfo=tz)),
        ("interval", dt.timedelta(days=3, seconds=5, microseconds=7)),
        ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")), ("json", '{"a": [1, null]}'),
        ("jsonb", '{"b": {"c": 1.5}}'), ("int4[]", [1, None, 3]), ("text[]", ["a,b", 'q"', None, "", "🐎"]),
        ("int4[][]", [[1, 2], [3, 4]]), ("inet", ipaddress.ip_interface("10.1.2.3/24")), ("text", None),
        ("int4", None), ("jsonb", None), ("numeric[]", [decimal.Decimal("1.10"), None]),
        ("int4range", asyncpg.Range(1, 10)), ("point", asyncpg.Point(1, 2.5)), ("oid", 4294967295),
    ]
    said = []
    for kind, value in values:
        row = await main.fetchrow(f"select $1::{kind} as value, pg_typeof($1::{kind})::text as kind", value)
        said.append(f"{row['kind']}={row['value']!r}")
    return "; ".join(said)


@step
async def types_of_the_database_itself(main):
    """asyncpg asks the catalogue for types that it does not know, by statements of its own."""
    await main.execute("create type mood as enum ('glad', 'so so')")
    await main.execute("create type pair as (number int, mood mood)")
    said = [await main.fetchval("select $1::mood", "glad"), await main.fetchval("select $1::mood[]", ["so so", None])]
    said.append(await main.fetchval("select row(7, 'glad')::pair"))
    said.append(await main.fetchval("select $1::pair[]", [(1, "glad"), (2, "so so")]))
    said.append(await main.fetchval("select (select array_agg(a) from account a where id < 3)"))
    await main.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    said.append(await main.fetchval("select $1::jsonb", {"a": [1, None, "ž"]}))
    await main.reset_type_codec("jsonb", schema="pg_catalog")
    said.append(await fails(main.fetchval("select $1::mood", "sad")))
    return str(said)


@step
async def prepared_by_itself(main):
    sums = []
    for n in range(12):
        sums.append(str(await main.fetchval("select sum(balance) + $1::int from account where id > $2", n, n)))
    count = await main.fetchval("select count(*) from pg_prepared_statements where not from_sql")
    print(f"# prepared: {count}")
    return " ".join(sums)


@step
async def prepared_by_hand(main):
    statement = await main.prepare("select id, owner from account where id between $1 and $2 order by id")
    said = [[str(p.name) for p in statement.get_parameters()], [a.name for a in statement.get_attributes()]]
    for n in range(3):
        said.append([tuple(row) for row in await statement.fetch(n, n + 1)])
        said.append(await statement.fetchval(n + 1, n + 1, column=1))
    said.append(statement.get_statusmsg())
    said.append([tuple(row) for row in await statement.fetchmany([(1, 1), (5, 6)])])
    other = await main.prepare("select $1::text || 'x'")
    said.append([await other.fetchval("y"), await statement.fetchval(9, 9, column=1)])
    said.append(await fails(main.prepare("select no_such_column")))
    del statement, other
    said.append(await main.fetchval("select 1"))
    return str(said)


@step
async def more_statements_than_kept(main):
    """Past 100 asyncpg closes the oldest on the server."""
    total = 0
    for _ in range(2):
        for n in range(150):
            value = await main.fetchval(f"select {n}::int + $1::int", n)
            assert value == 2 * n, (value, n)
            total += value
    for n in (0, 1, 149, 75):
        assert await main.fetchval(f"select {n}::int + $1::int", n) == 2 * n
    return str(total)


@step
async def transactions(main):
    said = []
    insert = "insert into entry (account_id, amount, note) values (1, 10, $1)"
    async with main.transaction():
        await main.execute(insert, "kept")
    try:
        async with main.transaction():
            await main.execute(insert, "undone")
            raise KeyError("by hand")
    except KeyError as error:
        said.append(repr(error))
    async with main.transaction(isolation="serializable"):
        await main.execute(insert, "outer")
        try:
            async with main.transaction():
                await main.execute(insert, "inner")
                await main.fetchval("select 1 / $1::int", 0)
        except asyncpg.DivisionByZeroError as error:
            said.append(told(error))
        said.append([main.is_in_transaction(), await main.fetchval("show transaction_isolation")])
    said.append(main.is_in_transaction())
    said.append([tuple(row) for row in await main.fetch("select note, amount from entry order by id")])
    async with main.transaction(readonly=True):
        said.append(await fails(main.execute("delete from account")))
        said.append(await fails(main.execute("select 1")))
        said.append(await fails(main.fetch("select $1::int", 1)))
    said.append(await main.fetchval("select 40 + 2"))
    return str(said)


@step
async def error_of_a_prepared_statement(main):
    said = []
    for divisor in (1, 0, 2, 0, 5):
        try:
            said.append(await main.fetchval("select 10 / $1::int", divisor))
        except asyncpg.PostgresError as error:
            said.append(error.sqlstate)
    for _ in range(2):
        said.append(await fails(main.fetchval("select no_such_column + $1::int", 1)))
    said.append(await fails(main.fetchval("select $1::int", "not a number")))
    return str(said)


@step
async def violations(main):
    said = []
    for sql, value in [
        ("insert into account values (99, $1, 0)", "owner 3"),
        ("insert into account values (99, $1, 0)", None),
        ("insert into account values (99, $1, -1)", "new"),
        ("insert into entry (account_id, amount, note) values (999, 0, $1)", "x"),
        ("select $1::text::int", "twelve"),
        ("select say($1) frm account", "x"),
    ]:
        said.append(await fails(main.execute(sql, value)))
    return "\n  ".join(said)


@step
async def notices(main):
    heard = []
    listener = lambda _, message: heard.append(
        [message.severity, message.sqlstate, message.message, message.detail, message.hint])
    main.add_log_listener(listener)
    lengths = [await main.fetchval("select say($1)", word) for word in ["one", "žluť", "three"]]
    await asyncio.sleep(0)
    main.remove_log_listener(listener)
    return f"{lengths} {heard}"


@step
async def cursors(main):
    seen = []
    async with main.transaction():
        async for row in main.cursor("select n from generate_series(1, $1::int) n", 50, prefetch=7):
            seen.append(row["n"])
            if row["n"] == 20:
                seen.append(await main.fetchval("select 1000 + $1::int", 20))
        cursor = await main.cursor("select generate_series(1, $1::int)", 100)
        seen.append([row[0] for row in await cursor.fetch(3)])
        seen.append(await cursor.forward(90))
        other = await main.cursor("select 'other ' || generate_series(1, 3)")
        seen.append(tuple(await cursor.fetchrow()))
        seen.append([row[0] for row in await other.fetch(10)])
        seen.append([row[0] for row in await cursor.fetch(100)])
    seen.append(await fails(main.cursor("select 1")))
    return str(seen)


@step
async def copy(main):
    when = dt.datetime(2020, 2, 29, 1, 2, 3)
    records = [(n, f"name\t{n}\n\\ž", decimal.Decimal(n) / 4, when, bytes([n % 256])) for n in range(1000)]
    said = [await main.copy_records_to_table("copied", records=records)]
    source = io.BytesIO("".join(f'{n},"a ""quoted"" {n}"\n' for n in range(1000, 1100)).encode())
    said.append(await main.copy_to_table("copied", source=source, columns=["id", "name"], format="csv"))
    target = io.BytesIO()
    said.append(await main.copy_from_table("copied", output=target, columns=["id", "name"], format="csv", header=True))
    said.append([len(target.getvalue()), target.getvalue()[:60]])
    target = io.BytesIO()
    said.append(await main.copy_from_query("select * from copied where id > $1 order by id", 1095, output=target))
    said.append(target.getvalue())
    said.append(await fails(main.copy_records_to_table("copied", records=[(1, "again", None, None, None)])))
    said.append(await fails(main.copy_to_table("copied", source=io.BytesIO(b"x\n"), columns=["id"], format="csv")))

    async def broken_source():
        yield b"200000\n"
        raise KeyError("the client gives up")

    said.append(await fails(main.copy_to_table("copied", source=broken_source(), columns=["id"], format="csv")))
    said.append(await main.fetchval("select count(*) from copied"))
    return str(said)


@step
async def execute_many(main):
    insert = "insert into entry (account_id, amount, note) values ($1, $2, $3)"
    await main.executemany(insert, [(3, n, f"note {n}") for n in range(500)])
    said = [await main.fetchval("select count(*) from entry where account_id = 3")]
    records = [(50, "fifty"), (1, "one"), (51, "x")]
    said.append(await fails(main.executemany("insert into account values ($1, $2, 0)", records)))
    said.append(await main.fetchval("select count(*) from account where id >= 50"))
    said.append([tuple(row) for row in await main.fetchmany("select $1::int * 2", [(1,), (2,), (3,)])])
    async with main.transaction():
        await main.executemany(insert, [(4, n, None) for n in range(10)])
        said.append(await main.fetchval("select count(*) from entry where account_id = 4"))
    return str(said)


@step
async def several_statements_at_once(main):
    said = [await main.execute("select 1; update account set balance = balance where id < 4; select 2, 3")]
    said.append(await fails(main.execute("insert into account values (60, 'sixty', 0); select 1 / 0")))
    said.append(await main.fetchval("select count(*) from account where id = 60"))
    return str(said)


@step
async def large_values(main):
    text, raw = "žů" * 262144, bytes(range(256)) * 4096
    row = await main.fetchrow("select $1::text, $2::bytea", text, raw)
    assert tuple(row) == (text, raw)
    rows = await main.fetch("select repeat('x', 3000000), generate_series(1, 3)")
    return str([[len(row[0].encode()), len(row[1])], [(len(value), n) for value, n in rows]])


async def cancelled(connection, sql, *values):
    """What comes of a query that is cancelled while it sleeps."""
    task = asyncio.ensure_future(connection.fetchval(sql, *values) if values else connection.execute(sql))
    await wait_until_sleeps(sql)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError as error:
        return repr(error)


@step
async def timeout_and_cancel(main):
    # Long enough for the query to sleep when its time is up.
    said = [await fails(main.fetchval("select pg_sleep(600), $1::int", 1, timeout=2))]
    said.append(await main.fetchval("select 42"))
    said.append(await cancelled(main, "select pg_sleep(600), $1::int, 'extended'", 1))
    said.append(await main.fetchval("select 43"))
    said.append(await cancelled(main, "select pg_sleep(600), 'simple'"))
    said.append(await main.fetchval("select 44"))
    async with main.transaction():
        said.append(await cancelled(main, "select pg_sleep(600), $1::int, 'in a transaction'", 1))
        said.append(await fails(main.fetchval("select 1")))
    said.append(await main.fetchval("select 45"))
    return str(said)


@step
async def statement_timeout(main):
    said = []
    async with main.transaction():
        await main.execute("set local statement_timeout = '300ms'")
        try:
            async with main.transaction():
                await main.fetchval("select pg_sleep(600)")
        except asyncpg.PostgresError as error:
            said.append(told(error))
        await main.execute("set local statement_timeout = 0")
        said.append(await main.fetchval("select 1"))
    said.append(await main.fetchval("show statement_timeout"))
    return str(said)


@step
async def settings(main):
    """Two connections with settings of their own, in turns, each transaction on any server."""
    said = []
    moment = "select '2024-07-01 12:00:00+00'::timestamptz::text, current_setting('application_name')"
    other = await connect("the other", TimeZone="Asia/Tokyo")
    await main.execute("set TimeZone = 'America/New_York'")
    await main.execute("set DateStyle = 'German, DMY'; set application_name = 'renamed'")
    for _ in range(3):
        for connection in (main, other):
            said.append(tuple(await connection.fetchrow(moment)))
    transaction = other.transaction()
    await transaction.start()
    await other.execute("set TimeZone = 'Europe/Prague'")
    said.append([tuple(await other.fetchrow(moment)), other.get_settings().TimeZone])
    await transaction.rollback()
    said.append([tuple(await other.fetchrow(moment)), other.get_settings().TimeZone])
    said.append([tuple(await main.fetchrow(moment)), main.get_settings().TimeZone])
    await other.close()
    await main.execute("set TimeZone = 'UTC'; set DateStyle = 'ISO, MDY'; set application_name = 'the exercise'")
    return str(said)


@step
async def a_table_that_changes(main):
    """The result of a prepared `select *` changes: asyncpg prepares it once more by itself, under another
    name, unless it is in a transaction."""
    await main.execute("create table changing (a int); insert into changing values (1)")
    select = "select * from changing where a = $1"
    said = [tuple(await main.fetchrow(select, 1)) for _ in range(2)]
    await main.execute("alter table changing add b text default 'new'")
    said.append(tuple(await main.fetchrow(select, 1)))
    said.append(tuple(await main.fetchrow(select, 1)))
    async with main.transaction():
        await main.execute("alter table changing add c int")
        said.append((await fails(main.fetchrow(select, 1))).split("(")[0])
    said.append(await main.fetchval("select count(*) from information_schema.columns where table_name = 'changing'"))
    said.append(tuple(await main.fetchrow(select, 1)))
    await main.execute("drop table changing")
    said.append(await fails(main.fetchrow(select, 1)))
    return str(said)


@step
async def pool_of_its_own(main):
    """asyncpg's pool, which cleans each connection with SQL when it comes back."""
    size = 3 if TOGETHER else 1  # in session mode each takes a server
    said = 0
    options = {"server_settings": {"application_name": "pooled"}, "min_size": size, "max_size": size}
    async with asyncpg.create_pool(**WHERE, **options) as pool:
        async def work(n):
            async with pool.acquire() as connection, connection.transaction():
                return await connection.fetchval("select $1::int + 1", n)
        said = await asyncio.gather(*(work(n) for n in range(20)))
    return str(said)


@step
async def reset_all(main):
    """Back to what the startup packet asked for, not to the server's default."""
    other = await connect("as at the start", TimeZone="Asia/Tokyo")
    await other.execute("set TimeZone = 'UTC'; set application_name = 'renamed'")
    said = [await other.fetchval("show TimeZone"), await other.fetchval("show application_name")]
    await other.reset()
    said += [await other.fetchval("show TimeZone"), await other.fetchval("show application_name")]
    await other.close()
    return str(said)


@step
async def connections_in_a_row(main):
    total = 0
    for n in range(20):
        connection = await connect(f"number {n}")
        total += await connection.fetchval("select $1::int", n)
        assert await connection.fetchval("show application_name") == f"number {n}"
        await connection.close()
    return str(total)


def rounds(number):
    """Some go on for longer than others: where few are left, a server has nobody of its own any more."""
    return 20 + 10 * number


async def member(number, everybody):
    """One of the crowd: its own connection, every answer checked. Returns the servers that it has seen."""
    backends = set()
    connection = await connect(f"member {number}")
    if TOGETHER:
        everybody[number].set()
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in everybody)), PATIENCE_SECONDS)
    for n in range(rounds(number)):
        mine = number * 1000 + n
        async with connection.transaction():
            # Held long enough for the others to have to wait.
            backends.add(await connection.fetchval("select pg_backend_pid() from pg_sleep(0.003)"))
            assert await connection.fetchval("select $1::int + 1", mine) == mine + 1
            assert await connection.fetchval(f"select $1::int + {n % 4}", mine) == mine + n % 4
            assert await connection.fetchval("select current_setting('application_name')") == f"member {number}"
            if n % 7 == 3:
                assert "division by zero" in await fails(divide(connection, number))
        owner = await connection.fetchval("select owner from account where id = $1", n % 20 + 1)
        assert owner == f"owner {n % 20 + 1}"
    await connection.close()
    return backends


async def divide(connection, number):
    async with connection.transaction():
        await connection.fetchval("select 1 / ($1::int - $2::int)", number, number)


@step
async def crowd(main):
    everybody = [asyncio.Event() for _ in range(CROWD)]
    seen = await asyncio.gather(*(member(number, everybody) for number in range(CROWD)))
    print(f"# seen: {seen}")
    backends = set().union(*seen)
    print(f"# crowd: {CROWD} members, {len(backends)} backends, {sum(len(s) > 1 for s in seen)} wandered")
    return f"{CROWD} members, {sum(map(rounds, range(CROWD)))} right"


async def main():
    print(f"# asyncpg {asyncpg.__version__}, {CACHE or 'its own statement cache'}")
    connection = await connect()
    for function in steps:
        name = function.__name__
        if name in WITHOUT:
            continue
        try:
            print(f"== {name}\n{await function(connection)}", flush=True)
        except Exception as error:
            print(f"== {name}\nFAILED {told(error)}", flush=True)
            connection.terminate()
            connection = await connect()
    await connection.close()
    print("== done")


asyncio.run(main())
