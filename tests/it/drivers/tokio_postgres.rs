//! tokio-postgres at work, in this process: the steps are those of the other drivers' exercises, as far
//! as it offers them.
//!
//! Each step returns what the server said; a step that fails says so in its result.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::tokio_postgres::error::DbError;
use ::tokio_postgres::types::{FromSql, Json, ToSql, Type};
use ::tokio_postgres::{
    AsyncMessage, CancelToken, Client, Config, Error, NoTls, Row, SimpleQueryMessage,
};
use bytes::Bytes;
use futures_util::future::{join_all, poll_fn, poll_immediate};
use futures_util::{SinkExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::exercise::Place;
use crate::support::postgres::SUPERUSER;

/// What PostgreSQL's own run must have.
pub const STEPS: &str = "parameters types types_of_the_database_itself prepared \
    many_statements transactions error_of_a_prepared_statement violations notices portals \
    copy copy_that_fails several_statements_at_once pipelined pipelined_with_an_error \
    typed_queries large_values cancel dropped_futures settings a_table_that_changes \
    connections_in_a_row crowd";

const CROWD: usize = 5;
const PATIENCE: Duration = Duration::from_secs(20);

type Outcome<T = String> = Result<T, Box<dyn StdError>>;
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where to connect to, and what was heard there.
struct World {
    port: u16,
    database: String,
    together: bool,
    /// Guards the list only.
    notices: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn config(&self, application_name: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).dbname(&self.database).user(SUPERUSER);
        config.application_name(application_name);
        config
    }

    async fn connect(&self, application_name: &str) -> Result<Client, Error> {
        self.connect_with(&self.config(application_name)).await
    }

    async fn connect_with(&self, config: &Config) -> Result<Client, Error> {
        let (client, mut connection) = config.connect(NoTls).await?;
        let notices = self.notices.clone();
        // Ends with its client; a failed connection shows in what the client does next.
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notice(notice) = message {
                    notices.lock().push(told_fields(&notice));
                }
            }
        });
        Ok(client)
    }

    /// Waits, on a connection of its own, until a query that contains `text` sleeps. A query is active
    /// from its Parse on, and a cancel that comes between that and Execute is lost, as it should be.
    async fn wait_until_sleeps(&self, text: &str) -> Outcome<()> {
        let watcher = self.connect("watcher").await?;
        let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                   and wait_event = 'PgSleep' and query like $1";
        let pattern = format!("%{text}%");
        let runs = async {
            while one::<i64>(&watcher, sql, &[&pattern]).await? == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, runs).await?
    }
}

/// All that the server said about an error, apart from where in its source it arose.
fn told_fields(said: &DbError) -> String {
    let more = [
        ("detail", said.detail().map(str::to_owned)),
        ("hint", said.hint().map(str::to_owned)),
        ("position", said.position().map(|position| format!("{position:?}"))),
        ("where", said.where_().map(str::to_owned)),
        ("schema", said.schema().map(str::to_owned)),
        ("table", said.table().map(str::to_owned)),
        ("column", said.column().map(str::to_owned)),
        ("datatype", said.datatype().map(str::to_owned)),
        ("constraint", said.constraint().map(str::to_owned)),
    ];
    let mut told = format!("{} {} {}", said.severity(), said.code().code(), said.message());
    for (name, value) in more {
        if let Some(value) = value {
            let _ = write!(told, ", {name}: {value}");
        }
    }
    told
}

fn told(error: &Error) -> String {
    error.as_db_error().map_or_else(|| format!("{error:?}"), told_fields)
}

fn outcome<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.map_or_else(|error| told(&error), |value| format!("{value:?}"))
}

async fn one<T: for<'a> FromSql<'a>>(client: &Client, sql: &str, values: Values<'_>) -> Outcome<T> {
    Ok(client.query_one(sql, values).await?.try_get(0)?)
}

fn numbers(rows: &[Row]) -> Vec<i32> {
    rows.iter().map(|row| row.get(0)).collect()
}

fn check(holds: bool, what: &str) -> Outcome<()> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// Runs the steps and returns the output in the form of the other exercises.
pub fn exercise(place: &Place) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = World {
        port: place.port(),
        database: place.stage.database.clone(),
        together: place.way.is_together(),
        notices: Arc::default(),
    };
    runtime.block_on(all_steps(&world, &place.without))
}

async fn all_steps(world: &World, without: &[&str]) -> String {
    let mut main = world.connect("the exercise").await.unwrap();
    let mut said = String::new();
    macro_rules! steps {
        ($($step:ident)*) => {
            $(if !without.contains(&stringify!($step)) {
                let result = $step(world, &mut main).await;
                let result = result.unwrap_or_else(|error| format!("FAILED {error:?}"));
                let _ = writeln!(said, "== {}\n{result}", stringify!($step));
            })*
        };
    }
    steps! {
        parameters types types_of_the_database_itself prepared many_statements transactions
        error_of_a_prepared_statement violations notices portals copy copy_that_fails
        several_statements_at_once pipelined pipelined_with_an_error typed_queries large_values
        cancel dropped_futures settings a_table_that_changes connections_in_a_row crowd
    }
    said + "== done\n"
}

async fn parameters(world: &World, main: &mut Client) -> Outcome {
    let mut config = world.config("with options");
    let (other, connection) = config.options("-c TimeZone=Asia/Tokyo").connect(NoTls).await?;
    let names = [
        "server_version",
        "server_encoding",
        "client_encoding",
        "application_name",
        "is_superuser",
        "session_authorization",
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "integer_datetimes",
        "standard_conforming_strings",
        "in_hot_standby",
        "default_transaction_read_only",
    ];
    let reported = names.map(|name| format!("{name}={:?}", connection.parameter(name)));
    tokio::spawn(connection);
    let shown = [
        one::<String>(&other, "show TimeZone", &[]).await?,
        one::<String>(main, "show application_name", &[]).await?,
    ];
    Ok(format!("{reported:?} {shown:?}"))
}

async fn types(_world: &World, main: &mut Client) -> Outcome {
    async fn through<T>(main: &Client, kind: &str, value: T) -> Outcome
    where
        T: ToSql + Sync + PartialEq + std::fmt::Debug + for<'a> FromSql<'a>,
    {
        let sql = format!("select $1::{kind}, pg_typeof($1::{kind})::text, $1::{kind}::text");
        let row = main.query_one(&sql, &[&value]).await?;
        check(row.try_get::<_, T>(0)? == value, kind)?;
        Ok(format!("{}={:?}", row.get::<_, String>(1), row.get::<_, Option<String>>(2)))
    }
    let text = "žluťoučký kůň 🐎 'quoted' \\ \"double\"".to_owned();
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    let json = serde_json::json!({"a": [1, null, "ž"], "b": {"c": 1.5}});
    let some = |text: &str| Some(text.to_owned());
    let said = [
        through(main, "int2", i16::MAX).await?,
        through(main, "int4", i32::MIN).await?,
        through(main, "int8", i64::MAX).await?,
        through(main, "bool", true).await?,
        through(main, "float4", 1.5_f32).await?,
        through(main, "float8", 1e300_f64).await?,
        through(main, "text", text).await?,
        through(main, "varchar(3)", "abc".to_owned()).await?,
        through(main, "bytea", (0..=255).collect::<Vec<u8>>()).await?,
        through(main, "timestamptz", moment).await?,
        through(main, "jsonb", json.clone()).await?,
        through(main, "json", json).await?,
        through(main, "int4[]", vec![Some(1), None, Some(3)]).await?,
        through(main, "text[]", vec![some("a,b"), some("q\""), None, some(""), some("🐎")]).await?,
        through(main, "text", None::<String>).await?,
        through(main, "jsonb", None::<serde_json::Value>).await?,
        through(main, "oid", u32::MAX).await?,
        one::<String>(main, "select ($1::text::numeric * 2)::text", &[&"12345678901234567890.5"])
            .await?,
    ];
    Ok(said.join("; "))
}

/// The driver asks the catalogue for types that it does not know, by statements of its own.
async fn types_of_the_database_itself(_world: &World, main: &mut Client) -> Outcome {
    main.batch_execute("create type mood as enum ('glad', 'so so')").await?;
    main.batch_execute("create type pair as (number int, mood mood)").await?;
    let mut said = Vec::new();
    for sql in ["select 'glad'::mood", "select row(1, 'so so')::pair", "select array['glad'::mood]"]
    {
        let statement = main.prepare(sql).await?;
        said.push(format!("{:?}", statement.columns()[0].type_().kind()));
        said.push(main.query(&statement, &[]).await?.len().to_string());
    }
    // The numbers of types differ from database to database.
    let digits = |text: String| text.split("oid: ").map(after_digits).collect::<String>();
    Ok(said.into_iter().map(digits).collect::<Vec<_>>().join(" "))
}

fn after_digits(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_ascii_digit())
}

async fn prepared(_world: &World, main: &mut Client) -> Outcome {
    let sql = "select sum(balance + $1::int4)::text from account where id > $2";
    let statement = main.prepare(sql).await?;
    let mut sums = Vec::new();
    for n in 0..12_i32 {
        sums.push(main.query_one(&statement, &[&n, &n]).await?.get::<_, String>(0));
    }
    let sql = "select count(*) from pg_prepared_statements where not from_sql";
    let count: i64 = one(main, sql, &[]).await?;
    Ok(format!("{}\n# prepared: {count}", sums.join(" ")))
}

/// Each is closed when its `Statement` is dropped.
async fn many_statements(_world: &World, main: &mut Client) -> Outcome {
    let mut total = 0;
    for _ in 0..2 {
        let mut kept = Vec::new();
        for n in 0..150_i32 {
            let statement = main.prepare(&format!("select {n} + $1::int4")).await?;
            let sum: i32 = main.query_one(&statement, &[&n]).await?.get(0);
            check(sum == 2 * n, "a sum")?;
            total += sum;
            if n % 3 == 0 {
                kept.push((n, statement));
            }
        }
        for (n, statement) in &kept {
            check(main.query_one(statement, &[&1]).await?.get::<_, i32>(0) == n + 1, "kept")?;
        }
    }
    Ok(total.to_string())
}

async fn transactions(_world: &World, main: &mut Client) -> Outcome {
    let insert = "insert into entry (account_id, amount, note) values (1, 10, $1)";
    let mut said = Vec::new();
    let transaction = main.transaction().await?;
    transaction.execute(insert, &[&"kept"]).await?;
    transaction.commit().await?;
    let transaction = main.transaction().await?;
    transaction.execute(insert, &[&"undone"]).await?;
    drop(transaction);
    let mut transaction = main.transaction().await?;
    transaction.execute(insert, &[&"outer"]).await?;
    let inside = transaction.savepoint("inside").await?;
    inside.execute(insert, &[&"inner"]).await?;
    said.push(outcome(inside.query("select 1 / $1::int4", &[&0]).await));
    said.push(outcome(inside.query("select 1", &[]).await));
    inside.rollback().await?;
    transaction.commit().await?;
    let transaction = main.build_transaction().read_only(true).start().await?;
    said.push(outcome(transaction.execute("delete from account", &[]).await));
    said.push(outcome(transaction.commit().await));
    let rows = main.query("select note from entry order by id", &[]).await?;
    said.push(format!("{:?}", rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()));
    Ok(said.join("; "))
}

async fn error_of_a_prepared_statement(_world: &World, main: &mut Client) -> Outcome {
    let statement = main.prepare("select 10 / $1::int4").await?;
    let mut said = Vec::new();
    for divisor in [1, 0, 2, 0, 5] {
        let row = main.query_one(&statement, &[&divisor]).await;
        said.push(outcome(row.map(|row| row.get::<_, i32>(0))));
    }
    for _ in 0..2 {
        said.push(outcome(main.prepare("select no_such_column").await.map(drop)));
    }
    said.push(one::<i32>(main, "select 42", &[]).await?.to_string());
    Ok(said.join("; "))
}

async fn violations(_world: &World, main: &mut Client) -> Outcome {
    let attempts = [
        ("insert into account values (99, $1, 0)", Some("owner 3")),
        ("insert into account values (99, $1, 0)", None),
        ("insert into account values (99, $1, -1)", Some("new")),
        ("insert into entry (account_id, amount, note) values (999, 0, $1)", Some("x")),
        ("select $1::text::int", Some("twelve")),
        ("select say($1) frm account", Some("x")),
    ];
    let mut said = Vec::new();
    for (sql, value) in attempts {
        said.push(outcome(main.execute(sql, &[&value]).await));
    }
    Ok(said.join("\n"))
}

async fn notices(world: &World, main: &mut Client) -> Outcome {
    world.notices.lock().clear();
    let mut lengths = Vec::new();
    for word in ["one", "žluť", "three"] {
        lengths.push(one::<i32>(main, "select say($1)", &[&word]).await?);
    }
    Ok(format!("{lengths:?} {:?}", world.notices.lock()))
}

async fn portals(_world: &World, main: &mut Client) -> Outcome {
    let mut said = Vec::new();
    let transaction = main.transaction().await?;
    let statement = transaction.prepare("select generate_series(1, $1::int4)").await?;
    let one = transaction.bind(&statement, &[&20]).await?;
    let two = transaction.bind(&statement, &[&5]).await?;
    for (portal, rows) in [(&one, 7), (&two, 3), (&one, 7), (&two, 3), (&one, 0), (&one, 0)] {
        said.push(format!("{:?}", numbers(&transaction.query_portal(portal, rows).await?)));
    }
    transaction.commit().await?;
    let transaction = main.transaction().await?;
    // The driver numbers its portals for the whole process, so the words would differ.
    let gone = transaction.query_portal(&one, 1).await.err();
    said.push(format!("{:?}", gone.as_ref().and_then(Error::code)));
    transaction.rollback().await?;
    Ok(said.join(" "))
}

async fn copy(_world: &World, main: &mut Client) -> Outcome {
    let mut sink = pin!(main.copy_in("copy copied (id, name) from stdin").await?);
    for n in 0..1000 {
        sink.send(Bytes::from(format!("{n}\tžlutý {n}\n"))).await?;
    }
    let mut said = vec![sink.finish().await?.to_string()];
    let out = main.copy_out("copy (select id, name from copied order by id) to stdout").await?;
    let chunks: Vec<Bytes> = out.try_collect().await?;
    said.push(format!("{} {:?} {:?}", chunks.len(), chunks[0], chunks[999]));
    let binary = "copy (select id from copied where id < 3 order by id) to stdout (format binary)";
    let chunks: Vec<Bytes> = main.copy_out(binary).await?.try_collect().await?;
    said.push(format!("{chunks:?}"));
    Ok(said.join("; "))
}

async fn copy_that_fails(_world: &World, main: &mut Client) -> Outcome {
    let into = "copy copied (id) from stdin";
    let mut said = Vec::new();
    let mut sink = pin!(main.copy_in(into).await?);
    sink.send(Bytes::from_static(b"5000\nnot a number\n")).await?;
    said.push(outcome(sink.finish().await));
    said.push(one::<i32>(main, "select 42", &[]).await?.to_string());
    // Dropped: the driver sends CopyFail.
    let mut sink = Box::pin(main.copy_in(into).await?);
    sink.send(Bytes::from_static(b"200000\n")).await?;
    drop(sink);
    // Left after the first rows: the driver reads the rest and drops it.
    let mut out =
        Box::pin(main.copy_out("copy (select generate_series(1, 50000)) to stdout").await?);
    said.push(format!("{:?}", out.try_next().await?));
    drop(out);
    said.push(one::<i64>(main, "select count(*) from copied", &[]).await?.to_string());
    Ok(said.join("; "))
}

async fn several_statements_at_once(_world: &World, main: &mut Client) -> Outcome {
    let sql = "select 1, null; update account set balance = balance where id < 4; select 'b'";
    let mut said = Vec::new();
    for message in main.simple_query(sql).await? {
        said.push(match message {
            SimpleQueryMessage::Row(row) => format!("{:?} of {}", row.get(0), row.len()),
            SimpleQueryMessage::CommandComplete(count) => format!("{count} done"),
            SimpleQueryMessage::RowDescription(columns) => format!("{} columns", columns.len()),
            other => format!("{other:?}"),
        });
    }
    let wrong = main.batch_execute("insert into account values (60, 'x', 0); select 1 / 0").await;
    said.push(outcome(wrong));
    let sql = "select count(*) from account where id = 60";
    said.push(one::<i64>(main, sql, &[]).await?.to_string());
    said.push(outcome(main.simple_query("").await.map(|messages| messages.len())));
    Ok(said.join("; "))
}

/// Requests that are all under way before the first is answered.
async fn pipelined(_world: &World, main: &mut Client) -> Outcome {
    let statement = main.prepare("select $1::int4 * 2").await?;
    let inputs: Vec<i32> = (0..100).collect();
    let main = &*main;
    let doubled = join_all(inputs.iter().map(|n| {
        let statement = &statement;
        async move { Ok::<i32, Error>(main.query_one(statement, &[n]).await?.get(0)) }
    }));
    let sums = join_all(inputs.iter().map(|n| async move {
        let sql = format!("select {} + $1::int4", n % 7);
        Ok::<i32, Error>(main.query_one(&sql, &[n]).await?.get(0))
    }));
    let (doubled, sums) = futures_util::future::join(doubled, sums).await;
    let all: Result<Vec<i32>, Error> = doubled.into_iter().chain(sums).collect();
    Ok(format!("{:?}", all?))
}

async fn pipelined_with_an_error(_world: &World, main: &mut Client) -> Outcome {
    let divide = main.prepare("select 10 / $1::int4").await?;
    let main = &*main;
    let divided = join_all([1, 0, 2, 0, 5].map(|divisor| {
        let divide = &divide;
        async move {
            let row = main.query_one(divide, &[&divisor]).await;
            outcome(row.map(|row| row.get::<_, i32>(0)))
        }
    }));
    let prepared =
        join_all(["select 'one'", "select no_such_column", "select 'two'"].map(|sql| async move {
            let row = main.query_one(sql, &[]).await;
            outcome(row.map(|row| row.get::<_, String>(0)))
        }));
    let simple = main.batch_execute("select 1; select 1 / 0; select 2");
    let mixed = futures_util::future::join3(divided, prepared, simple).await;
    Ok(format!("{:?} {:?} {}", mixed.0, mixed.1, outcome(mixed.2)))
}

/// By the unnamed statement, in one group with its Bind.
async fn typed_queries(_world: &World, main: &mut Client) -> Outcome {
    let mut said = Vec::new();
    for n in 0..7_i32 {
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&n, Type::INT4), (&"x", Type::TEXT)];
        let rows = main.query_typed("select repeat($2, $1), $1 * 2", &values).await?;
        said.push(format!("{:?} {}", rows[0].get::<_, String>(0), rows[0].get::<_, i32>(1)));
    }
    let wrong = main.query_typed("select 1 / $1", &[(&0, Type::INT4)]).await;
    said.push(outcome(wrong.map(|rows| rows.len())));
    Ok(said.join("; "))
}

async fn large_values(_world: &World, main: &mut Client) -> Outcome {
    let text = "žů".repeat(262_144);
    let raw: Vec<u8> = (0..1_048_576_u32).map(|n| n.to_le_bytes()[0]).collect();
    let row = main.query_one("select $1::text, $2::bytea", &[&text, &raw]).await?;
    check(row.get::<_, String>(0) == text && row.get::<_, Vec<u8>>(1) == raw, "the same back")?;
    let rows = main.query("select repeat('x', 3000000), generate_series(1, 3)", &[]).await?;
    let sizes: Vec<usize> = rows.iter().map(|row| row.get::<_, String>(0).len()).collect();
    let json = Json(serde_json::json!({"long": "x".repeat(500_000)}));
    let length: i32 = one(main, "select length($1::jsonb ->> 'long')", &[&json]).await?;
    Ok(format!("{} {} {sizes:?} {length}", text.len(), raw.len()))
}

/// Returns when the cancel has been dealt with, for which the driver itself does not wait. PostgreSQL
/// signals a backend twice; the second signal could otherwise hit the next query.
async fn send_cancel(world: &World, token: &CancelToken) -> Outcome<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await?;
    token.cancel_query_raw(&mut stream, NoTls).await?;
    let said = stream.read_to_end(&mut Vec::new()).await?;
    check(said == 0, "a cancel has no answer")
}

async fn cancel(world: &World, main: &mut Client) -> Outcome {
    let token = main.cancel_token();
    let mut said = Vec::new();
    for in_transaction in [false, true] {
        if in_transaction {
            main.batch_execute("begin").await?;
        }
        let sleeping = main.query("select pg_sleep(600), 'cancelled'", &[]);
        let cancelling = async {
            world.wait_until_sleeps("pg_sleep(600), 'cancelled'").await?;
            send_cancel(world, &token).await
        };
        let (slept, cancelled) = tokio::join!(sleeping, cancelling);
        let slept = outcome(slept.map(|rows| rows.len()));
        cancelled.map_err(|error| format!("{error}, but: {slept}"))?;
        said.push(slept);
        if in_transaction {
            said.push(outcome(main.query("select 1", &[]).await.map(|rows| rows.len())));
            main.batch_execute("rollback").await?;
        }
        said.push(one::<i32>(main, "select 42", &[]).await?.to_string());
    }
    Ok(said.join("; "))
}

/// Requests that nobody waits for are answered all the same, in order.
async fn dropped_futures(_world: &World, main: &mut Client) -> Outcome {
    let statement = main.prepare("select pg_sleep(0.05), $1::int4").await?;
    let mut said = Vec::new();
    for n in 0..5_i32 {
        // The first look at it sends the request.
        let abandoned = poll_immediate(main.query(&statement, &[&n])).await;
        check(abandoned.is_none(), "nobody waits")?;
        said.push(one::<i32>(main, "select $1::int4", &[&n]).await?);
    }
    Ok(format!("{said:?}"))
}

async fn settings(world: &World, main: &mut Client) -> Outcome {
    let moment = "select '2024-07-01 12:00:00+00'::timestamptz::text \
                  || ' ' || current_setting('application_name')";
    let mut config = world.config("the other");
    let mut other = world.connect_with(config.options("-c TimeZone=Asia/Tokyo")).await?;
    main.batch_execute("set TimeZone = 'America/New_York'; set DateStyle = 'German, DMY'").await?;
    main.batch_execute("set application_name = 'renamed'").await?;
    let mut said: Vec<String> = Vec::new();
    for _ in 0..3 {
        said.push(one(main, moment, &[]).await?);
        said.push(one(&other, moment, &[]).await?);
    }
    let transaction = other.transaction().await?;
    transaction.batch_execute("set TimeZone = 'Europe/Prague'").await?;
    said.push(transaction.query_one(moment, &[]).await?.get(0));
    transaction.rollback().await?;
    said.push(one(&other, moment, &[]).await?);
    said.push(one(main, moment, &[]).await?);
    main.batch_execute("set TimeZone = 'UTC'; set DateStyle = 'ISO, MDY'").await?;
    Ok(said.join("; "))
}

/// The old plan of a `select *` is refused; prepared anew, by another name, it works.
async fn a_table_that_changes(_world: &World, main: &mut Client) -> Outcome {
    main.batch_execute("create table changing (a int4); insert into changing values (1)").await?;
    let select = "select * from changing";
    let columns = |row: Row| row.columns().iter().map(|c| c.name().to_owned()).collect::<Vec<_>>();
    let before = main.prepare(select).await?;
    let mut said = vec![outcome(main.query_one(&before, &[]).await.map(columns))];
    main.batch_execute("alter table changing add b text").await?;
    said.push(outcome(main.query_one(&before, &[]).await.map(columns)));
    let after = main.prepare(select).await?;
    said.push(outcome(main.query_one(&after, &[]).await.map(columns)));
    said.push(outcome(main.query_one(&before, &[]).await.map(columns)));
    main.batch_execute("drop table changing").await?;
    Ok(said.join("; "))
}

async fn connections_in_a_row(world: &World, _main: &mut Client) -> Outcome {
    let mut total = 0;
    for n in 0..20_i32 {
        let name = format!("number {n}");
        let client = world.connect(&name).await?;
        total += one::<i32>(&client, "select $1::int4", &[&n]).await?;
        check(one::<String>(&client, "show application_name", &[]).await? == name, "its name")?;
    }
    Ok(total.to_string())
}

async fn crowd(world: &World, _main: &mut Client) -> Outcome {
    let everybody = Barrier::new(CROWD);
    let members = (0..CROWD).map(|number| member(world, number, &everybody));
    let seen: Outcome<Vec<BTreeSet<i32>>> = join_all(members).await.into_iter().collect();
    let seen = seen?;
    let backends = seen.iter().flatten().collect::<BTreeSet<_>>().len();
    let wandered = seen.iter().filter(|backends| backends.len() > 1).count();
    Ok(format!(
        "{CROWD} members through\n# crowd: {CROWD} members, {backends} backends, {wandered} wandered"
    ))
}

/// One of the crowd: its own connection, every answer checked. Returns the servers that it has seen.
/// Some go on for longer than others: where few are left, a server has nobody of its own any more.
async fn member(world: &World, number: usize, everybody: &Barrier) -> Outcome<BTreeSet<i32>> {
    let name = format!("member {number}");
    let mut client = world.connect(&name).await?;
    if world.together {
        tokio::time::timeout(PATIENCE, everybody.wait()).await?;
    }
    let number = i32::try_from(number)?;
    let plus_one = client.prepare("select $1::int4 + 1").await?;
    let divide = client.prepare("select 1 / $1::int4").await?;
    let mut backends = BTreeSet::new();
    for n in 0..20 + 10 * number {
        let mine = number * 1000 + n;
        let mut transaction = client.transaction().await?;
        // Held long enough for the others to have to wait.
        let held = "select pg_backend_pid() from pg_sleep(0.003)";
        backends.insert(transaction.query_one(held, &[]).await?.get(0));
        let sum: i32 = transaction.query_one(&plus_one, &[&mine]).await?.get(0);
        check(sum == mine + 1, "one more")?;
        let kind = transaction.prepare(&format!("select {} + $1::int4", n % 4)).await?;
        let sum: i32 = transaction.query_one(&kind, &[&mine]).await?.get(0);
        check(sum == mine + n % 4, "a bit more")?;
        let has: String = transaction.query_one("show application_name", &[]).await?.get(0);
        check(has == name, "its name")?;
        if n % 7 == 3 {
            let inside = transaction.transaction().await?;
            let wrong = outcome(inside.query(&divide, &[&0]).await);
            check(wrong.contains("division by zero"), "an error")?;
            inside.rollback().await?;
        }
        transaction.commit().await?;
        let id = n % 20 + 1;
        let owner: String = one(&client, "select owner from account where id = $1", &[&id]).await?;
        check(owner == format!("owner {id}"), "the owner")?;
    }
    Ok(backends)
}
