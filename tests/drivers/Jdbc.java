// pgjdbc at work, one line of result per step.
//
// Called as `Jdbc HOST PORT DATABASE USER` on a database made by schema.sql. Lines that begin with `#`
// are facts about this run; all others must be the same wherever it connects to. EXERCISE_OPTIONS is
// added to the JDBC URL; EXERCISE_TOGETHER=yes makes the crowd wait until all of it is connected;
// EXERCISE_WITHOUT and EXERCISE_CANNOT name steps to leave out, separated by commas.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Statement;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.copy.CopyOut;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public class Jdbc {
    static final int CROWD = 5;
    static final int PATIENCE_SECONDS = 20;
    static final boolean TOGETHER = "yes".equals(System.getenv("EXERCISE_TOGETHER"));
    // In which the driver cannot write bytea.
    static final boolean SIMPLE = environment("EXERCISE_OPTIONS").contains("preferQueryMode=simple");
    static final List<String> WITHOUT =
        List.of((environment("EXERCISE_WITHOUT") + "," + environment("EXERCISE_CANNOT")).split(","));
    static final Map<String, Step> STEPS = new LinkedHashMap<>();
    static String url;
    static String user;

    interface Step {
        Object run(Connection main) throws Exception;
    }

    interface Work {
        Object run() throws Exception;
    }

    static String environment(String name) {
        String value = System.getenv(name);
        return value == null ? "" : value;
    }

    static Connection connect(String applicationName, String more) throws SQLException {
        String name = java.net.URLEncoder.encode(applicationName, StandardCharsets.UTF_8);
        return DriverManager.getConnection(url + "&ApplicationName=" + name + more, user, "");
    }

    static Connection connect() throws SQLException {
        return connect("the exercise", "");
    }

    // All that the server said about an error, apart from where in its source it arose.
    static String told(Throwable error) {
        if (!(error instanceof PSQLException) || ((PSQLException) error).getServerErrorMessage() == null) {
            String state = error instanceof SQLException sql ? sql.getSQLState() + " " : "";
            String message = String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
            return error.getClass().getSimpleName() + "(" + state + message + ")";
        }
        ServerErrorMessage said = ((PSQLException) error).getServerErrorMessage();
        return "PSQLException(" + Arrays.asList(said.getSeverity(), said.getSQLState(), said.getMessage(),
            said.getDetail(), said.getHint(), said.getPosition(), said.getWhere(), said.getSchema(), said.getTable(),
            said.getColumn(), said.getDatatype(), said.getConstraint(), said.getInternalQuery()) + ")";
    }

    static String fails(Work work) {
        try {
            return "no error but " + work.run();
        } catch (Exception error) {
            return told(error);
        }
    }

    static PreparedStatement prepare(Connection connection, String sql, Object... values) throws SQLException {
        PreparedStatement statement = connection.prepareStatement(sql);
        for (int n = 0; n < values.length; n++) {
            statement.setObject(n + 1, values[n]);
        }
        return statement;
    }

    static Object one(Connection connection, String sql, Object... values) throws SQLException {
        List<List<Object>> rows = rows(connection, sql, values);
        return rows.get(0).get(0);
    }

    static List<List<Object>> rows(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = prepare(connection, sql, values)) {
            return rows(statement.executeQuery());
        }
    }

    static List<List<Object>> rows(ResultSet result) throws SQLException {
        List<List<Object>> rows = new ArrayList<>();
        while (result.next()) {
            List<Object> row = new ArrayList<>();
            for (int column = 1; column <= result.getMetaData().getColumnCount(); column++) {
                row.add(result.getObject(column));
            }
            rows.add(row);
        }
        return rows;
    }

    static int update(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = prepare(connection, sql, values)) {
            return statement.executeUpdate();
        }
    }

    static void run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    // Waits, on a connection of its own, until a query that contains `text` sleeps. A query is active from its
    // Parse on, and a cancel that comes between that and Execute is lost, as it should be.
    static void waitUntilSleeps(String text) throws Exception {
        String sql = "select count(*) from pg_stat_activity where datname = current_database()"
            + " and wait_event = 'PgSleep' and query like ?";
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        try (Connection watcher = connect()) {
            while ((Long) one(watcher, sql, "%" + text + "%") == 0) {
                check(System.nanoTime() < deadline, text + " does not sleep");
                Thread.sleep(20);
            }
        }
    }

    static Object parameters(Connection main) throws Exception {
        Map<String, String> reported = new TreeMap<>(main.unwrap(PGConnection.class).getParameterStatuses());
        reported.remove("DateStyle");
        return reported + " " + one(main, "show application_name") + " " + one(main, "show extra_float_digits");
    }

    // The driver asks for `ISO`; the server reports all of it, `ISO, MDY`.
    static Object dateStyle(Connection main) throws Exception {
        return main.unwrap(PGConnection.class).getParameterStatus("DateStyle") + " / " + one(main, "show DateStyle");
    }

    static Object parametersAtTheStart(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        run(main, "create schema elsewhere");
        run(main, "create table elsewhere.treasure as select 42 as found");
        String more = "&currentSchema=elsewhere,public&options=-c%20statement_timeout=5min%20-c%20work_mem=2MB";
        try (Connection other = connect("with options", more)) {
            for (int n = 0; n < 3; n++) {
                one(main, "select 1");
                said.add(one(other, "select found from treasure"));
                said.add(one(other, "show work_mem"));
                said.add(one(other, "show statement_timeout"));
            }
        }
        said.add(one(main, "show work_mem"));
        return said;
    }

    static Object types(Connection main) throws Exception {
        PGobject json = new PGobject();
        json.setType("jsonb");
        json.setValue("{\"b\": {\"c\": 1.5}}");
        byte[] bytes = new byte[256];
        for (int n = 0; n < 256; n++) {
            bytes[n] = (byte) n;
        }
        Object[][] values = {
            {"int2", 32767}, {"int4", Integer.MIN_VALUE}, {"int8", Long.MAX_VALUE}, {"bool", true}, {"float4", 1.5f},
            {"float8", 1.0e300}, {"numeric", new BigDecimal("-12345678901234567890.00123")},
            {"text", "žluťoučký 🐎 'quoted' \\ \"double\" ?"}, {"text", ""}, {"date", Date.valueOf("2024-02-29")},
            {"time", Time.valueOf("23:59:59")}, {"timestamp", Timestamp.valueOf("1999-12-31 23:59:59.000001")},
            {"timestamptz", java.time.OffsetDateTime.parse("2024-06-01T12:00:00+05:30")},
            {"uuid", UUID.fromString("12345678-1234-5678-1234-567812345678")}, {"jsonb", json},
            {"int4[]", main.createArrayOf("int4", new Integer[] {1, null, 3})},
            {"text[]", main.createArrayOf("text", new String[] {"a,b", "q\"", null, "", "🐎"})}, {"text", null},
            {"int4", null}, {"numeric", null}, {"bytea", SIMPLE ? null : bytes},
        };
        List<String> said = new ArrayList<>();
        // Past the threshold the driver asks for binary results.
        for (int time = 0; time < 7; time++) {
            said.clear();
            for (Object[] value : values) {
                Object got = one(main, "select ?::" + value[0], value[1]);
                said.add(value[0] + "=" + (got instanceof byte[] raw ? Arrays.toString(raw) : got));
            }
        }
        return said;
    }

    static Object preparedByItself(Connection main) throws Exception {
        List<Object> sums = new ArrayList<>();
        String sql = "select sum(balance) + ? from account where id > ?";
        try (PreparedStatement statement = main.prepareStatement(sql)) {
            for (int n = 0; n < 12; n++) {
                statement.setInt(1, n);
                statement.setInt(2, n);
                sums.add(rows(statement.executeQuery()).get(0).get(0));
            }
        }
        Object count = one(main, "select count(*) from pg_prepared_statements where not from_sql");
        System.out.println("# prepared: " + count);
        return sums;
    }

    // Past 256 the driver closes the oldest on the server.
    static Object moreStatementsThanKept(Connection main) throws Exception {
        long total = 0;
        for (int time = 0; time < 2; time++) {
            for (int n = 0; n < 300; n++) {
                try (PreparedStatement statement = main.prepareStatement("select " + n + " + ?::int")) {
                    statement.unwrap(PGStatement.class).setPrepareThreshold(1);
                    statement.setInt(1, n);
                    int sum = (Integer) rows(statement.executeQuery()).get(0).get(0);
                    check(sum == 2 * n, n + " gave " + sum);
                    total += sum;
                }
            }
        }
        return total;
    }

    static Object describedFirst(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (PreparedStatement statement = main.prepareStatement("select id, owner from account where balance > ?")) {
            said.add(statement.getParameterMetaData().getParameterTypeName(1));
            said.add(statement.getMetaData().getColumnName(2));
            statement.setBigDecimal(1, new BigDecimal("1950"));
            said.add(rows(statement.executeQuery()));
        }
        return said;
    }

    static Object transactions(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        String insert = "insert into entry (account_id, amount, note) values (1, 10, ?)";
        main.setAutoCommit(false);
        update(main, insert, "kept");
        main.commit();
        update(main, insert, "undone");
        main.rollback();
        update(main, insert, "outer");
        var savepoint = main.setSavepoint("inside");
        update(main, insert, "inner");
        said.add(fails(() -> one(main, "select 1 / ?", 0)));
        said.add(fails(() -> one(main, "select 1")));
        main.rollback(savepoint);
        main.releaseSavepoint(savepoint);
        main.commit();
        said.add(fails(() -> one(main, "select * from nowhere")));
        main.commit();
        main.setReadOnly(true);
        said.add(fails(() -> update(main, "delete from account")));
        main.rollback();
        main.setReadOnly(false);
        main.setAutoCommit(true);
        said.add(rows(main, "select note, amount from entry order by id"));
        return said;
    }

    // SET SESSION CHARACTERISTICS and SET SESSION search_path: settings that the server does not report.
    static Object isolationAndSchema(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (Connection other = connect()) {
            other.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            other.setSchema("pg_catalog");
            for (Connection connection : List.of(main, other, main, other)) {
                said.add(one(connection, "show transaction_isolation") + " in " + connection.getSchema());
            }
        }
        said.add(one(main, "show transaction_isolation") + " in " + main.getSchema());
        return said;
    }

    static Object errorOfAPreparedStatement(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (PreparedStatement statement = main.prepareStatement("select 10 / ?")) {
            for (int divisor : new int[] {1, 0, 2, 0, 5, 0, 0, 1, 1, 0, 1}) {
                statement.setInt(1, divisor);
                said.add(fails(() -> rows(statement.executeQuery())));
            }
        }
        for (int time = 0; time < 7; time++) {
            said.add(fails(() -> one(main, "select no_such_column + ?", 1)));
        }
        return said;
    }

    static Object violations(Connection main) throws Exception {
        List<String> said = new ArrayList<>();
        String[][] attempts = {
            {"insert into account values (99, ?, 0)", "owner 3"},
            {"insert into account values (99, ?, 0)", null},
            {"insert into account values (99, ?, -1)", "new"},
            {"insert into entry (account_id, amount, note) values (999, 0, ?)", "x"},
            {"select ?::text::int", "twelve"},
            {"select say(?) frm account", "x"},
        };
        for (String[] attempt : attempts) {
            said.add(fails(() -> update(main, attempt[0], attempt[1])));
        }
        return String.join("\n  ", said);
    }

    static Object notices(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        for (String word : List.of("one", "žluť", "three")) {
            try (PreparedStatement statement = prepare(main, "select say(?)", word)) {
                said.add(rows(statement.executeQuery()));
                SQLWarning warning = statement.getWarnings();
                while (warning != null) {
                    said.add(warning.getSQLState() + " " + warning.getMessage());
                    warning = warning.getNextWarning();
                }
            }
        }
        return said;
    }

    static Object fetchSize(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        main.setAutoCommit(false);
        String series = "select n, repeat('x', n) from generate_series(1, ?) n";
        for (int time = 0; time < 7; time++) {
            try (PreparedStatement statement = prepare(main, series, 50)) {
                statement.setFetchSize(7);
                long sum = 0;
                ResultSet result = statement.executeQuery();
                while (result.next()) {
                    check(result.getString(2).length() == result.getInt(1), "a row's text");
                    sum += result.getInt(1);
                    if (result.getInt(1) % 20 == 0) {
                        // Other work between two fetches.
                        sum += (Integer) one(main, "select 1000 + ?", 1);
                    }
                }
                said.add(sum);
            }
        }
        try (PreparedStatement first = prepare(main, series, 20);
                PreparedStatement second = prepare(main, series, 30)) {
            first.setFetchSize(3);
            second.setFetchSize(4);
            ResultSet one = first.executeQuery();
            ResultSet two = second.executeQuery();
            int rows = 0;
            while (one.next() | two.next()) {
                rows++;
            }
            said.add(rows);
        }
        try (Statement statement = main.createStatement()) {
            statement.setFetchSize(2);
            String divide = "select 10 / (n - 5) from generate_series(1, 10) n";
            said.add(fails(() -> rows(statement.executeQuery(divide))));
        }
        main.rollback();
        try (PreparedStatement statement = prepare(main, series, 50)) {
            statement.setFetchSize(5);
            statement.setMaxRows(12);
            said.add(rows(statement.executeQuery()).size());
        }
        main.commit();
        main.setAutoCommit(true);
        return said;
    }

    static Object cursorsOfSql(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        main.setAutoCommit(false);
        run(main, "declare slow scroll cursor for select generate_series(1, 10)");
        said.add(rows(main, "fetch 3 from slow"));
        said.add(rows(main, "fetch backward 1 from slow"));
        said.add(rows(main, "fetch all from slow").size());
        main.commit();
        said.add(fails(() -> rows(main, "fetch 1 from slow")));
        main.rollback();
        main.setAutoCommit(true);
        return said;
    }

    static Object copy(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        CopyManager manager = main.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 1000; n++) {
            lines.append(n + ",\"a \"\"quoted\"\" ž " + n + "\"," + n / 4.0 + "\n");
        }
        String into = "copy copied (id, name, amount) from stdin (format csv)";
        said.add(manager.copyIn(into, new StringReader(lines.toString())));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        said.add(manager.copyOut("copy (select id, name from copied order by id) to stdout", out));
        said.add(out.toString(StandardCharsets.UTF_8).substring(0, 60));
        said.add(fails(() -> manager.copyIn("copy copied (id) from stdin", new StringReader("5000\nnot a number\n"))));
        CopyIn givenUp = manager.copyIn("copy copied (id) from stdin");
        givenUp.writeToCopy("200000\n".getBytes(StandardCharsets.UTF_8), 0, 7);
        givenUp.cancelCopy();
        // One who leaves in the middle of it takes nobody's server along.
        for (int time = 0; time < 3; time++) {
            try (Connection leaving = connect()) {
                CopyManager its = leaving.unwrap(PGConnection.class).getCopyAPI();
                CopyOut enough = its.copyOut("copy (select generate_series(1, 1000000)) to stdout");
                said.add(new String(enough.readFromCopy(), StandardCharsets.UTF_8).trim());
            }
        }
        said.add(one(main, "select count(*) from copied"));
        return said;
    }

    static Object batches(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        said.add(batch(main, "insert into entry (account_id, amount, note) values (3, ?, ?)", 300));
        try (Connection rewriting = connect("rewriting", "&reWriteBatchedInserts=true")) {
            said.add(batch(rewriting, "insert into entry (account_id, amount, note) values (4, ?, ?)", 300));
        }
        said.add(rows(main, "select account_id, count(*), sum(amount) from entry where account_id in (3, 4)"
            + " group by account_id order by account_id"));
        try (Statement statement = main.createStatement()) {
            for (int n = 0; n < 5; n++) {
                statement.addBatch("update account set balance = balance where id <= " + n);
            }
            said.add(Arrays.toString(statement.executeBatch()));
        }
        try (PreparedStatement statement = main.prepareStatement("insert into account values (?, ?, 0)")) {
            for (String owner : List.of("fifty", "owner 1", "fifty two")) {
                statement.setInt(1, 50 + said.size());
                statement.setString(2, owner);
                statement.addBatch();
                said.add(owner);
            }
            statement.executeBatch();
            said.add("no error");
        } catch (BatchUpdateException error) {
            said.add(Arrays.toString(error.getUpdateCounts()));
            said.add(told(error));
            said.add(told(error.getNextException()));
        }
        said.add(one(main, "select count(*) from account where id >= 50"));
        run(main, "delete from account where id >= 50");
        try (PreparedStatement statement = main.prepareStatement(
                "insert into entry (account_id, amount) values (5, ?)", Statement.RETURN_GENERATED_KEYS)) {
            for (int n = 0; n < 150; n++) {
                statement.setInt(1, n);
                statement.addBatch();
            }
            statement.executeBatch();
            said.add(rows(statement.getGeneratedKeys()).size());
        }
        return said;
    }

    static String batch(Connection connection, String sql, int count) throws SQLException {
        connection.setAutoCommit(false);
        Set<Integer> counts = new HashSet<>();
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int time = 0; time < 2; time++) {
                for (int n = 0; n < count; n++) {
                    statement.setInt(1, n);
                    statement.setString(2, "note " + n);
                    statement.addBatch();
                }
                for (int updated : statement.executeBatch()) {
                    counts.add(updated);
                }
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
        return "counts " + counts;
    }

    static Object severalStatementsAtOnce(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (Statement statement = main.createStatement()) {
            boolean isResult = statement.execute(
                "select 1; update account set balance = balance where id < 4; select 2, 'b'");
            while (isResult || statement.getUpdateCount() != -1) {
                said.add(isResult ? rows(statement.getResultSet()) : statement.getUpdateCount());
                isResult = statement.getMoreResults();
            }
        }
        said.add(fails(() -> {
            run(main, "insert into account values (60, 'sixty', 0); select 1 / 0");
            return "nothing";
        }));
        said.add(one(main, "select count(*) from account where id = 60"));
        return said;
    }

    static Object functionsAndProcedures(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        for (int time = 0; time < 7; time++) {
            try (CallableStatement call = main.prepareCall("{? = call say(?)}")) {
                call.registerOutParameter(1, Types.INTEGER);
                call.setString(2, "x".repeat(time));
                call.execute();
                said.add(call.getInt(1));
            }
            try (PreparedStatement call = prepare(main, "call pay(?, ?, ?)", 20, 1, new BigDecimal(1))) {
                call.execute();
            }
        }
        said.add(fails(() -> update(main, "call pay(?, ?, ?)", 2, 1, new BigDecimal(500))));
        said.add(one(main, "select balance from account where id = 20"));
        return said;
    }

    static Object updatableResult(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        int type = ResultSet.TYPE_SCROLL_INSENSITIVE;
        try (Statement statement = main.createStatement(type, ResultSet.CONCUR_UPDATABLE)) {
            String sql = "select id, owner, balance from account where id in (6, 7) order by 1";
            ResultSet result = statement.executeQuery(sql);
            result.absolute(2);
            result.updateString("owner", "seven");
            result.updateRow();
            result.previous();
            said.add(result.getString("owner"));
        }
        said.add(rows(main, "select owner from account where id in (6, 7) order by id"));
        return said;
    }

    static Object metadata(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (ResultSet tables = main.getMetaData().getTables(null, "public", "%", new String[] {"TABLE", "VIEW"})) {
            while (tables.next()) {
                said.add(tables.getString("TABLE_NAME") + "/" + tables.getString("TABLE_TYPE"));
            }
        }
        try (ResultSet columns = main.getMetaData().getColumns(null, "public", "entry", "%")) {
            while (columns.next()) {
                said.add(columns.getString("COLUMN_NAME") + " " + columns.getString("TYPE_NAME"));
            }
        }
        try (ResultSet keys = main.getMetaData().getImportedKeys(null, "public", "entry")) {
            while (keys.next()) {
                said.add(keys.getString("FK_NAME"));
            }
        }
        return said;
    }

    static Object largeValues(Connection main) throws Exception {
        String text = "žů".repeat(262_144);
        byte[] raw = SIMPLE ? null : new byte[1_048_576];
        for (int n = 0; raw != null && n < raw.length; n++) {
            raw[n] = (byte) n;
        }
        List<Object> row = rows(main, "select ?::text, ?::bytea", text, raw).get(0);
        check(text.equals(row.get(0)) && Arrays.equals(raw, (byte[]) row.get(1)), "the same came back");
        List<Object> said = new ArrayList<>();
        for (List<Object> big : rows(main, "select repeat('x', 3000000), generate_series(1, 3)")) {
            said.add(((String) big.get(0)).length());
        }
        return said;
    }

    static Object cancel(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        for (boolean inTransaction : new boolean[] {false, true}) {
            main.setAutoCommit(!inTransaction);
            try (PreparedStatement statement = prepare(main, "select pg_sleep(?), 'cancelled'", 600)) {
                ExecutorService thread = Executors.newSingleThreadExecutor();
                Future<String> outcome = thread.submit(() -> fails(() -> rows(statement.executeQuery())));
                waitUntilSleeps("'cancelled'");
                statement.cancel();
                said.add(outcome.get());
                thread.shutdown();
            }
            if (inTransaction) {
                said.add(fails(() -> one(main, "select 1")));
                main.rollback();
            }
            said.add(one(main, "select 42"));
        }
        main.commit();
        main.setAutoCommit(true);
        try (Statement statement = main.createStatement()) {
            // Long enough for the query to sleep when its time is up.
            statement.setQueryTimeout(2);
            said.add(fails(() -> rows(statement.executeQuery("select pg_sleep(600)"))));
            said.add(rows(statement.executeQuery("select 43")));
        }
        return said;
    }

    // The driver's large objects go by FunctionCall messages.
    static Object largeObjects(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        main.setAutoCommit(false);
        LargeObjectManager manager = main.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = manager.createLO();
        try (LargeObject object = manager.open(oid, LargeObjectManager.READWRITE)) {
            object.write(new byte[300_000]);
            object.seek(100_000);
            object.write("here".getBytes(StandardCharsets.UTF_8));
            object.seek(99_998);
            said.add(Arrays.toString(object.read(8)));
            said.add(object.size64());
        }
        main.commit();
        manager.delete(oid);
        main.commit();
        said.add(fails(() -> manager.open(0L, LargeObjectManager.READ)));
        main.rollback();
        main.setAutoCommit(true);
        said.add(one(main, "select count(*) from pg_largeobject"));
        return said;
    }

    static Object settings(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        String moment = "select '2024-07-01 12:00:00+00'::timestamptz::text, current_setting('application_name')";
        try (Connection other = connect("the other", "")) {
            run(main, "set TimeZone = 'America/New_York'");
            main.setClientInfo("ApplicationName", "renamed");
            for (int n = 0; n < 7; n++) {
                said.add(rows(main, moment));
                said.add(rows(other, moment));
            }
            other.setAutoCommit(false);
            run(other, "set TimeZone = 'Europe/Prague'");
            said.add(rows(other, moment));
            other.rollback();
            said.add(rows(other, moment));
            run(other, "set local TimeZone = 'Europe/Prague'");
            other.commit();
            said.add(rows(other, moment));
            other.commit();
            // The driver closes a connection whose DateStyle is not ISO: the report must reach it.
            said.add(fails(() -> {
                run(other, "set DateStyle = 'German'");
                return one(other, "select 1");
            }));
        }
        run(main, "set TimeZone = 'UTC'");
        main.setClientInfo("ApplicationName", "the exercise");
        return said;
    }

    static Object autosave(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (Connection other = connect("saving", "&autosave=always&cleanupSavepoints=true")) {
            other.setAutoCommit(false);
            for (int n = 0; n < 7; n++) {
                int divisor = n % 3;
                said.add(fails(() -> one(other, "select 10 / ?", divisor)));
            }
            update(other, "insert into entry (account_id, amount) values (8, ?)", 1);
            said.add(fails(() -> one(other, "select 1 / ?", 0)));
            other.commit();
            said.add(one(other, "select count(*) from entry where account_id = ?", 8));
        }
        return said;
    }

    // The driver prepares a `select *` once more when its result has changed: it can heal outside of a
    // transaction, and with autosave inside one.
    static Object aTableThatChanges(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        run(main, "create table changing (a int)");
        run(main, "insert into changing values (1)");
        try (Connection other = connect("changing", "&autosave=conservative")) {
            String select = "select * from changing where a = ?";
            for (Connection connection : List.of(main, other)) {
                for (int n = 0; n < 7; n++) {
                    one(connection, select, 1);
                }
                said.add(rows(connection, select, 1));
                run(connection, "alter table changing add b" + said.size() + " text default 'new'");
                connection.setAutoCommit(connection == main);
                said.add(fails(() -> rows(connection, select, 1)));
                said.add(fails(() -> rows(connection, select, 1)));
                if (connection == other) {
                    connection.commit();
                }
                said.add(fails(() -> rows(connection, select, 1)));
            }
        }
        run(main, "drop table changing");
        return said;
    }

    static Object deallocateAll(Connection main) throws Exception {
        List<Object> said = new ArrayList<>();
        try (Connection other = connect()) {
            for (int time = 0; time < 3; time++) {
                for (int n = 0; n < 7; n++) {
                    said.add(one(other, "select ? * 6", n));
                }
                run(other, time == 1 ? "discard plans" : "deallocate all");
            }
        }
        return said;
    }

    static Object connectionsInARow(Connection main) throws Exception {
        int total = 0;
        for (int n = 0; n < 20; n++) {
            try (Connection connection = connect("number " + n, "")) {
                total += (Integer) one(connection, "select ?", n);
                check(("number " + n).equals(one(connection, "show application_name")), "its name");
            }
        }
        return total;
    }

    // One of the crowd: its own connection, every answer checked. Returns the servers that it has seen. Some go
    // on for longer than others: where few are left, a server has nobody of its own any more.
    static Set<Object> member(int number, CountDownLatch everybody) throws Exception {
        Set<Object> backends = new HashSet<>();
        try (Connection connection = connect("member " + number, "")) {
            if (TOGETHER) {
                everybody.countDown();
                check(everybody.await(PATIENCE_SECONDS, TimeUnit.SECONDS), "everybody is connected");
            }
            for (int n = 0; n < 20 + 10 * number; n++) {
                int mine = number * 1000 + n;
                connection.setAutoCommit(false);
                // Held long enough for the others to have to wait.
                backends.add(one(connection, "select pg_backend_pid() from pg_sleep(0.003)"));
                check(Integer.valueOf(mine + 1).equals(one(connection, "select ? + 1", mine)), "one more");
                Object sum = one(connection, "select ? + " + n % 4, mine);
                check(Integer.valueOf(mine + n % 4).equals(sum), "a bit more");
                Object name = one(connection, "select current_setting('application_name')");
                check(("member " + number).equals(name), "its name");
                if (n % 7 == 3) {
                    var savepoint = connection.setSavepoint();
                    check(fails(() -> one(connection, "select 1 / ?", 0)).contains("division by zero"), "an error");
                    connection.rollback(savepoint);
                }
                connection.commit();
                connection.setAutoCommit(true);
                Object owner = one(connection, "select owner from account where id = ?", n % 5 + 1);
                check(("owner " + (n % 5 + 1)).equals(owner), "the owner");
            }
        }
        return backends;
    }

    static Object crowd(Connection main) throws Exception {
        CountDownLatch everybody = new CountDownLatch(CROWD);
        ExecutorService threads = Executors.newFixedThreadPool(CROWD);
        List<Callable<Set<Object>>> members = new ArrayList<>();
        for (int number = 0; number < CROWD; number++) {
            int own = number;
            members.add(() -> member(own, everybody));
        }
        Set<Object> backends = new HashSet<>();
        int wandered = 0;
        for (Future<Set<Object>> member : threads.invokeAll(members)) {
            backends.addAll(member.get());
            wandered += member.get().size() > 1 ? 1 : 0;
        }
        threads.shutdown();
        int seen = backends.size();
        System.out.println("# crowd: " + CROWD + " members, " + seen + " backends, " + wandered + " wandered");
        return CROWD + " members through";
    }

    static {
        STEPS.put("parameters", Jdbc::parameters);
        STEPS.put("date_style", Jdbc::dateStyle);
        STEPS.put("parameters_at_the_start", Jdbc::parametersAtTheStart);
        STEPS.put("types", Jdbc::types);
        STEPS.put("prepared_by_itself", Jdbc::preparedByItself);
        STEPS.put("more_statements_than_kept", Jdbc::moreStatementsThanKept);
        STEPS.put("described_first", Jdbc::describedFirst);
        STEPS.put("transactions", Jdbc::transactions);
        STEPS.put("isolation_and_schema", Jdbc::isolationAndSchema);
        STEPS.put("error_of_a_prepared_statement", Jdbc::errorOfAPreparedStatement);
        STEPS.put("violations", Jdbc::violations);
        STEPS.put("notices", Jdbc::notices);
        STEPS.put("fetch_size", Jdbc::fetchSize);
        STEPS.put("cursors_of_sql", Jdbc::cursorsOfSql);
        STEPS.put("copy", Jdbc::copy);
        STEPS.put("batches", Jdbc::batches);
        STEPS.put("several_statements_at_once", Jdbc::severalStatementsAtOnce);
        STEPS.put("functions_and_procedures", Jdbc::functionsAndProcedures);
        STEPS.put("updatable_result", Jdbc::updatableResult);
        STEPS.put("metadata", Jdbc::metadata);
        STEPS.put("large_values", Jdbc::largeValues);
        STEPS.put("cancel", Jdbc::cancel);
        STEPS.put("large_objects", Jdbc::largeObjects);
        STEPS.put("settings", Jdbc::settings);
        STEPS.put("autosave", Jdbc::autosave);
        STEPS.put("a_table_that_changes", Jdbc::aTableThatChanges);
        STEPS.put("deallocate_all", Jdbc::deallocateAll);
        STEPS.put("connections_in_a_row", Jdbc::connectionsInARow);
        STEPS.put("crowd", Jdbc::crowd);
    }

    public static void main(String[] arguments) throws Exception {
        url = "jdbc:postgresql://" + arguments[0] + ":" + arguments[1] + "/" + arguments[2] + "?sslmode=disable"
            + environment("EXERCISE_OPTIONS");
        user = arguments[3];
        System.setOut(new java.io.PrintStream(System.out, true, StandardCharsets.UTF_8));
        System.out.println("# " + org.postgresql.Driver.getVersion() + ", Java " + System.getProperty("java.version"));
        Connection main = connect();
        for (Map.Entry<String, Step> step : STEPS.entrySet()) {
            if (WITHOUT.contains(step.getKey())) {
                continue;
            }
            try {
                System.out.println("== " + step.getKey() + "\n" + step.getValue().run(main));
            } catch (Exception | AssertionError error) {
                System.out.println("== " + step.getKey() + "\nFAILED " + told(error));
                main.close();
                main = connect();
            }
        }
        main.close();
        System.out.println("== done");
        // Threads of a step that failed must not keep this process.
        System.exit(0);
    }
}
