// node-postgres (`pg`, with pg-cursor and pg-copy-streams) at work, one line of result per step.
//
// Called as `node_exercise.mjs HOST PORT DATABASE USER` on a database made by schema.sql. Lines that
// begin with `#` are facts about this run; all others must be the same wherever it connects to.
// EXERCISE_MODULES is the folder that holds node_modules; EXERCISE_TOGETHER=yes makes the crowd wait
// until all of it is connected; EXERCISE_WITHOUT names steps to leave out, separated by commas.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import { pipeline as pump } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.env.EXERCISE_MODULES}/`);
const pg = require("pg");
const Cursor = require("pg-cursor");
const copy = require("pg-copy-streams");

const [HOST, PORT, DATABASE, USER] = process.argv.slice(2);
const TOGETHER = process.env.EXERCISE_TOGETHER === "yes";
const WITHOUT = (process.env.EXERCISE_WITHOUT ?? "").split(",");
const CROWD = 5;
// Some go on for longer than others: where few are left, a server has nobody of its own any more.
const rounds = (number) => 20 + 10 * number;
const PATIENCE_MILLISECONDS = 20_000;
const WHERE = { host: HOST, port: Number(PORT), database: DATABASE, user: USER, ssl: false };
const FIELDS = ["severity", "code", "message", "detail", "hint", "position", "internalQuery", "where", "schema",
  "table", "column", "dataType", "constraint"];

async function connect(more = {}) {
  const client = new pg.Client({ ...WHERE, application_name: "the exercise", ...more });
  client.parameters = {};
  client.connection.on("parameterStatus", ({ parameterName, parameterValue }) => {
    client.parameters[parameterName] = parameterValue;
  });
  client.on("error", () => {}); // the query that is under way reports it
  await client.connect();
  return client;
}

// All that the server said about an error, apart from where in its source it arose.
function told(error) {
  if (!(error instanceof pg.DatabaseError)) return `${error.name}(${error.message})`;
  const fields = FIELDS.filter((name) => error[name] !== undefined);
  return `${error.name}(${fields.map((name) => `${name}=${JSON.stringify(error[name])}`).join(", ")})`;
}

async function fails(promise) {
  try {
    await promise;
  } catch (error) {
    return told(error);
  }
  return "no error";
}

async function rows(client, text, ...values) {
  return (await client.query({ text, values, rowMode: "array" })).rows;
}

async function one(client, text, ...values) {
  return (await rows(client, text, ...values))[0][0];
}

async function named(client, name, text, ...values) {
  return (await client.query({ name, text, values, rowMode: "array" })).rows[0][0];
}

// Waits, on a connection of its own, until a query that contains `text` sleeps. A query is active from its
// Parse on, and a cancel that comes between that and Execute is lost, as it should be.
async function waitUntilSleeps(text) {
  const watcher = await connect();
  const sql = `select count(*)::int from pg_stat_activity where datname = current_database()
    and wait_event = 'PgSleep' and query like $1`;
  const deadline = Date.now() + PATIENCE_MILLISECONDS;
  while ((await one(watcher, sql, `%${text}%`)) === 0) {
    if (Date.now() > deadline) throw new Error(`${text} does not sleep`);
    await sleep(20);
  }
  await watcher.end();
}

async function transaction(client, work) {
  await client.query("begin");
  try {
    const result = await work();
    await client.query("commit");
    return result;
  } catch (error) {
    await client.query("rollback");
    throw error;
  }
}

const steps = {
  async parameters(main) {
    const sorted = Object.keys(main.parameters).sort();
    return sorted.map((name) => `${name}=${main.parameters[name]}`).join(", ")
      + ` / ${await one(main, "show application_name")}`;
  },

  async parameters_at_the_start() {
    const client = await connect({ options: "-c DateStyle=German -c TimeZone=Asia/Tokyo", application_name: "opt" });
    const said = [];
    for (const name of ["DateStyle", "TimeZone", "application_name"]) said.push(await one(client, `show ${name}`));
    await client.end();
    return said;
  },

  // node-postgres puts these, which the server does not report, into the startup packet.
  async timeouts_at_the_start() {
    const client = await connect({ statement_timeout: 500, lock_timeout: 5000, options: "-c work_mem=1MB" });
    const said = [];
    for (const name of ["statement_timeout", "lock_timeout", "work_mem"]) said.push(await one(client, `show ${name}`));
    said.push(await fails(one(client, "select pg_sleep(600)")));
    said.push(await one(client, "select 42"));
    await client.end();
    return said;
  },

  async types(main) {
    const values = [
      ["int2", 32767], ["int4", -2147483648], ["int8", "9223372036854775807"], ["bool", true], ["float8", 1.5e300],
      ["numeric", "-12345678901234567890.00123"], ["numeric", "NaN"], ["text", "žluťoučký 🐎 'quoted' \\ \"double\""],
      ["text", ""], ["bytea", Buffer.from(Array.from({ length: 256 }, (_, n) => n))], ["date", "2024-02-29"],
      ["timestamptz", new Date(Date.UTC(2024, 5, 1, 12))], ["interval", "3 days 00:00:05.000007"],
      ["uuid", "12345678-1234-5678-1234-567812345678"], ["json", { a: [1, null, "ž"] }], ["jsonb", { b: { c: 1.5 } }],
      ["int4[]", [1, null, 3]], ["text[]", ["a,b", 'q"', null, "", "🐎"]], ["int4[][]", [[1, 2], [3, 4]]],
      ["inet", "10.1.2.3/24"], ["text", null], ["int4", null], ["jsonb", null], ["int4range", "[1,10)"],
      ["point", "(1,2.5)"], ["timestamptz[]", [new Date(0)]],
    ];
    const said = [];
    for (const [kind, value] of values) {
      const [got] = await rows(main, `select $1::${kind}, pg_typeof($1::${kind})::text`, value);
      const shown = Buffer.isBuffer(got[0]) ? got[0].toString("hex") : JSON.stringify(got[0]);
      said.push(`${got[1]}=${shown}`);
    }
    const binary = await main.query({ text: "select $1::int4, $2::text", values: [7, "bin"], binary: true });
    said.push(JSON.stringify(binary.rows), binary.fields.map((field) => `${field.name}/${field.format}`).join());
    return said.join("; ");
  },

  async named_statements(main) {
    const sums = [];
    for (let n = 0; n < 12; n++) {
      const text = "select sum(balance) + $1::int from account where id > $2";
      sums.push(await named(main, "sum of the rich", text, n, n));
    }
    const count = await one(main, "select count(*)::int from pg_prepared_statements where not from_sql");
    console.log(`# prepared: ${count}`);
    sums.push(await fails(named(main, "sum of the rich", "select 1")));
    return sums;
  },

  async many_named_statements(main) {
    let total = 0;
    for (const round of [0, 1]) {
      for (let n = 0; n < 150; n++) {
        const value = await named(main, `number ${n}`, `select ${n}::int + $1::int`, n + round);
        assert.equal(value, 2 * n + round);
        total += value;
      }
    }
    return total;
  },

  async transactions(main) {
    const insert = "insert into entry (account_id, amount, note) values (1, 10, $1)";
    const said = [];
    await transaction(main, () => main.query(insert, ["kept"]));
    said.push(await fails(transaction(main, async () => {
      await main.query(insert, ["undone"]);
      throw new Error("by hand");
    })));
    await transaction(main, async () => {
      await main.query(insert, ["outer"]);
      await main.query("savepoint inside");
      await main.query(insert, ["inner"]);
      said.push(await fails(one(main, "select 1 / $1::int", 0)));
      said.push(await fails(one(main, "select 1")));
      await main.query("rollback to inside");
    });
    said.push(await rows(main, "select note, amount from entry order by id"));
    await main.query("begin isolation level serializable read only");
    said.push(await fails(main.query("delete from account")), (await main.query("commit")).command);
    said.push(await one(main, "show transaction_isolation"));
    return JSON.stringify(said);
  },

  async error_of_a_prepared_statement(main) {
    const said = [];
    for (const divisor of [1, 0, 2, 0, 5]) {
      said.push(await fails(named(main, "ten by", "select 10 / $1::int", divisor)));
    }
    // One that could not be prepared may be prepared later, by the same name.
    said.push(await fails(named(main, "later", "select id from later where id = $1", 1)));
    await main.query("create table later (id int); insert into later values (1)");
    said.push(await named(main, "later", "select id from later where id = $1", 1));
    await main.query("drop table later");
    said.push(await fails(named(main, "later", "select id from later where id = $1", 1)));
    return said.join("\n  ");
  },

  async violations(main) {
    const said = [];
    for (const [sql, value] of [
      ["insert into account values (99, $1, 0)", "owner 3"],
      ["insert into account values (99, $1, 0)", null],
      ["insert into account values (99, $1, -1)", "new"],
      ["insert into entry (account_id, amount, note) values (999, 0, $1)", "x"],
      ["select $1::int", "twelve"],
      ["select say($1) frm account", "x"],
    ]) said.push(await fails(main.query(sql, [value])));
    return said.join("\n  ");
  },

  async notices(main) {
    const heard = [];
    const listener = (notice) => heard.push([notice.severity, notice.code, notice.message, notice.detail, notice.hint]);
    main.on("notice", listener);
    const lengths = [];
    for (const word of ["one", "žluť", "three"]) lengths.push(await one(main, "select say($1)", word));
    main.off("notice", listener);
    return JSON.stringify([lengths, heard]);
  },

  // A portal that is read in parts with Flush, outside of a transaction.
  async rows_in_parts(main) {
    const sum = async (more) => {
      const result = await main.query({ text: "select n from generate_series(1, $1::int) n", values: [50], ...more });
      return [result.rows.length, result.rows.reduce((all, { n }) => all + n, 0)];
    };
    const said = [await sum({ rows: 7 }), await sum({ rows: 10, name: "in parts" }), await sum({ rows: 50 })];
    said.push(await sum({ rows: 7, name: "in parts" }));
    said.push(await one(main, "select 42"));
    return JSON.stringify(said);
  },

  async cursors(main) {
    const said = [];
    const numbers = async (cursor, count) => (await cursor.read(count)).map((row) => row.n).join();
    const series = "select n from generate_series(1, $1::int) n";
    await transaction(main, async () => {
      const cursor = main.query(new Cursor(series, [20]));
      said.push(await numbers(cursor, 7), await numbers(cursor, 7), await numbers(cursor, 7), await numbers(cursor, 7));
      await cursor.close();
      await main.query("declare slow cursor for select generate_series(1, 10)");
      said.push(await rows(main, "fetch 3 from slow"), await one(main, "select 1000"));
      said.push(await rows(main, "fetch all from slow"));
    });
    const early = main.query(new Cursor(series, [100_000]));
    said.push(await numbers(early, 3));
    await early.close();
    said.push(await fails(main.query("fetch 1 from slow")));
    const wrong = main.query(new Cursor("select 10 / (n - 5) from generate_series(1, 10) n", []));
    said.push((await wrong.read(2)).length, await fails(wrong.read(10)));
    said.push(await one(main, "select 42"));
    return JSON.stringify(said);
  },

  async copying(main) {
    const said = [];
    const into = main.query(copy.from("copy copied (id, name, amount) from stdin (format csv)"));
    const lines = Array.from({ length: 1000 }, (_, n) => `${n},"a ""quoted"" ž ${n}",${n / 4}\n`);
    await pump(Readable.from(lines), into);
    said.push(into.rowCount);
    const out = main.query(copy.to("copy (select id, name, amount from copied order by id) to stdout"));
    const chunks = [];
    for await (const chunk of out) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    said.push(out.rowCount, text.length, text.slice(0, 60));
    const wrong = main.query(copy.from("copy copied (id) from stdin"));
    said.push(await fails(pump(Readable.from(["5000\n", "not a number\n"]), wrong)));
    const givenUp = main.query(copy.from("copy copied (id) from stdin"));
    givenUp.write("200000\n");
    givenUp.destroy(new Error("the client gives up"));
    said.push(await fails(once(givenUp, "finish")));
    // Without a stream the driver answers a CopyInResponse with CopyFail.
    said.push(await fails(main.query("copy copied (id) from stdin")));
    said.push(await one(main, "select count(*)::int from copied"));
    return JSON.stringify(said);
  },

  async several_statements_at_once(main) {
    const results = await main.query(
      "select 1 as a; update account set balance = balance where id < 4; select 2 as b");
    const said = results.map(({ command, rowCount, rows }) => ({ command, rowCount, rows }));
    said.push(await fails(main.query("insert into account values (60, 'sixty', 0); select 1 / 0")));
    said.push(await one(main, "select count(*)::int from account where id = 60"));
    const empty = await main.query("");
    said.push([empty.command, empty.rows]);
    return JSON.stringify(said);
  },

  async pipelined(_main) {
    const client = await connect({ pipeline: true });
    const said = [];
    const outcomes = (promises) => Promise.all(promises.map((promise) => promise.catch(told)));
    const numbers = Array.from({ length: 60 }, (_, n) => n);
    said.push((await outcomes(numbers.map((n) => one(client, "select $1::int * 2", n)))).join());
    const three = (n) => named(client, `pipe ${n % 3}`, `select ${n % 3} + $1::int`, n);
    said.push((await outcomes(numbers.map(three))).join());
    said.push(await outcomes([
      one(client, "select 'before'"), named(client, "div", "select 1 / $1::int", 0), one(client, "select 'after'"),
      named(client, "div", "select 1 / $1::int", 1), named(client, "no", "select no_such_column"),
      client.query("select 'simple'; select 2").then((results) => results.length),
      named(client, "yes", "select 'yes' || $1", "!"),
    ]));
    said.push(await outcomes([
      client.query("begin"), client.query("insert into entry (account_id, amount) values ($1, 5)", [2]),
      one(client, "select count(*)::int from entry where account_id = 2"), client.query("rollback"),
      one(client, "select count(*)::int from entry where account_id = 2"),
    ].map(async (promise) => (await promise).command ?? promise)));
    await client.end();
    return JSON.stringify(said);
  },

  async large_values(main) {
    const text = "žů".repeat(262_144);
    const raw = Buffer.from(Array.from({ length: 1_048_576 }, (_, n) => n % 256));
    const [row] = await rows(main, "select $1::text, $2::bytea", text, raw);
    assert.equal(row[0], text);
    assert.ok(raw.equals(row[1]));
    const big = await rows(main, "select repeat('x', 3000000), generate_series(1, 3)");
    return JSON.stringify([Buffer.byteLength(row[0]), row[1].length, big.map(([x, n]) => [x.length, n])]);
  },

  async cancel(main) {
    const said = [];
    for (const values of [undefined, [7]]) {
      const mark = values ? "$1::int as marked" : "'simple' as marked";
      const query = new pg.Query(`select pg_sleep(600), ${mark}`, values);
      const ended = new Promise((resolve) => {
        query.on("error", (error) => resolve(told(error)));
        query.on("end", () => resolve("no error"));
      });
      main.query(query);
      await waitUntilSleeps(mark);
      const canceller = new pg.Client(WHERE);
      // PostgreSQL signals a backend twice; the second signal must not hit the next query.
      const dealtWith = once(canceller.connection, "end");
      canceller.cancel(main, query);
      await dealtWith;
      said.push(await ended, await one(main, "select 42"));
    }
    await main.query("begin");
    const pid = await one(main, "select pg_backend_pid()");
    const sleeping = fails(one(main, "select pg_sleep(600), 'by another'"));
    await waitUntilSleeps("by another");
    const other = await connect();
    said.push(await one(other, "select pg_cancel_backend($1)", pid));
    await other.end();
    said.push(await sleeping, (await main.query("commit")).command, await one(main, "select 43"));
    return said.join("; ");
  },

  async settings(main) {
    const said = [];
    const moment = "select '2024-07-01 12:00:00+00'::timestamptz::text, current_setting('application_name')";
    const other = await connect({ application_name: "the other", options: "-c TimeZone=Asia/Tokyo" });
    await main.query("set TimeZone = 'America/New_York'");
    await main.query("set DateStyle = 'German, DMY'; set application_name = 'renamed'");
    for (const client of [main, other, main, other, main, other]) said.push(await rows(client, moment));
    await other.query("begin; set TimeZone = 'Europe/Prague'");
    said.push(await rows(other, moment), other.parameters.TimeZone);
    await other.query("rollback");
    said.push(await rows(other, moment), other.parameters.TimeZone, await rows(main, moment), main.parameters.TimeZone);
    await other.end();
    await main.query("set TimeZone = 'UTC'; set DateStyle = 'ISO, MDY'; set application_name = 'the exercise'");
    return JSON.stringify(said);
  },

  async a_table_that_changes(main) {
    await main.query("create table changing (a int); insert into changing values (1)");
    const prepared = async (name) => JSON.stringify((await main.query({ name, text: "select * from changing" })).rows);
    const said = [await prepared("all of it"), await prepared("all of it")];
    await main.query("alter table changing add b text default 'new'");
    said.push(await fails(prepared("all of it")), await prepared("under another name"));
    await main.query("drop table changing");
    return JSON.stringify(said);
  },

  async connections_in_a_row() {
    let total = 0;
    for (let n = 0; n < 20; n++) {
      const client = await connect({ application_name: `number ${n}` });
      total += await one(client, "select $1::int", n);
      assert.equal(await one(client, "show application_name"), `number ${n}`);
      await client.end();
    }
    return total;
  },

  // Each member has its own connection and checks every answer.
  async crowd() {
    let connected = 0;
    let open;
    const everybody = new Promise((resolve) => { open = resolve; });
    const member = async (number) => {
      const client = await connect({ application_name: `member ${number}` });
      if (++connected === CROWD) open();
      if (TOGETHER) await everybody;
      const backends = new Set();
      for (let n = 0; n < rounds(number); n++) {
        const mine = number * 1000 + n;
        await transaction(client, async () => {
          // Held long enough for the others to have to wait.
          backends.add(await one(client, "select pg_backend_pid() from pg_sleep(0.003)"));
          assert.equal(await named(client, "plus one", "select $1::int + 1", mine), mine + 1);
          const kind = n % 4;
          // The same name means something else for each member.
          assert.equal(await named(client, `kind ${kind}`, `select $1::int + ${kind} * ${number}`, mine),
            mine + kind * number);
          assert.equal(await one(client, "select current_setting('application_name')"), `member ${number}`);
          if (n % 7 === 3) {
            await client.query("savepoint inside");
            assert.match(await fails(named(client, "div", "select 1 / $1::int", 0)), /division by zero/);
            await client.query("rollback to inside");
          }
        });
        const owner = await named(client, "owner", "select owner from account where id = $1", (n % 20) + 1);
        assert.equal(owner, `owner ${(n % 20) + 1}`);
      }
      await client.end();
      return backends;
    };
    const seen = await Promise.all(Array.from({ length: CROWD }, (_, number) => member(number)));
    const backends = new Set(seen.flatMap((set) => [...set]));
    const wandered = seen.filter((set) => set.size > 1).length;
    console.log(`# crowd: ${CROWD} members, ${backends.size} backends, ${wandered} wandered`);
    return `${CROWD} members through`;
  },

  // The driver's pool, with more requests than connections.
  async pool_of_its_own() {
    const pool = new pg.Pool({ ...WHERE, max: TOGETHER ? 4 : 1, application_name: "pooled" });
    const queries = Array.from({ length: 40 }, (_, n) => pool.query("select $1::int + 1 as n", [n]));
    const said = (await Promise.all(queries)).map((result) => result.rows[0].n);
    await pool.end();
    return said.join();
  },
};

console.log(`# pg ${require("pg/package.json").version}, node ${process.version}`);
let main = await connect();
for (const [name, step] of Object.entries(steps)) {
  if (WITHOUT.includes(name)) continue;
  try {
    console.log(`== ${name}\n${await step(main)}`);
  } catch (error) {
    console.log(`== ${name}\nFAILED ${told(error)}`);
    await main.end();
    main = await connect();
  }
}
await main.end();
console.log("== done");
