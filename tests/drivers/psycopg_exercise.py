"""Psycopg 3 at work, one line of result per step.

Called as `psycopg_exercise.py HOST PORT DATABASE USER` on a database made by schema.sql. Lines that
begin with `#` are facts about this run (how many servers were seen); all others must be the same
wherever it connects to. EXERCISE_TOGETHER=yes makes the crowd wait until all of it is connected;
EXERCISE_WITHOUT names steps to leave out, separated by commas.
"""

import datetime as dt
import decimal
import ipaddress
import logging
import os
import sys
import threading
import time
import uuid

import psycopg
from psycopg.types.json import Json, Jsonb

HOST, PORT, DATABASE, USER = sys.argv[1:5]
TOGETHER = os.environ.get("EXERCISE_TOGETHER") == "yes"
WITHOUT = os.environ.get("EXERCISE_WITHOUT", "").split(",")
CROWD = 5
PATIENCE_SECONDS = 20

# It tells of errors that it ignores, with addresses.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

steps = []


def step(function):
    """Registers a step. It gets the main connection and returns what is to be printed."""
    steps.append(function)
    return function


def connect(**more):
    return psycopg.connect(host=HOST, port=PORT, dbname=DATABASE, user=USER, **more)


def told(error):
    """All that the server said about an error, apart from where in its source it arose."""
    diag = error.diag
    names = [
        "severity", "severity_nonlocalized", "sqlstate", "message_primary", "message_detail",
        "message_hint", "statement_position", "internal_query", "context", "schema_name",
        "table_name", "column_name", "datatype_name", "constraint_name",
    ]
    fields = [(name, getattr(diag, name)) for name in names]
    said = ", ".join(f"{name}={value!r}" for name, value in fields if value is not None)
    return f"{type(error).__name__}({said})"


def one(connection, sql, *parameters):
    return connection.execute(sql, parameters or None).fetchone()[0]


def fails(connection, sql, *parameters):
    try:
        connection.execute(sql, parameters or None)
    except psycopg.Error as error:
        return told(error)
    return "no error"


def wait_until_sleeps(text):
    """Waits, on a connection of its own, until a query that contains `text` sleeps. A query is active from its
    Parse on, and a cancel that comes between that and Execute is lost, as it should be."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with connect(autocommit=True) as watcher:
        sql = ("select count(*) from pg_stat_activity where datname = current_database()"
               " and wait_event = 'PgSleep' and query like %s")
        while one(watcher, sql, f"%{text}%") == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(text)
            time.sleep(0.02)


@step
def parameters(main):
    names = ["server_version", "server_encoding", "client_encoding", "application_name",
             "is_superuser", "session_authorization", "DateStyle", "IntervalStyle", "TimeZone",
             "integer_datetimes", "standard_conforming_strings", "in_hot_standby",
             "default_transaction_read_only"]
    reported = {name: main.info.parameter_status(name) for name in names}
    shown = [one(main, f"show {name}") for name in ["application_name", "statement_timeout"]]
    main.commit()
    return f"{reported} {shown}"


@step
def types(main):
    tz = dt.timezone(dt.timedelta(hours=5, minutes=30))
    values = [
        ("int2", 32767), ("int4", -2147483648), ("int8", 9223372036854775807), ("bool", True),
        ("float4", 1.5), ("float8", 1e300), ("numeric", decimal.Decimal("-12345678901234567890.00123")),
        ("numeric", decimal.Decimal("NaN")), ("text", "žluťoučký kůň 🐎 'quoted' \\ \"double\""), ("text", ""),
        ("varchar(3)", "abc"), ("bytea", bytes(range(256))), ("bytea", b""),
        ("date", dt.date(2024, 2, 29)), ("time", dt.time(23, 59, 59, 999999)),
        ("timestamp", dt.datetime(1999, 12, 31, 23, 59, 59, 1)),
        ("timestamptz", dt.datetime(2024, 6, 1, 12, 0, tzinfo=tz)),
        ("interval", dt.timedelta(days=3, seconds=5, microseconds=7)),
        ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")),
        ("json", Json({"a": [1, None, "ž"]})), ("jsonb", Jsonb({"b": {"c": 1.5}})),
        ("int4[]", [1, None, 3]), ("text[]", ["a,b", 'q"', None, "", "🐎"]), ("int4[][]", [[1, 2], [3, 4]]),
        ("inet", ipaddress.ip_interface("10.1.2.3/24")), ("text", None), ("int4", None), ("jsonb", None),
        ("numeric[]", [decimal.Decimal("1.10"), None]), ("timestamptz[]", [dt.datetime(2000, 1, 1, tzinfo=tz)]),
        ("int4range", psycopg.types.range.Range(1, 10)),
    ]
    lines = []
    for binary in (False, True):
        for kind, value in values:
            with main.cursor(binary=binary) as cursor:
                row = cursor.execute(f"select %s::{kind}, pg_typeof(%s::{kind})::text", [value, value]).fetchone()
                lines.append(f"{row[1]}={row[0]!r}")
    main.commit()
    return "; ".join(lines)


@step
def prepared_by_itself(main):
    """Past the automatic threshold (5), in a transaction each."""
    sums = []
    for n in range(12):
        with main.transaction():
            row = main.execute("select sum(balance) + %s from account where id > %s", [n, n]).fetchone()
            sums.append(str(row[0]))
    with main.transaction():
        count = one(main, "select count(*) from pg_prepared_statements where not from_sql")
    print(f"# prepared: {count}")
    return " ".join(sums)


@step
def more_statements_than_kept(main):
    """Each is prepared at once; past 100 psycopg gives up the oldest on the server."""
    total = 0
    for _ in range(2):
        for n in range(150):
            row = main.execute(f"select {n}::int + %s::int", [n], prepare=True).fetchone()
            assert row[0] == 2 * n, (row, n)
            total += row[0]
            if n % 10 == 0:
                main.commit()
    main.commit()
    # Given up on one server must not mean that another client's, or a later, preparation is broken.
    for n in (0, 1, 149, 75):
        assert main.execute(f"select {n}::int + %s::int", [n], prepare=True).fetchone()[0] == 2 * n
    main.commit()
    return str(total)


@step
def deallocate_all(main):
    for _ in range(2):
        for n in range(3):
            assert main.execute(f"select {n} * %s::int", [7], prepare=True).fetchone()[0] == n * 7
        main.commit()
        main.execute("deallocate all")
        main.commit()
    return str(main.execute("select 6 * %s::int", [7], prepare=True).fetchone()[0])


@step
def transactions(main):
    said = []
    with main.transaction():
        main.execute("insert into entry (account_id, amount, note) values (1, 10, 'kept')")
    try:
        with main.transaction():
            main.execute("insert into entry (account_id, amount, note) values (1, 10, 'undone')")
            raise KeyError("by hand")
    except KeyError as error:
        said.append(repr(error))
    with main.transaction():
        main.execute("insert into entry (account_id, amount, note) values (1, 10, 'outer')")
        try:
            with main.transaction():
                main.execute("insert into entry (account_id, amount, note) values (1, 10, 'inner')")
                main.execute("select 1 / 0")
        except psycopg.errors.DivisionByZero as error:
            said.append(told(error))
        said.append(main.info.transaction_status.name)
    said.append(main.info.transaction_status.name)
    rows = main.execute("select note, amount from entry order by id").fetchall()
    main.rollback()
    return f"{said} {rows}"


@step
def error_inside_a_transaction(main):
    first = fails(main, "select * from nowhere where x = %s", 1)
    status = main.info.transaction_status.name
    second = fails(main, "select 1")
    main.rollback()
    return f"{first} {status} {second} {one(main, 'select 40 + 2')} {main.rollback()}"


@step
def error_of_a_prepared_statement(main):
    """A statement that fails at its execution stays prepared; one that fails at its Parse is not."""
    said = []
    for divisor in (1, 0, 2, 0, 5):
        try:
            said.append(str(main.execute("select 10 / %s::int", [divisor], prepare=True).fetchone()[0]))
        except psycopg.Error as error:
            said.append(error.sqlstate)
        main.rollback()
    for _ in range(2):
        try:
            main.execute("select no_such_column + %s::int", [1], prepare=True)
        except psycopg.Error as error:
            said.append(told(error))
        main.rollback()
    return " ".join(said)


@step
def violations(main):
    said = []
    for sql, value in [
        ("insert into account values (99, %s, 0)", "owner 3"),
        ("insert into account values (99, %s, 0)", None),
        ("insert into account values (99, %s, -1)", "new"),
        ("insert into entry (account_id, amount, note) values (999, 0, %s)", "x"),
        ("select %s::int", "twelve"),
        ("select say(%s) frm account", "x"),
    ]:
        said.append(fails(main, sql, value))
        main.rollback()
    return "\n  ".join(said)


@step
def notices(main):
    heard = []
    handler = lambda diag: heard.append(
        [diag.severity, diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint])
    main.add_notice_handler(handler)
    lengths = [one(main, "select say(%s)", word) for word in ["one", "žluť", "three"]]
    main.rollback()
    main.remove_notice_handler(handler)
    return f"{lengths} {heard}"


@step
def named_cursor(main):
    seen = []
    with main.cursor(name="slow lane") as cursor:
        cursor.itersize = 7
        cursor.execute("select n, repeat('x', n) from generate_series(1, %s) n", [50])
        for number, text in cursor:
            assert len(text) == number
            seen.append(number)
            if number == 20:
                # Other work between two fetches.
                seen.append(one(main, "select 1000 + %s", number))
    with main.cursor(name="there and back", scrollable=True) as cursor:
        cursor.execute("select generate_series(1, 10)")
        cursor.scroll(5)
        seen.append(cursor.fetchone())
        cursor.scroll(-3)
        seen.append(cursor.fetchmany(2))
        cursor.scroll(0, mode="absolute")
        seen.append(cursor.fetchone())
    main.commit()
    try:
        cursor = main.cursor(name="gone with its transaction")
        cursor.execute("select 1")
        main.commit()
        cursor.fetchone()
    except psycopg.Error as error:
        seen.append(told(error))
    main.rollback()
    return str(seen)


@step
def copy(main):
    when = dt.datetime(2020, 2, 29, 1, 2, 3)
    with main.cursor() as cursor:
        with cursor.copy("copy copied from stdin") as into:
            for n in range(1000):
                into.write_row((n, f"name\t{n}\n\\ž", decimal.Decimal(n) / 4, when, bytes([n % 256])))
        said = [cursor.rowcount]
        with cursor.copy("copy copied (id, name) from stdin (format binary)") as into:
            into.set_types(["int4", "text"])
            for n in range(1000, 1100):
                into.write_row((n, "🐎" * (n % 5)))
        said.append(cursor.rowcount)
        main.commit()
        with cursor.copy("copy (select * from copied order by id) to stdout") as out:
            out.set_types(["int4", "text", "numeric", "timestamp", "bytea"])
            rows = list(out.rows())
        said += [len(rows), rows[0], rows[77], rows[-1]]
        with cursor.copy("copy (select id, name from copied order by id limit 5) to stdout (format binary)") as out:
            out.set_types(["int4", "text"])
            said.append(list(out.rows()))
    main.commit()
    return str(said)


@step
def copy_that_fails(main):
    said = []
    with main.cursor() as cursor:
        try:
            with cursor.copy("copy copied (id) from stdin") as into:
                into.write("1\n")
                into.write("not a number\n")
        except psycopg.Error as error:
            said.append(told(error))
        main.rollback()
        try:
            with cursor.copy("copy copied (id) from stdin") as into:
                into.write("200000\n")
                raise KeyError("the client gives up")
        except KeyError as error:
            said.append(repr(error))
        main.rollback()
        # The client leaves a COPY TO after the first row: psycopg cancels it.
        try:
            with cursor.copy("copy (select generate_series(1, 100000000)) to stdout") as out:
                said.append(bytes(out.read()))
                raise KeyError("the client has seen enough")
        except KeyError as error:
            said.append(repr(error))
        main.rollback()
        said.append(one(main, "select count(*) from copied where id >= 100000"))
    main.rollback()
    return str(said)


@step
def pipeline(main):
    said = []
    with main.pipeline() as pipe:
        cursors = [main.execute("select %s::int * 2", [n]) for n in range(30)]
        pipe.sync()
        said.append([cursor.fetchone()[0] for cursor in cursors])
        cursor = main.execute("insert into entry (account_id, amount) values (%s, %s) returning amount", [2, 5])
        said.append(cursor.fetchone()[0])
        main.rollback()
    said.append(main.info.transaction_status.name)
    said.append(one(main, "select count(*) from entry where account_id = 2"))
    main.rollback()
    return str(said)


@step
def pipeline_with_an_error(main):
    said = []
    try:
        with main.pipeline():
            # When the error arrives is a matter of time, so it may be raised by any of these.
            main.execute("insert into entry (account_id, amount) values (%s, 5)", [4])
            main.execute("select 1 / %s::int", [0])
            main.execute("insert into entry (account_id, amount) values (%s, 6)", [4])
    except psycopg.Error as error:
        said.append(told(error))
    said.append(main.info.transaction_status.name)
    main.rollback()
    said.append(one(main, "select count(*) from entry where account_id = 4"))
    main.rollback()
    # Statements prepared in a pipeline, one of them behind the error and so never prepared.
    for _ in range(2):
        try:
            with main.pipeline():
                main.execute("select 11 + %s::int", [1], prepare=True)
                main.execute("select 11 / %s::int", [0], prepare=True)
                main.execute("select 11 * %s::int", [1], prepare=True)
        except psycopg.Error as error:
            said.append(type(error).__name__)
        main.rollback()
    for sign in "+/*":
        said.append(main.execute(f"select 11 {sign} %s::int", [1], prepare=True).fetchone()[0])
    main.rollback()
    return str(said)


@step
def execute_many(main):
    with main.cursor() as cursor:
        cursor.executemany(
            "insert into entry (account_id, amount, note) values (%s, %s, %s)",
            [(3, n, f"note {n}") for n in range(200)])
        said = [cursor.rowcount]
        cursor.executemany("select %s::int + 1", [(n,) for n in range(5)], returning=True)
        while True:
            said.append(cursor.fetchone()[0])
            if not cursor.nextset():
                break
        main.commit()
        try:
            cursor.executemany("insert into account values (%s, %s, 0)", [(50, "fifty"), (1, "one"), (51, "x")])
        except psycopg.Error as error:
            said.append(told(error))
    main.rollback()
    said.append(one(main, "select count(*) from entry where account_id = 3"))
    said.append(one(main, "select count(*) from account where id >= 50"))
    main.rollback()
    return str(said)


@step
def several_statements_at_once(main):
    with main.cursor() as cursor:
        cursor.execute("select 1; select 2, 'b'; update account set balance = balance where id < 4; select 3")
        said = []
        while True:
            rows = cursor.fetchall() if cursor.description else None
            said.append((cursor.statusmessage, rows))
            if not cursor.nextset():
                break
    main.rollback()
    return str(said)


@step
def large_values(main):
    text, raw = "žů" * 262144, bytes(range(256)) * 4096
    said = []
    for binary in (False, True):
        row = main.execute("select %s::text, %s::bytea", [text, raw], binary=binary).fetchone()
        assert row == (text, raw)
        said.append([len(row[0].encode()), len(row[1])])
    row = main.execute("select repeat('x', 3000000), generate_series(1, 3)").fetchall()
    said.append([(len(value), n) for value, n in row])
    main.commit()
    return str(said)


@step
def cancel(main):
    said = []
    for way in ("cancel", "cancel_safe"):
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(fails(main, f"select pg_sleep(600), '{way}'")))
        thread.start()
        wait_until_sleeps(f"pg_sleep(600), '{way}'")
        getattr(main, way)()
        thread.join()
        said += outcome
        said.append(main.info.transaction_status.name)
        main.rollback()
        said.append(one(main, "select 42"))
        main.rollback()
    return str(said)


@step
def statement_timeout(main):
    with main.transaction():
        main.execute("set local statement_timeout = '300ms'")
        try:
            with main.transaction():
                main.execute("select pg_sleep(600)")
        except psycopg.Error as error:
            said = told(error)
        main.execute("set local statement_timeout = 0")
        main.execute("select 1")
    return f"{said} {one(main, 'show statement_timeout')} {main.rollback()}"


@step
def settings(main):
    """Two connections with settings of their own, in turns, each transaction on any server."""
    said = []
    moment = "select '2024-07-01 12:00:00+00'::timestamptz::text"
    with connect(application_name="the other", options="-c TimeZone=Asia/Tokyo") as other:
        main.execute("set TimeZone = 'America/New_York'")
        main.execute("set DateStyle = 'German, DMY'")
        main.execute("set application_name = 'renamed'")
        main.commit()
        for _ in range(3):
            for connection in (main, other):
                said.append((one(connection, moment), one(connection, "show application_name")))
                connection.commit()
        other.execute("set TimeZone = 'Europe/Prague'")
        other.rollback()
        said.append(one(other, moment))
        with other.transaction():
            other.execute("set local TimeZone = 'Europe/Prague'")
            said.append((one(other, moment), other.info.parameter_status("TimeZone")))
        said.append((one(other, moment), other.info.parameter_status("TimeZone")))
        other.commit()
        said.append((one(main, moment), main.info.parameter_status("TimeZone"), main.info.timezone.key))
        main.commit()
    main.execute("set TimeZone = 'UTC'")
    main.execute("set DateStyle = 'ISO, MDY'")
    main.commit()
    return str(said)


@step
def autocommit(main):
    main.autocommit = True
    said = [one(main, "select count(*) from rich")]
    main.execute("call pay(%s, %s, %s)", [20, 1, 500])
    said.append(fails(main, "call pay(%s, %s, %s)", 2, 1, 500))
    said.append(main.info.transaction_status.name)
    said.append(one(main, "select count(*) from rich"))
    said.append(fails(main, "vacuum nowhere"))
    main.execute("vacuum account")
    main.execute("call pay(%s, %s, %s)", [1, 20, 500])
    main.autocommit = False
    return str(said)


@step
def isolation_and_read_only(main):
    main.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    main.read_only = True
    said = [one(main, "show transaction_isolation"), fails(main, "delete from account")]
    main.rollback()
    main.isolation_level = main.read_only = None
    said.append(one(main, "show transaction_isolation"))
    main.rollback()
    return str(said)


@step
def a_table_that_changes(main):
    """The result of a prepared `select *` changes: PostgreSQL refuses the old plan."""
    main.execute("create table changing (a int)")
    main.execute("insert into changing values (1)")
    main.commit()
    said = []
    for _ in range(2):
        said.append(main.execute("select * from changing where a = %s", [1], prepare=True).fetchall())
    main.commit()
    # Inside DO, so that psycopg does not notice.
    main.execute("do $$ begin alter table changing add b text default 'new'; end $$")
    main.commit()
    said.append(fails(main, "select * from changing where a = %s", 1))
    main.rollback()
    main.execute("deallocate all")
    said.append(main.execute("select * from changing where a = %s", [1], prepare=True).fetchall())
    main.execute("drop table changing")
    main.commit()
    return str(said)


@step
def bad_logins(main):
    said = []
    try:
        connect(options="-c no_such_setting=1")
        said.append("accepted")
    except psycopg.OperationalError as error:
        said.append(str(error).split("FATAL:")[-1].strip())
    return str(said)


@step
def connections_in_a_row(main):
    said = 0
    for n in range(20):
        with connect(application_name=f"number {n}") as connection:
            said += one(connection, "select %s::int", n)
            assert one(connection, "show application_name") == f"number {n}"
    return str(said)


def rounds(number):
    """Some go on for longer than others: where few are left, a server has nobody of its own any more."""
    return 20 + 10 * number


class Member(threading.Thread):
    """One of the crowd: its own connection, statements prepared by psycopg itself, every answer checked."""

    def __init__(self, number, everybody):
        super().__init__()
        self.number, self.everybody = number, everybody
        self.right, self.backends, self.error = 0, set(), None

    def run(self):
        try:
            with connect(application_name=f"member {self.number}") as connection:
                if TOGETHER:
                    self.everybody.wait(PATIENCE_SECONDS)
                for n in range(rounds(self.number)):
                    self.round(connection, n)
        except BaseException as error:  # reported by the step
            self.error = error

    def round(self, connection, n):
        mine = self.number * 1000 + n
        with connection.transaction():
            # Held long enough for the others to have to wait.
            self.backends.add(one(connection, "select pg_backend_pid() from pg_sleep(0.003)"))
            assert one(connection, "select %s::int + 1", mine) == mine + 1
            assert one(connection, f"select %s::int + {n % 4}", mine) == mine + n % 4
            assert one(connection, "select current_setting('application_name')") == f"member {self.number}"
            if n % 7 == 3:
                assert "division by zero" in self.error_in_a_savepoint(connection)
        assert one(connection, "select owner from account where id = %s", n % 20 + 1) == f"owner {n % 20 + 1}"
        connection.rollback()
        self.right += 1

    def error_in_a_savepoint(self, connection):
        try:
            with connection.transaction():
                connection.execute("select 1 / (%s::int - %s::int)", [self.number, self.number])
        except psycopg.Error as error:
            return str(error)
        return "no error"


@step
def crowd(main):
    everybody = threading.Barrier(CROWD)
    members = [Member(number, everybody) for number in range(CROWD)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    for member in members:
        if member.error:
            raise member.error
    backends = set().union(*(member.backends for member in members))
    wandered = sum(len(member.backends) > 1 for member in members)
    print(f"# crowd: {CROWD} members, {len(backends)} backends, {wandered} wandered")
    return f"{CROWD} members, {sum(member.right for member in members)} right"


def main():
    print(f"# psycopg {psycopg.__version__}, {psycopg.pq.__impl__}, libpq {psycopg.pq.version()}")
    connection = connect(application_name="the exercise")
    for function in steps:
        name = function.__name__
        if name in WITHOUT:
            continue
        try:
            print(f"== {name}\n{function(connection)}", flush=True)
        except Exception as error:
            print(f"== {name}\nFAILED {type(error).__name__}: {error}", flush=True)
            connection.close()
            connection = connect(application_name="the exercise")
    connection.close()
    print("== done")


main()
